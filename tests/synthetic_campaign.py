"""A made-up campaign of any length, from a seed: for tests of what a person sees, never for a claim.

`campaign_rows(n)` -> (rows, blobs). Hypotheses, diffs and numbers have realistic lengths, all eleven
statuses occur, and one trial carries markup that must stay inert.
"""

from __future__ import annotations

import hashlib
import json
import random
from datetime import UTC, datetime, timedelta

from lineage.environment_spec import EnvironmentSpec
from lineage.records import Row, Status

START = datetime(2026, 3, 1, 22, 0, tzinfo=UTC)
INJECTION = "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"

SPEC = EnvironmentSpec.model_validate(
    {
        "name": "airbench_mini",
        "title": "Small images against the clock",
        "description": "CPU seconds of a training run that reaches 96 % accuracy on 8x8 digits.",
        "score": {"metric": "cpu_seconds", "direction": "min", "unit": "s", "digits": 3},
        "task": {"kind": "classification", "outputs": 10},
        "gates": [{"quantity": "accuracy", "at_least": 0.96, "on": "bound"}],
        "budget": {
            "train_cpu_s": 60,
            "train_wall_s": 240,
            "predict_cpu_s": 20,
            "predict_wall_s": 60,
            "memory_mb": 1024,
            "artifact_bytes": 4_000_000,
        },
        "evaluation": {"runs": 3, "confirm_runs": 6, "max_confirm_runs": 12, "calibrate_runs": 5},
        "surfaces": [
            {"name": n, "title": n, "units": {"model.py": ["*"]}}
            for n in ("arch", "optimizer", "augmentation", "loss", "regularisation")
        ],
    }
)
ROLES = ["arch", "optimizer", "augmentation", "loss", "regularisation"]
IDEAS = {
    "arch": [
        "Replace the second 3x3 convolution by a depthwise separable one: fewer multiplications at the same receptive field",
        "Narrow the last block from 96 to 64 channels; the head is the slowest layer in the profile",
    ],
    "optimizer": [
        "Raise the peak learning rate from 0.04 to 0.06 and shorten training from 14 to 11 epochs",
        "Nesterov momentum 0.85 instead of 0.9 so that a shorter schedule still settles",
    ],
    "augmentation": [
        "Translate by at most one pixel instead of two: digits are 8x8 and lose strokes",
        "Flip nothing, mix pairs with alpha 0.1 in the first third only",
    ],
    "loss": ["Label smoothing 0.2 to 0.1: sharper targets late in a short schedule"],
    "regularisation": ["Weight decay on convolutions only; batch-norm scales are left free"],
}
FAILURES = [
    (Status.CRASH, "crash", {"exception": "RuntimeError", "line": 84}),
    (Status.CRASH, "nan", {"step": 212}),
    (Status.CRASH, "oom", {"peak_mb": 1091, "limit_mb": 1024}),
    (Status.PREFLIGHT_CRASH, "syntax", {"line": 31}),
    (Status.PREFLIGHT_CRASH, "smoke", {"exception": "ValueError"}),
    (Status.SIZE_BLOCKED, "oversize", {"bytes": 4_211_040, "over": 211_040}),
    (Status.TRAIN_BUDGET_OVERRUN, "cpu_cap", {"cpu_s": 60.2, "limit_s": 60}),
    (Status.EVAL_BUDGET_OVERRUN, "wall_cap", {"wall_s": 60.4, "limit_s": 60}),
    (Status.DISQUALIFIED, "gate_missed", {"accuracy": 0.9541, "needed": 0.96, "short": 0.0059}),
    (Status.DISQUALIFIED, "illegal:labels_in_artifact", {}),
    (Status.REJECTED, "outside_surface", {"unit": "train.py:main"}),
    (Status.REJECTED, "duplicate", {"of": "t0003"}),
    (Status.REJECTED, "bad_edit", {"matches": 0}),
    (Status.HARNESS_ABORT, "infra:disk_full", {}),
]


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def detail(text: str, *, smoke: bool = True) -> str:
    checks = [{"name": n, "passed": True, "seconds": 0.01} for n in ("syntax", "surface", "size", "import")]
    checks.append({"name": "smoke", "passed": smoke, "seconds": 0.8})
    gates = [{"name": "accuracy", "passed": smoke, "numbers": {"bound": 0.9651, "at_least": 0.96}}]
    return json.dumps({"label": text, "checks": checks, "gates": gates if smoke else []})


def make_diff(rng: random.Random, number: int) -> str:
    line = rng.randint(10, 200)
    lines = [f"--- a/model.py\n+++ b/model.py\n@@ -{line},7 +{line},8 @@ class Net(nn.Module):"]
    for k in range(rng.randint(1, 6)):
        lines += [
            f"     def block{k}(self, x):",
            f"-        x = self.norm{k}(self.conv{k}(x))  # {rng.random():.4f}",
            f"+        x = self.norm{k}(self.conv{k}(x, groups={rng.choice([1, 2, 4, 8])}))",
            f"+        x = F.gelu(x)  # tried in {number}: {rng.random():.6f}",
            f"         return self.pool{k}(x) * {rng.random():.3f}",
        ]
    return "\n".join(lines) + "\n"


class _Campaign:
    def __init__(self, n: int, seed: int, money: bool) -> None:
        self.rng = random.Random(seed)
        self.money = money
        self.rows: list[Row] = []
        self.blobs: dict[str, bytes] = {}
        self.leader = self.incumbent = "t0000"
        self.scores = {"t0000": 3.1}
        self.keeps = ["t0000"]
        self.clock = START
        self.open(n)

    def blob(self, text: str) -> str:
        self.blobs[sha(text)] = text.encode()
        return sha(text)

    def common(self) -> dict[str, object]:
        return {
            "campaign": "c-synthetic",
            "environment": "airbench_mini",
            "arm": "specialists",
            "isolation": "medium",
            "machine": "linux-2cpu",
            "evaluator_sha256": sha("judge"),
            "environment_sha256": sha("env"),
            "bakeoff_version": "0.1.0",
        }

    def open(self, n: int) -> None:
        self.rows.append(Row(event="campaign", t_started=START, operator="start", **self.common()))
        base = [3.09, 3.12, 3.10, 3.08, 3.11]
        self.rows.append(
            Row(event="calibration", trial="t0000", score=3.1, scores=base, noise_sd=0.021, **self.common())
        )
        self.rows.append(
            Row(
                event="trial",
                trial="t0000",
                role="baseline",
                proposer="none",
                status=Status.BASELINE,
                score=3.1,
                scores=base,
                seeds=list(range(5)),
                noise_sd=0.021,
                stage="label",
                source_sha256=sha("base"),
                hypothesis="The recipe as shipped",
                t_started=START,
                t_finished=START + timedelta(seconds=40),
                train_s=15.0,
                evaluate_s=2.0,
                train_cpu_s=14.2,
                evaluate_cpu_s=1.9,
                quantities_json='{"accuracy": 0.9701, "cpu_seconds": 3.1}',
                **self.common(),
            )
        )
        for i in range(1, n):
            self.trial(i)
        end = Row(
            event="campaign",
            t_started=self.clock,
            operator="end",
            notes=f"all {n} trials are done",
            **self.common(),
        )
        self.rows.append(end)

    def trial(self, i: int) -> None:
        rng, tid = self.rng, f"t{i:04d}"
        role = rng.choice(ROLES)
        parent = rng.choice(self.keeps[-4:]) if rng.random() < 0.35 else self.leader
        hypothesis = rng.choice(IDEAS[role]) + f" (variant {rng.randint(1, 99)}, from {parent})"
        if i == 7:
            hypothesis = INJECTION + " hypothesis with markup"
        self.clock += timedelta(seconds=rng.uniform(8, 30))
        usd = round(rng.uniform(0.004, 0.05), 5) if self.money else 0.0
        shared: dict[str, object] = {
            **self.common(),
            "event": "trial",
            "trial": tid,
            "role": role,
            "proposer": "catalogue",
            "parent": parent,
            "incumbent": self.incumbent,
            "hypothesis": hypothesis,
            "edit_kind": rng.choice(["numeric", "technique"]),
            "operator": rng.choice(["mutate", "crossover", "fresh"]),
            "expected_delta": round(-abs(rng.gauss(0.05, 0.04)), 4),
            "notes": "Chosen because the last three of this kind helped. " * rng.randint(0, 4),
            "t_started": self.clock,
            "t_finished": self.clock + timedelta(seconds=25),
            "propose_s": rng.uniform(0.05, 2),
            "patch_s": rng.uniform(0.01, 0.09),
            "diff_sha256": self.blob(make_diff(rng, i)),
            "usd": usd,
            "tokens_in": 900 * self.money,
            "tokens_cache_read": 21_000 * self.money,
            "tokens_out": 700 * self.money,
            "prompt_sha256": sha("p" + tid),
            "exchange_sha256": sha("x" + tid),
            "source_sha256": sha("s" + tid),
            "ast_sha256": sha("a" + tid),
            "engine_cpu_s": rng.uniform(0.05, 0.14),
            "queue_s": rng.uniform(0, 3),
        }
        if rng.random() < 0.4:
            self.fail(shared)
        else:
            self.measured(shared, tid, parent)

    def fail(self, shared: dict[str, object]) -> None:
        rng = self.rng
        status, cause, numbers = rng.choice(FAILURES)
        late = status not in (Status.REJECTED, Status.PREFLIGHT_CRASH)
        self.rows.append(
            Row(
                status=status,
                cause=cause,
                numbers_json=json.dumps(numbers),
                stage="train" if late else "build",
                error_excerpt='Traceback (most recent call last):\n  File "train.py", line 84, in train\n    loss.backward()\n'
                "RuntimeError: mat1 and mat2 shapes cannot be multiplied (128x96 and 64x10)\n",
                detail_json=detail(f"{cause}: {json.dumps(numbers)}", smoke=cause != "smoke"),
                build_s=rng.uniform(0.3, 2),
                train_s=rng.uniform(3, 20) if late else None,
                train_cpu_s=rng.uniform(3, 20) if late else None,
                peak_bytes=rng.randint(10**8, 10**9) if late else None,
                **shared,
            )
        )

    def measured(self, shared: dict[str, object], tid: str, parent: str) -> None:
        rng = self.rng
        score = max(0.9, self.scores[parent] * (1 + rng.gauss(0.045, 0.05)))
        score = round(score + rng.gauss(0, 0.012), 4)
        scores = [round(score + rng.gauss(0, 0.02), 4) for _ in range(3)]
        best = self.scores[self.leader]
        keep = score < best
        accuracy = round(rng.uniform(0.961, 0.975), 4)
        self.scores[tid] = score
        self.rows.append(
            Row(
                status=Status.KEEP if keep else Status.DISCARD,
                stage="label",
                score=score,
                scores=scores,
                seeds=[rng.randint(1, 2**31) for _ in range(3)],
                delta_parent=round(score - self.scores[parent], 4),
                delta_best=round(score - best, 4),
                noise_sd=0.021,
                gate_ok=True,
                quantities_json=json.dumps({"accuracy": accuracy, "cpu_seconds": score}),
                detail_json=detail(
                    "better than the leader; not yet confirmed" if keep else "not better than the leader"
                ),
                build_s=rng.uniform(0.3, 2),
                train_s=rng.uniform(6, 18),
                evaluate_s=rng.uniform(0.6, 2),
                label_s=0.01,
                train_cpu_s=rng.uniform(6, 18),
                evaluate_cpu_s=1.1,
                build_cpu_s=0.4,
                artifact_bytes=rng.randint(10**5, 10**6),
                source_bytes=26_000,
                peak_bytes=rng.randint(10**8, 9 * 10**8),
                **shared,
            )
        )
        if keep:
            self.keeps.append(tid)
            self.leader = tid
            self.confirm(tid, score)

    def confirm(self, tid: str, score: float) -> None:
        reference = self.scores[self.incumbent]
        real = self.rng.random() < 0.7
        again = [round(score * 1.006 + self.rng.gauss(0, 0.02), 4) for _ in range(6)]
        theirs = [round(reference * 1.003 + self.rng.gauss(0, 0.02), 4) for _ in range(6)]
        gain = (sum(theirs) - sum(again)) / 6
        self.rows.append(
            Row(
                event="confirmation",
                trial=tid,
                verdict="confirmed" if real else "unconfirmed",
                p_value=self.rng.uniform(0.0004, 0.02) if real else self.rng.uniform(0.1, 0.7),
                alpha_spent=0.004,
                gain=gain,
                gain_low=gain - 0.02,
                gain_high=gain + 0.02,
                score=sum(again) / 6,
                scores=again,
                incumbent=self.incumbent,
                detail_json=json.dumps({"reason": "" if real else "not_shown", "incumbent_scores": theirs}),
                **self.common(),
            )
        )
        if not real:
            self.leader = self.incumbent
            return
        self.incumbent = tid
        self.rows.append(
            Row(
                event="sealed",
                trial=tid,
                sealed_score=round(score * 1.004, 4),
                public_score=score,
                **self.common(),
            )
        )


def campaign_rows(n: int, seed: int = 7, *, money: bool = True) -> tuple[list[Row], dict[str, bytes]]:
    made = _Campaign(n, seed, money)
    return made.rows, made.blobs
