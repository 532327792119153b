"""What is outside the clock is bounded: start-up and answering beyond what the start recipe needs are paid for.

Use: `reference(measurement)` of the start gives a `Reference`; `bill(budget, reference, train, sittings)` says how many
seconds of one run count although they lay before `ready`, or in the predictor. Where time is the score they are added
to it; elsewhere they count against the training budget, together with training (`over_budget`), because a network
that is trained before its data come, or while it is loaded, is trained none the less. Free are `start_factor` times
the start's own start-up, of each of the two processes, and `predict_factor` times its predictions. A run that was
forked from a process with the packages imported is billed as if it had paid for that import, and so is the start: what
is free stays what it is where every run starts an interpreter of its own. Limits: without a reference nothing is
billed; that is only so while the start itself is measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from lineage.environment_spec import Budget, EnvironmentSpec
from lineage.records import Finite, Measurement, Number, Record, RunFacts

TIMES = frozenset({"cpu_seconds", "wall_seconds"})
PARTS = (
    "train_start_cpu",
    "predict_start_cpu",
    "predict_cpu",
    "train_start_wall",
    "predict_start_wall",
    "predict_wall",
)
INHERITED = ("train_prepared_cpu", "predict_prepared_cpu", "train_prepared_wall", "predict_prepared_wall")


class Reference(Record):
    """Seconds that the start recipe needs outside training, means over its runs.

    `*_prepared_*`: of the import that its processes inherited; 0 where they imported by themselves.
    """

    train_start_cpu: Finite
    predict_start_cpu: Finite
    predict_cpu: Finite
    train_start_wall: Finite
    predict_start_wall: Finite
    predict_wall: Finite
    train_prepared_cpu: Finite = 0.0
    predict_prepared_cpu: Finite = 0.0
    train_prepared_wall: Finite = 0.0
    predict_prepared_wall: Finite = 0.0


class Bill(Record):
    """Seconds of one run beyond what is free, by clock: before `ready`, and in the predictor after it."""

    start_cpu: Finite = 0.0
    start_wall: Finite = 0.0
    predict_cpu: Finite = 0.0
    predict_wall: Finite = 0.0


def reference(start: Measurement | None) -> Reference | None:
    """What the start needed; None for a measurement that does not say (an older one, or one without a score)."""
    found = start.quantities if start is not None else {}
    names = {part: f"{part}_seconds" for part in PARTS}
    if any(name not in found for name in names.values()):
        return None
    inherited = {part: found.get(f"{part}_seconds", 0.0) for part in INHERITED}
    return Reference(**{part: found[name] for part, name in names.items()}, **inherited)


def start_seconds(train: RunFacts, sittings: Sequence[RunFacts]) -> dict[str, float]:
    """The quantities that a reference is made from, beside those of prediction."""
    inherited = {
        "train_prepared_cpu_seconds": train.prepared_cpu_s,
        "train_prepared_wall_seconds": train.prepared_wall_s,
        "predict_prepared_cpu_seconds": max(one.prepared_cpu_s for one in sittings),
        "predict_prepared_wall_seconds": max(one.prepared_wall_s for one in sittings),
    }
    return {
        "train_start_cpu_seconds": train.start_cpu_s,
        "train_start_wall_seconds": train.start_wall_s,
        "predict_start_cpu_seconds": max(one.start_cpu_s for one in sittings),
        "predict_start_wall_seconds": max(one.start_wall_s for one in sittings),
        **(inherited if train.prepared else {}),
    }


def bill(budget: Budget, known: Reference | None, train: RunFacts, sittings: Sequence[RunFacts]) -> Bill:
    """What one run owes."""
    if known is None:
        return Bill()
    factor = budget.start_factor

    def start(own: float, start_own: float, imported: float, start_imported: float) -> float:
        # one import is as good as another: of two servers the slower one's would be billed to the run
        paid = start_imported if imported and start_imported else imported
        return max(0.0, own + paid - factor * (start_own + start_imported))

    def answer(used: float, free: float) -> float:
        return max(0.0, used - budget.predict_factor * free)

    return Bill(
        start_cpu=start(
            train.start_cpu_s, known.train_start_cpu, train.prepared_cpu_s, known.train_prepared_cpu
        )
        + max(
            start(one.start_cpu_s, known.predict_start_cpu, one.prepared_cpu_s, known.predict_prepared_cpu)
            for one in sittings
        ),
        start_wall=start(
            train.start_wall_s, known.train_start_wall, train.prepared_wall_s, known.train_prepared_wall
        )
        + max(
            start(
                one.start_wall_s, known.predict_start_wall, one.prepared_wall_s, known.predict_prepared_wall
            )
            for one in sittings
        ),
        predict_cpu=answer(max(one.cpu_s for one in sittings), known.predict_cpu),
        predict_wall=answer(max(one.wall_s for one in sittings), known.predict_wall),
    )


def over_budget(spec: EnvironmentSpec, owed: Bill, train: RunFacts) -> dict[str, Number]:
    """Numbers of a run whose training and bill together exceed the training budget; empty when they do not.

    Where time is the score the bill is in the score, and this is always empty. On CPUs the wall clock depends on
    the neighbours, so there only CPU time counts.
    """
    if spec.score.metric in TIMES:
        return {}
    budget = spec.budget
    clocks = [("cpu_cap", train.cpu_s, owed.start_cpu, owed.predict_cpu, budget.train_cpu_s)]
    if spec.hardware != "cpu":
        clocks.append(("wall_cap", train.wall_s, owed.start_wall, owed.predict_wall, budget.train_wall_s))
    for cause, trained, start, answers, cap in clocks:
        total = trained + start + answers
        if start + answers > 0 and total > cap:
            return {
                "cause": cause,
                "train_s": trained,
                "start_beyond_s": start,
                "predict_beyond_s": answers,
                "counted_s": total,
                "cap_s": cap,
            }
    return {}


def sentence(numbers: dict[str, Number]) -> str:
    """What `over_budget` found, in words."""
    shown = {name: f"{float(numbers.get(name, 0.0)):.1f}" for name in numbers if name.endswith("_s")}
    return (
        f"training took {shown['train_s']} s, start-up {shown['start_beyond_s']} s and prediction "
        f"{shown['predict_beyond_s']} s beyond what the start recipe needs: {shown['counted_s']} s count against the "
        f"training budget of {float(numbers['cap_s']):g} s"
    )
