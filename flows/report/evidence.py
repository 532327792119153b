"""A trial's evidence in the words of a commit and of a pull request.

Use: `commit_message(...)` and `pull_request(...)` from a trial's row, the campaign's digest and the measurement that it
was judged by. Every figure is derived from lineage. Hypotheses are candidate text: shown on one line, as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flows.report import formatting as w
from flows.report.campaign_digest import Digest
from lineage.environment_spec import EnvironmentSpec
from lineage.records import Measurement, Row
from lineage.safe_text import for_markdown, one_line, redact

LISTED = 12


@dataclass(frozen=True)
class Evidence:
    """Everything that is said about one trial. `steps`: the trials from the start to it, itself last."""

    spec: EnvironmentSpec
    digest: Digest
    row: Row
    steps: Sequence[Row]
    measurement: Measurement | None
    run: str
    note: str = ""

    @property
    def gain(self) -> float | None:
        base = self.digest.baseline.score if self.digest.baseline else None
        return w.relative(self.spec, self.digest.score_of(self.row), base)


def _hypothesis(row: Row, width: int) -> str:
    return redact(one_line(row.hypothesis or "", width))


def commit_message(evidence: Evidence) -> str:
    """Subject, hypothesis of each step, figures, and trailers that name the record."""
    row = evidence.row
    gain = f", {w.better_or_worse(evidence.gain)}" if evidence.gain is not None else ""
    subject = one_line(_hypothesis(row, 200) or f"{evidence.spec.name}: trial {row.trial}", 72)
    steps = [f"- {step.trial} ({step.role}): {_hypothesis(step, 240)}" for step in evidence.steps[-LISTED:]]
    lines = [
        subject,
        "",
        f"Found by {evidence.digest.campaign}, trial {row.trial}: {w.outcome(row)}{gain}.",
        "",
        *(steps if len(steps) > 1 else [_hypothesis(row, 1000)]),
        "",
        *(f"{name}: {value}" for name, value in rows(evidence) if value),
        *(["", evidence.note] if evidence.note else []),
        "",
        f"Bakeoff-Trial: {evidence.digest.campaign}/{row.trial}",
        f"Bakeoff-Source: {row.source_sha256}",
    ]
    return "\n".join(lines) + "\n"


def rows(evidence: Evidence) -> list[tuple[str, str]]:
    """(name, value) of the table of evidence; an empty value is not known."""
    spec, d, row = evidence.spec, evidence.digest, evidence.row
    base, fresh = d.baseline, d.fresh.get(evidence.row.trial or "")
    sealed = d.sealed.get(row.trial or "")
    before = w.score_text(spec, base.score) if base is not None else ""
    if base is not None and len(base.scores) > 1:
        before += f" ({w.count(len(base.scores), 'run')})"
    after = w.score_text(spec, d.score_of(row))
    after += " on fresh seeds" if row.trial in d.means else " when first measured, not confirmed"
    return [
        (f"{spec.score.metric} before", before),
        (f"{spec.score.metric} after", after),
        ("difference", w.better_or_worse(evidence.gain) if evidence.gain is not None else ""),
        ("interval", _interval(spec, fresh)),
        ("confirmation", w.verdict_text(fresh) if fresh is not None else "none yet"),
        ("sealed split", w.sealed_gain(sealed) if sealed is not None else ""),
        ("doubt", w.contradiction(sealed) if sealed is not None else ""),
        ("seeds", ", ".join(map(str, row.seeds[:LISTED])) + (" ..." if len(row.seeds) > LISTED else "")),
        ("gates", _gates(evidence.measurement)),
        ("isolation", row.isolation or ""),
        ("trust", spec.trust),
    ]


def _interval(spec: EnvironmentSpec, fresh: Row | None) -> str:
    if fresh is None or fresh.gain is None or fresh.gain_low is None or fresh.gain_high is None:
        return ""
    low, high = (w.number(end, spec.score.digits) for end in (fresh.gain_low, fresh.gain_high))
    against = f" against {fresh.incumbent}" if fresh.incumbent else ""
    return f"gain {w.number(fresh.gain, spec.score.digits)} ({low} to {high}){against}"


def _gates(measurement: Measurement | None) -> str:
    checks = [*measurement.gates, *measurement.audits] if measurement is not None else []
    return "; ".join(f"{'pass' if c.passed else 'FAIL'} {c.name}: {one_line(c.detail, 160)}" for c in checks)


def pull_request(evidence: Evidence) -> str:
    """Markdown: what was changed and why, the table of evidence, and how to check it."""
    row = evidence.row
    body = [f"| {name} | {for_markdown(value, 600)} |" for name, value in rows(evidence) if value]
    steps = [
        f"- `{step.trial}` ({step.role}): {for_markdown(redact(step.hypothesis or ''), 400)}"
        for step in evidence.steps[-LISTED:]
    ]
    return "\n".join(
        [
            f"## {evidence.spec.title}: {row.trial}",
            "",
            *steps,
            "",
            "| | |",
            "|---|---|",
            *body,
            "",
            *([evidence.note, ""] if evidence.note else []),
            "Check it:",
            "",
            "```console",
            f"$ bakeoff replay {evidence.run} {row.trial}      # runs it again with the same seeds",
            f"$ bakeoff verify {evidence.run}",
            f"$ bakeoff diff {evidence.run} {row.trial} --whole",
            "```",
            "",
            f"Program {row.source_sha256}, judge {row.evaluator_sha256}, environment {row.environment_sha256}.",
            "",
        ]
    )
