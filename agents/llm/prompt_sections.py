"""The sections of a prompt that come from lineage, each within its own budget.

Every function takes the view and gives one Markdown section; none reads a clock, a seed or a file,
so the same lineage gives the same bytes. Rows of infrastructure faults and stopped trials are left
out: they are no failed ideas. Sealed scores are never read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from agents.llm.prompt_sizes import clipped, listed
from agents.llm.trial_text import (
    FAILED,
    changes_text,
    is_ours,
    numbers_of,
    numbers_text,
    score_text,
    trial_line,
)
from agents.roles import GENERALIST, is_generalist
from lineage.environment_spec import EnvironmentSpec, Role
from lineage.queries import HitRate, View
from lineage.records import Row, Status
from lineage.safe_text import for_prompt, for_terminal, shortened, word

OWN_ROWS, OWN_SCAN, NEIGHBOUR_ROWS, FAILURE_ROWS, REACH_SCAN, RECENT_ROWS, CHAIN_ROWS = 9, 90, 8, 9, 80, 10, 7
SATURATED_AFTER = 5
# How near a failure must be to count as within reach: share of the cap, share of the gate's limit.
NEAR_BYTES, NEAR_GATE = 0.05, 0.02
LINE_LIMIT = 480


@dataclass(frozen=True)
class Scene:
    """What all sections share."""

    view: View
    spec: EnvironmentSpec
    role: Role
    files: bool = False  # the reader has the lineage as files, and no tools

    @cached_property
    def by_role(self) -> list[HitRate]:
        return self.view.hit_rates("role")

    def own(self, n: int) -> list[Row]:
        """The role's last n rows, newest first. All generalists are one role."""
        rows = self.view.recent(n) if is_generalist(self.role.name) else self.view.by_role(self.role.name, n)
        return [r for r in reversed(rows) if not is_ours(r) and r.status is not Status.BASELINE]

    def line(self, row: Row, limit: int = LINE_LIMIT) -> str:
        return trial_line(self.spec, row, limit, self.view.quoted)


def display_name(role: Role) -> str:
    """A generalist's number is left out, so that generic and single see the same bytes."""
    return GENERALIST if is_generalist(role.name) else role.name


# ---- where we are ------------------------------------------------------------------------------


def parent_choice(view: View) -> tuple[Row | None, str]:
    """The trial whose source the session starts from, and why."""
    leader, incumbent = view.row_of_leader(), view.row_of_incumbent()
    if leader is None:
        return incumbent, "nothing is measured yet, so you start from the recipe as it was given"
    if leader.status is Status.BASELINE:
        return leader, "it is the start: no trial has beaten it yet"
    if leader.verdict == "confirmed":
        return leader, "it is the best trial, and fresh seeds confirmed it"
    best = word(incumbent.trial) if incumbent and incumbent.trial else "the start"
    return (
        leader,
        f"it is the best single measurement so far, not confirmed yet (the confirmed best is {best})",
    )


def now(scene: Scene, budget: int, lineage: bool) -> str:
    """Scores to beat, noise, the parent and what it leaves unused."""
    spec, view = scene.spec, scene.view
    parent, why = parent_choice(view)
    baseline = view.baseline()
    better = "lower" if spec.score.direction == "min" else "higher"
    lines = [
        f"You are the {display_name(scene.role)} specialist. Score: {spec.score.metric}, {better} is better."
    ]
    if baseline is not None and baseline.score is not None:
        noise = "" if baseline.noise_sd is None else f", sd over single runs {baseline.noise_sd:.4g}"
        lines.append(f"The start scored {score_text(spec, baseline.score)}{noise}.")
    least = spec.evaluation.min_gain
    if least:
        lines.append(f"A gain counts from {least:.3g} of the score ({100 * least:.3g} %).")
    if parent is not None:
        lines.append(
            f"Your scratch copy is trial {word(parent.trial)}, "
            f"{score_text(spec, view.quoted(parent.trial or ''))}: {why}."
        )
        room = numbers_text(numbers_of(parent), 420, all_of_them=False)
        if lineage and room:
            lines.append(f"What it leaves unused or misses: {room}.")
    else:
        lines.append(f"Your scratch copy is the recipe as given: {why}.")
    if lineage:
        rates = scene.by_role
        tried, keeps = sum(r.n for r in rates), sum(r.keeps for r in rates)
        valid = sum(r.valid for r in rates)
        lines.append(
            f"So far {tried} trials: {keeps} better than the best of their time, "
            f"{valid - keeps} valid and not better, {tried - valid} failed."
        )
        # a role's own open trial is the one being proposed; copies of a generalist are one role
        others = [] if is_generalist(scene.role.name) else view.open_trials()
        busy = [f"{word(r.role)} on {word(r.trial)}" for r in others if r.role and r.role != scene.role.name]
        if busy:
            lines.append(f"Other roles at work right now: {', '.join(busy[:12])}.")
    return clipped("\n".join(["## Now", *lines]), budget)


def steering(text: str, budget: int) -> str:
    """What the person who runs the campaign asked for; bounded and stripped, but their word."""
    clean = for_terminal(text).strip()
    body = shortened(clean, budget - 80) if clean else "none"
    return clipped(f"## Word from the person running this campaign\n{body}", budget)


def chain(scene: Scene, budget: int) -> str:
    """From the parent back towards the start: what has worked. The start is always there."""
    parent, _ = parent_choice(scene.view)
    rows = [] if parent is None else [parent]
    while rows and len(rows) < CHAIN_ROWS and rows[-1].parent and rows[-1].parent != rows[-1].trial:
        before = scene.view.trial(rows[-1].parent)
        if before is None:
            break
        rows.append(before)
    start = scene.view.baseline()
    cut = bool(rows) and rows[-1].status is not Status.BASELINE and start is not None
    lines = [scene.line(row, 330) for row in rows]
    if cut and start is not None:
        lines.append(f"earlier steps back to the start: {scene.line(start, 160)}")
    return listed("How the parent came about (newest step first)", lines, budget)


# ---- lessons -----------------------------------------------------------------------------------


def _distance(scene: Scene, row: Row, leader: float | None) -> float | None:
    """How far a failure is from being legal, as a share of its limit; None when it is not near."""
    numbers = numbers_of(row)
    over, cap = numbers.get("bytes_over"), numbers.get("cap_bytes")
    if isinstance(over, int | float) and isinstance(cap, int | float) and cap > 0:
        return over / cap if over / cap <= NEAR_BYTES else None
    short, limit = numbers.get("short_by"), numbers.get("gate_limit")
    if isinstance(short, int | float) and isinstance(limit, int | float) and limit:
        return abs(short / limit) if abs(short / limit) <= NEAR_GATE else None
    if row.score is not None and leader is not None and scene.spec.sign * (row.score - leader) > 0:
        return 0.0
    return None


def reach(scene: Scene, budget: int) -> str:
    """Failures that a small concession would make legal, nearest first."""
    leader = scene.view.ranking.leader()
    best = leader[1] if leader else None
    near: list[tuple[float, int, Row]] = []
    for age, row in enumerate(reversed(scene.view.failures(None, REACH_SCAN))):
        gap = None if is_ours(row) else _distance(scene, row, best)
        if gap is not None:
            near.append((gap, age, row))
    near.sort(key=lambda item: item[:2])
    lines = [scene.line(row, 440) for _, _, row in near[:6]]
    how = "the diff of each is in LINEAGE/" if scene.files else "choose_parent starts from one"
    title = f"Within reach: failed by little, worth a repair ({how})"
    return listed(title, lines, budget, of=len(near), none="nothing failed by little lately")


def own(scene: Scene, budget: int) -> str:
    rows = scene.own(OWN_ROWS)
    title = f"Last trials of {display_name(scene.role)} (newest first)"
    return listed(title, [scene.line(row) for row in rows], budget)


def neighbours(scene: Scene, budget: int) -> str:
    """What worked for others. A generalist has no other role: its list is the best of all."""
    rows = scene.view.neighbours("" if is_generalist(scene.role.name) else scene.role.name, NEIGHBOUR_ROWS)
    return listed("Best of the other roles (best first)", [scene.line(row) for row in rows], budget)


def failures(scene: Scene, budget: int) -> str:
    """Counts by label, then the newest failures, the role's own first, with numbers and log excerpts."""
    counts = [
        f"{status}{':' + word(cause) if cause else ''} {n}"
        for (status, cause), n in scene.view.failure_counts().items()
        if status != Status.HARNESS_ABORT and cause != "abandoned"
    ]
    mine = [] if is_generalist(scene.role.name) else scene.view.failures(scene.role.name, FAILURE_ROWS)
    own_ids = {row.trial for row in mine}
    others = [r for r in scene.view.failures(None, 3 * FAILURE_ROWS) if r.trial not in own_ids][
        -FAILURE_ROWS:
    ]
    above = {row.trial for row in scene.own(OWN_ROWS)}
    lines = [f"counts: {', '.join(counts[:12])}"] if counts else []
    for row in [*reversed(mine), *reversed(others)]:
        if is_ours(row):
            continue
        if row.trial not in above:
            lines.append(scene.line(row, 420))
        if row.error_excerpt and (row.trial in own_ids or row.trial in above):
            lines.append(f"log of {word(row.trial)}: {for_prompt(row.error_excerpt[-600:], 340)}")
    title = "Failures with their numbers (yours first, newest first; those listed above are not repeated)"
    return listed(title, lines, budget)


def tried(scene: Scene, budget: int) -> str:
    """Older ideas of this role that did not work, one short line each; repeats are counted once."""
    groups: dict[str, tuple[str, int]] = {}
    for row in scene.own(OWN_SCAN)[OWN_ROWS:]:
        if row.status in FAILED or row.status is Status.DISCARD:
            idea = " ".join(for_terminal(row.hypothesis or "", newlines=False).lower().split())[:100]
            changes = changes_text(scene.spec, row, scene.view.quoted)[:1] if row.score is not None else []
            outcome = "".join(changes) or word(f"{row.status}:{row.cause}")
            line = f"{word(row.trial)} {outcome}; {for_prompt(row.hypothesis or '', 130)}"
            first, count = groups.get(idea, (line, 0))
            groups[idea] = (first, count + 1)
    lines = [line + (f" (x{count})" if count > 1 else "") for line, count in groups.values()]
    title = "Tried before without success (do not repeat; vary or combine)"
    return listed(title, lines, budget, none="nothing older than the rows above")


def _rate(rate: HitRate, spec: EnvironmentSpec) -> str:
    gain = "" if rate.mean_gain is None else f", mean gain on parent {rate.mean_gain:+.{spec.score.digits}f}"
    return f"{word(rate.key, 32)} {rate.keeps}/{rate.n} kept, {rate.failed} failed{gain}"


def rates(scene: Scene, budget: int) -> str:
    """Hit rates: who and what kind of edit has paid off. Gains count towards the better side."""
    lines = []
    for by, title in (("role", "by role"), ("edit_kind", "by kind of edit"), ("operator", "by operator")):
        found = (scene.by_role if by == "role" else scene.view.hit_rates(by))[:8]
        if found:
            lines.append(f"{title}: " + "; ".join(_rate(r, scene.spec) for r in found))
    fitting = [shortened(line, 620) for line in lines]
    return listed("Hit rates", fitting, budget)


def recent(scene: Scene, budget: int) -> str:
    """The newest rows of any role, shortest form."""
    rows = [r for r in reversed(scene.view.recent(RECENT_ROWS + 4)) if not is_ours(r)][:RECENT_ROWS]
    return listed("Newest trials of all roles (newest first)", [scene.line(r, 250) for r in rows], budget)


def saturation(scene: Scene, budget: int) -> str:
    """A notice when the role's last trials moved nothing; otherwise a line that there is none."""
    rows = scene.own(SATURATED_AFTER)
    baseline = scene.view.baseline()
    noise = ((baseline.noise_sd if baseline else None) or 0.0) / scene.spec.evaluation.runs**0.5
    flat = [r for r in rows if _moved_nothing(scene, r, noise)]
    body = "No notice: your last trials still move the score."
    if len(rows) < SATURATED_AFTER:
        body = "No notice: you have few trials so far."
    elif len(flat) == len(rows):
        body = (
            f"Your last {len(rows)} trials brought no gain above the noise. Small changes of the same thing are "
            "used up: propose something structurally different, remove something, or build on another role's keep."
        )
    return clipped(f"## Saturation\n{body}", budget)


def _moved_nothing(scene: Scene, row: Row, noise: float) -> bool:
    if row.status is Status.KEEP:
        return False
    return row.score is None or scene.spec.sign * (row.delta_parent or 0.0) <= 2 * noise


SECTIONS = {
    "chain": chain,
    "reach": reach,
    "own": own,
    "neighbours": neighbours,
    "failures": failures,
    "tried": tried,
    "rates": rates,
    "recent": recent,
    "saturation": saturation,
}
