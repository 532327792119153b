"""`bakeoff compare`: the same recipe under several arms at equal budget, each cell a campaign of its own in one store.

Use: `cells = plan_cells(root, settings, arms, repeats)`, `run_cells(root, cells, ...)`, `read_comparison(root)`.
A cell is an ordinary campaign (`bakeoff resume DIR --campaign ID` runs it) whose configuration says which arm
and repeat it is. Repeat by repeat, and within a repeat in an order that rotates, so that drift of
the machine affects every arm alike. The campaigns of a repeat share the start's source and the secret that
seeds are drawn with: their starts are measured with the same seeds, and so is a program that two of them find.
Limits: one cell at a time, each in a process of its own; nothing is stored but the campaigns, so the same
command continues where it ended, and the table can be made again from the record alone.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

from agents.roles import ARMS
from flows.campaign.run_on_this_machine import Start, create_campaign
from flows.engine.campaign_config import CampaignConfig, ComparisonCell, campaigns, load_config, new_secret
from flows.engine.proposers import refuse_arm, refuse_lessons
from flows.engine.settings import Settings
from flows.environments.loading import load_environment
from flows.experiments.arm_results import figures, results
from flows.experiments.arms_table import ArmComparison
from flows.machine.device_holds import require
from flows.machine.prefect_server import die_with_parent
from flows.report import formatting as w
from lineage.errors import InfraFault, ObjectMissing, UnknownName, UsageError
from lineage.log.log_reader import Lineage
from lineage.queries import View
from lineage.store.blobs import get_tree
from lineage.store.objects import Store, open_store

STOPPED = 130


def plan_cells(root: str, settings: Settings, arms: Sequence[str], repeats: int) -> list[CampaignConfig]:
    """Check everything, then write the campaigns that are not there yet; all of them, in the order to run.

    Raises UsageError for arms that cannot be compared and for a store that holds something else.
    """
    _check(settings, arms, repeats)
    known, files = _begun(root, settings, arms)
    cells: list[CampaignConfig] = []
    for repeat in range(1, repeats + 1):
        secret = next((c.secret for (_, number), c in known.items() if number == repeat), "") or new_secret()
        for arm in order(arms, repeat):
            cell = known.get((arm, repeat))
            if cell is None:
                start = Start(
                    files=files, secret=secret, comparison=ComparisonCell(arms=tuple(arms), repeat=repeat)
                )
                cell = create_campaign(root, _of_cell(settings, arm, repeat), f"r{repeat}", start)
                files = files or get_tree(open_store(root), cell.start_sha256)
            cells.append(cell)
    return cells


def order(arms: Sequence[str], repeat: int) -> list[str]:
    """The arms of a repeat in the order in which they run.

    >>> order(("a", "b", "c"), 2)
    ['b', 'c', 'a']
    """
    cut = (repeat - 1) % len(arms)
    return [*arms[cut:], *arms[:cut]]


def _of_cell(settings: Settings, arm: str, repeat: int) -> Settings:
    return settings.model_copy(update={"arm": arm, "seed": settings.seed + repeat})


def _check(settings: Settings, arms: Sequence[str], repeats: int) -> None:
    for arm in arms:
        if arm not in ARMS:
            raise UnknownName("arm", arm, ARMS, "give them as --arms specialists,no_lineage")
    if len(arms) < 2 or len(set(arms)) < len(arms):
        raise UsageError(
            f"--arms {','.join(arms)}: a comparison needs at least two arms, each named once; known: {', '.join(ARMS)}"
        )
    if repeats < 1:
        raise UsageError(f"--repeats {repeats}: each arm runs at least once; 6 or more allow a claim")
    if settings.proposer in ("scripted", "replay"):
        raise UsageError(
            f"--proposer {settings.proposer}: its proposals are fixed, so every arm would be the same; "
            "compare with catalogue, anthropic or openai"
        )
    environment = load_environment(settings.environment, settings.variant)
    require(environment.spec, settings.gpus)
    for arm in arms:
        refuse_arm(settings.proposer, arm)
        refuse_lessons(settings, arm)
        environment.roster(arm, settings.roles)


def _cells(store: Store) -> list[CampaignConfig]:
    return [load_config(store, campaign) for campaign in campaigns(store)]


def _begun(
    root: str, settings: Settings, arms: Sequence[str]
) -> tuple[dict[tuple[str, int], CampaignConfig], dict[str, bytes] | None]:
    """The cells that a store holds, by arm and repeat, and their start; nothing of a store that is not there."""
    try:
        store = open_store(root)
    except ObjectMissing:
        return {}, None
    known: dict[tuple[str, int], CampaignConfig] = {}
    for cell in _cells(store):
        _refuse_other(root, cell, settings, tuple(arms))
        known[cell.settings.arm, cell.comparison.repeat if cell.comparison else 0] = cell
    return known, get_tree(store, next(iter(known.values())).start_sha256) if known else None


def _refuse_other(root: str, cell: CampaignConfig, settings: Settings, arms: tuple[str, ...]) -> None:
    """Refuse a directory with another comparison; the same one continues, also with more repeats."""
    if cell.comparison is None:
        raise UsageError(
            f"{root}: contains the campaign {cell.id}, which is not part of a comparison; give another --run DIR"
        )
    if cell.comparison.arms != arms:
        raise UsageError(
            f"{root}: contains a comparison of the arms {','.join(cell.comparison.arms)}, not {','.join(arms)}; "
            "give the same arms to continue it, or another --run DIR"
        )
    repeat = cell.comparison.repeat
    asked, begun = _of_cell(settings, cell.settings.arm, repeat).model_dump(), cell.settings.model_dump()
    differ = [key for key in asked if asked[key] != begun[key]]
    if differ:
        shift = repeat if differ[0] == "seed" else None
        there, here = (values[differ[0]] - shift if shift else values[differ[0]] for values in (begun, asked))
        raise UsageError(
            f"{root}: this comparison was begun with {differ[0]} = {there!r}, not {here!r}; "
            "give the same to continue it, or another --run DIR"
        )


def run_cells(root: str, cells: Sequence[CampaignConfig], plain: bool, say: Callable[[str], None]) -> None:
    """Run every cell that has not ended. Raises KeyboardInterrupt when a person stopped one, InfraFault when one failed."""
    store = open_store(root)
    todo = [cell for cell in cells if not _over(_view(store, cell))]
    done = len(cells) - len(todo)
    say(f"{w.count(len(cells), 'campaign')} in {root}" + (f", {done} of them ended before" if done else ""))
    took: list[float] = []
    for number, cell in enumerate(todo, done + 1):
        repeat = cell.comparison.repeat if cell.comparison else 0
        left = f", about {w.seconds(fmean(took) * (len(cells) - number + 1))} to go" if took else ""
        say(f"campaign {number} of {len(cells)}: {cell.settings.arm}, repeat {repeat}{left}")
        began = time.monotonic()
        code = _run_cell(root, cell.id, plain)
        if code == STOPPED:
            say("stopped; the same command continues where it ended")
            raise KeyboardInterrupt
        if code != 0:
            raise InfraFault(
                "campaign",
                f"{cell.id} ended with exit code {code}, its own message is above; the same command continues from there",
            )
        took.append(time.monotonic() - began)


def _run_cell(root: str, campaign: str, plain: bool) -> int:
    """`bakeoff resume` in a process of its own: nothing that one campaign leaves in memory affects the next.

    It has a process group of its own, so that Ctrl-C reaches it once, from here; it stops when this process is killed.
    Its output goes to stderr, because stdout is for the table.
    """
    command = [sys.executable, "-P", "-m", "flows.cli", "resume", root, "--campaign", campaign]
    child = subprocess.Popen(
        [*command, "--plain"] if plain else command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        process_group=0,
        preexec_fn=partial(die_with_parent, signal.SIGTERM) if sys.platform == "linux" else None,
    )

    def forward(number: int, _frame: object) -> None:
        child.send_signal(number)

    saved = {n: signal.signal(n, forward) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        return child.wait()
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)


def read_comparison(root: str) -> ArmComparison:
    """The comparison in a store as it stands, from the record alone. Raises UsageError when there is none."""
    store = open_store(root)
    cells = [cell for cell in _cells(store) if cell.comparison is not None]
    if not cells:
        raise UsageError(
            f"{root}: no comparison in this store; begin one with: bakeoff compare ENVIRONMENT --run DIR"
        )
    views = {cell.id: _view(store, cell) for cell in cells}
    first = cells[0]
    over = [cell for cell in cells if _over(views[cell.id])]
    played = [
        figures(views[c.id], c.spec, c.settings.arm, c.comparison.repeat, c.settings.trials)
        for c in over
        if c.comparison is not None
    ]
    arms = first.comparison.arms if first.comparison else ()
    return ArmComparison(
        root=root,
        spec=first.spec,
        proposer=" ".join(filter(None, (first.settings.proposer, first.settings.model))),
        trials=first.settings.trials,
        repeats=max(c.comparison.repeat for c in cells if c.comparison),
        results=results(sorted(played, key=lambda p: p.repeat), arms),
        played=sorted(played, key=lambda p: (p.repeat, arms.index(p.arm))),
        unfinished=[c.id for c in cells if c not in over],
        notes=_notes(over, views),
    )


def _notes(cells: Sequence[CampaignConfig], views: dict[str, View]) -> list[str]:
    """Differences between the campaigns other than their arms, as sentences."""
    lines = []
    starts = [row for cell in cells for row in views[cell.id].events("campaign")[:1]]
    machines = {row.machine for cell in cells for row in views[cell.id].trials() if row.machine}
    facts: dict[str, set[str] | set[str | None]] = {
        "version of Bakeoff": {row.bakeoff_version for row in starts},
        "judge": {cell.evaluator_sha256 for cell in cells},
        "prepared data": {cell.environment_sha256 for cell in cells},
        "machine": machines,
        "level of isolation": {cell.isolation for cell in cells},
    }
    for what, found in facts.items():
        if len(found) > 1:
            lines.append(
                f"Not everything was equal: the campaigns ran with {len(found)} different values of {what}."
            )
    short = [c.id for c in cells if views[c.id].count() - 1 < c.settings.trials]
    if short:
        lines.append(
            f"Ended with fewer trials than allowed: {', '.join(short)}; their area counts the rest as no change."
        )
    touched = [c.id for c in cells if views[c.id].count("intervention")]
    if touched:
        lines.append(f"A person intervened in {', '.join(touched)}.")
    return lines


def _over(view: View) -> bool:
    """True when the campaign ended by itself; one that a person stopped did not."""
    return any(row.operator == "end" for row in view.events("campaign")[-1:])


def _view(store: Store, cell: CampaignConfig) -> View:
    return Lineage(store, cell.id, cell.spec.score.direction).refresh()
