"""What an agent says of its own run: dollars, tokens, turns, last words; and what a failed run means.

`Reader(report)` is fed output lines while the agent runs (`feed`), so that a cap can end it in the middle; `said` is the
account so far. Nothing in the output can raise. Figures are the agent's own word: where it gives none they are unknown.
`is_outage(...)` tells a login error, a usage limit or a network fault from a run that simply failed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agents.command.preset import Report, ReportRule
from agents.edits.text_protocol import finite
from lineage.records import Usage

LINE_LIMIT = 4_000_000
MOST_TOKENS, MOST_USD = 10**12, 1e6  # above these a figure is garbage
_FIGURES = ("usd", "tokens_in", "tokens_out", "tokens_cache_read", "tokens_cache_write", "turns")
_OUTAGE = re.compile(
    r"usage limit|rate.?limit|too many requests|quota|overloaded|temporarily unavailable|service unavailable"
    r"|bad gateway|gateway time-?out|connection (?:error|refused|reset)|ECONN\w+|ENOTFOUND|EAI_AGAIN|ETIMEDOUT"
    r"|fetch failed|network error|unable to connect|not logged in|log ?in (?:again|first|required)|/login"
    r"|authentication|unauthori[sz]ed|invalid (?:api )?key|api key (?:is )?(?:missing|invalid|not)|credit balance"
    r"|(?:status|error|http)\D{0,12}(?:401|402|403|429|5\d\d)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Said:
    """`usage.usd` is 0 where dollars are unknown; `cost` and `tokens` say whether the agent reported them."""

    usage: Usage = field(default_factory=Usage)
    cost: bool = False
    tokens: bool = False
    turns: int | None = None
    message: str = ""
    model: str = ""
    error: str = ""


class Reader:
    """Reads output line by line; for one JSON document, and for plain text, when it is closed."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._seen: set[str] = set()
        self._sums: dict[str, float] = {}
        self._final: dict[str, float] = {}
        self._said = Said()

    def feed(self, line: str) -> bool:
        """One line of output; True when the account has changed."""
        if self._report.format != "lines" or not line.lstrip().startswith("{") or len(line) > LINE_LIMIT:
            return False
        found = _json(line)
        return found is not None and self._object(found)

    def close(self, text: str) -> Said:
        """The end of the output, which is `text` as far as it was kept."""
        if self._report.format == "text":
            self._said = replace(self._said, message=text.strip())
        elif self._report.format == "json":
            found = _json(text[text.find("{") :]) if "{" in text else None
            if found is not None:
                self._object(found)
        return self.said

    @property
    def said(self) -> Said:
        figures = {**self._sums, **self._final}
        cached = figures.get("tokens_cache_read", 0.0) if self._report.cached_in_input else 0.0
        tokens = {
            name: int(figures.get(name, 0))
            for name in ("tokens_in", "tokens_out", "tokens_cache_read", "tokens_cache_write")
        }
        tokens["tokens_in"] = max(0, tokens["tokens_in"] - int(cached))
        turns = figures.get("turns")
        known = "usd" in figures
        usage = Usage(
            calls=int(turns or 1),
            usd=figures.get("usd", 0.0),
            price_table="the agent's own report" if known else "unknown",
            **tokens,
        )
        counted = any(name in figures for name in tokens)
        return replace(
            self._said, usage=usage, cost=known, tokens=counted, turns=None if turns is None else int(turns)
        )

    # ---- one object ----------------------------------------------------------------------------

    def _object(self, found: dict[str, Any]) -> bool:
        changed = False
        for rule in self._report.each:
            changed |= _matches(rule, found) and self._apply(rule, found, self._sums, add=True)
        for rule in self._report.final:
            changed |= _matches(rule, found) and self._apply(rule, found, self._final, add=False)
        return changed

    def _apply(self, rule: ReportRule, found: dict[str, Any], into: dict[str, float], add: bool) -> bool:
        self._texts(rule, found)
        if rule.once:
            identity = str(next(_values(found, rule.once), ""))[:200]
            if identity in self._seen:
                return False
            self._seen.add(identity)
        changed = False
        for name in _FIGURES:
            figure = _figure(found, getattr(rule, name), MOST_USD if name == "usd" else MOST_TOKENS)
            if figure is not None:
                into[name] = into.get(name, 0.0) + figure if add else figure
                changed = True
        return changed

    def _texts(self, rule: ReportRule, found: dict[str, Any]) -> None:
        def text(path: str) -> str:
            value = next(_values(found, path), "")
            return value.strip() if isinstance(value, str) else ""

        said = self._said
        said = replace(said, message=text(rule.message) or said.message, model=text(rule.model) or said.model)
        problem = next(_values(found, rule.error), None)
        if problem:
            words = problem if isinstance(problem, str) else json.dumps(problem)[:2000]
            said = replace(said, error=(said.message or "it reports a failure") if problem is True else words)
        self._said = said


def _json(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _values(found: object, path: str) -> Iterator[object]:
    """Every value at a path; `*` is each value of a table."""
    here = [found] if path else []
    for part in path.split(".") if path else ():
        below: list[object] = []
        for value in here:
            if isinstance(value, dict):
                below += list(value.values()) if part == "*" else [value[part]] if part in value else []
        here = below
    yield from here


def _figure(found: dict[str, Any], path: str, most: float) -> float | None:
    values = [value for part in path.split(" + ") for value in _values(found, part)]
    numbers = [finite(value) for value in values if not isinstance(value, str)]
    good = [number for number in numbers if number is not None and 0 <= number <= most]
    return sum(good) if good else None


def _matches(rule: ReportRule, found: dict[str, Any]) -> bool:
    return all(next(_values(found, path), None) == wanted for path, wanted in rule.match.items())


def is_outage(texts: Sequence[str], patterns: Sequence[str]) -> str:
    """The line that says that the agent could not work: a login, a limit, the network. Empty where none does."""
    own = (
        re.compile("|".join(re.escape(pattern) for pattern in patterns), re.IGNORECASE) if patterns else None
    )
    for text in texts:
        for line in text[-20_000:].split("\n"):
            if _OUTAGE.search(line) or (own is not None and own.search(line)):
                return line.strip()
    return ""
