"""The live view and the plain log: what they show, in any width, from any thread, without ever failing a run."""

from __future__ import annotations

import io
import threading
import time
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from synthetic_campaign import SPEC, campaign_rows

from flows.engine.budget import Spent
from flows.engine.live_events import Note, RowWritten, RunsDone, Spending, StageStarted
from flows.engine.settings import Settings
from flows.report.terminal.display import Display
from flows.report.terminal.live_view import Screen, budget_lines
from flows.report.terminal.watch import Follower, watch
from lineage.queries import View
from lineage.records import Row
from lineage.safe_text import for_terminal, one_line

SETTINGS = Settings(environment="airbench_mini", trials=60, hours=2.0, usd=5.0)


def filled(n: int = 40) -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    display = Display(SPEC, SETTINGS, title="c1", live=False, out=out)
    for row in campaign_rows(n)[0]:
        display.on(RowWritten(row))
        if row.event == "trial":
            display.on(RowWritten(row))
    return display, out


def drawn(display: Display, width: int, height: int, *, ascii_only: bool = False) -> str:
    console = Console(width=width, height=height, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        console.print(
            Screen(SPEC, SETTINGS, display.state, threading.Lock(), time.monotonic).draw(
                width, height, ascii_only
            )
        )
    return capture.get()


def test_a_plain_log_has_one_stamped_line_per_outcome() -> None:
    rows = [r for r in campaign_rows(40)[0] if r.event == "trial"]
    _, out = filled(40)
    lines = out.getvalue().splitlines()
    for row in rows:
        mine = [
            line
            for line in lines
            if f" {row.trial}" in line and str(row.status) in line.partition(": ")[2][:24]
        ]
        assert len(mine) == 1, f"{row.trial}: {mine}"
    assert all(line[2] == line[5] == ":" for line in lines)
    assert any(" confirmed with fresh seeds: " in line and "(p = " in line for line in lines)
    assert any("better than the baseline" in line for line in lines)


def test_a_leader_that_was_not_confirmed_is_told_with_its_reason() -> None:
    lines = filled(120)[1].getvalue().splitlines()
    refused = [line for line in lines if " unconfirmed with fresh seeds: " in line]
    assert refused and all(line.endswith(", a gain was not shown)") for line in refused)


def test_the_state_follows_verdicts() -> None:
    display, _ = filled(120)
    view = View.from_rows(campaign_rows(120)[0], "min")
    state = display.state
    best, leader = view.row_of_incumbent(), view.row_of_leader()
    assert state.best is not None and best is not None and state.best.trial == best.trial
    assert state.ahead is not None and leader is not None and state.ahead.trial == leader.trial
    assert state.ranking.champions == [row.trial for row in view.rows_of_champions()]
    assert sum(state.failures.values()) == sum(view.failure_counts().values())


@pytest.mark.parametrize(("width", "height"), [(50, 12), (80, 24), (200, 60)])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_the_live_view_fits_its_terminal(width: int, height: int, ascii_only: bool) -> None:
    display, _ = filled(60)
    for i, stage in enumerate(("propose", "train", "evaluate")):
        display.on(StageStarted(f"t1{i:03d}", "optimizer", stage))
    display.on(RunsDone("t1001", 1, 3))
    display.on(Spending(Spent(trials=39, seconds=1800.0, usd=1.2)))
    display.on(Note("proposer away\x1b[2J"))
    text = drawn(display, width, height, ascii_only=ascii_only)
    lines = text.splitlines()
    assert len(lines) <= height, text
    assert max(map(cell_len, lines)) <= width
    assert "t1001" in text and "train 1/3" in text and "39 of 60" in text
    assert "\x1b" not in text


def test_stages_and_confirmations_show_as_running_until_they_end() -> None:
    display, _ = filled(5)
    display.on(StageStarted("t0900", "loss", "build"))
    assert "build" in drawn(display, 100, 30)
    row = Row(
        event="trial",
        campaign="c",
        trial="t0900",
        role="loss",
        status="crash",
        cause="oom",
        error_excerpt="Killed",
    )
    display.on(RowWritten(row))
    assert "t0900" not in display.state.running and display.state.failures["oom"] >= 1
    display.on(StageStarted("t0900", "loss", "train"))
    assert display.state.running["t0900"].confirming


def test_events_from_many_threads_lose_nothing() -> None:
    out = io.StringIO()
    display = Display(SPEC, SETTINGS, live=False, out=out)
    rows = [r for r in campaign_rows(200)[0] if r.event == "trial"]
    threads = [
        threading.Thread(target=lambda part=rows[k::4]: [display.on(RowWritten(r)) for r in part])
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(display.state.rows) == 200 and display.fault is None


def test_a_broken_event_or_terminal_never_stops_a_campaign(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError("gone")

    with Display(SPEC, SETTINGS, live=False, out=Broken()) as display:
        display.on(Note("hello"))
        display.on(RowWritten(None))  # type: ignore[arg-type]
        display.on("something of a later version")  # type: ignore[arg-type]
    assert isinstance(display.fault, BrokenPipeError)
    assert "BrokenPipeError" in capsys.readouterr().err


def test_the_live_view_starts_draws_and_stops_on_a_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=90, height=30, color_system=None)
    with Display(SPEC, SETTINGS, title="campaign-7", console=console) as display:
        for row in campaign_rows(20)[0]:
            display.on(RowWritten(row))
    assert "campaign-7" in out.getvalue() and "19 trials" in out.getvalue() and display.fault is None


def test_budget_lines_name_each_cap() -> None:
    lines = {
        name: (share, text) for name, share, text in budget_lines({"trials": 30, "seconds": 3600.0}, SETTINGS)
    }
    assert lines["trials"] == (0.5, "30 of 60")
    assert lines["time"] == (0.5, "1.00 h of 2.00 h")
    assert lines["dollars"] == (0.0, "$0.00 of $5.00")
    assert "tokens" not in lines


def test_watch_tells_each_row_once_and_ends_with_the_campaign() -> None:
    rows = campaign_rows(30)[0]
    views = [View.from_rows(rows[:cut], "min") for cut in (0, 4, 4, 20, len(rows))]
    seen: list[Any] = []

    class Kept(Display):
        def on(self, event: Any) -> None:
            seen.append(
                event.row.trial if isinstance(event, RowWritten) and event.row.event == "trial" else None
            )
            super().on(event)

    follower = Follower(Kept(SPEC, live=False, out=io.StringIO()))
    assert [follower.take(view) for view in views] == [False, False, False, False, True]
    assert [t for t in seen if t] == [r.trial for r in rows if r.event == "trial"]


def test_watch_returns_when_told(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [r for r in campaign_rows(10)[0] if r.event != "campaign"]
    stop = threading.Event()
    asked: list[int] = []

    def refresh() -> View:
        asked.append(1)
        if len(asked) == 3:
            stop.set()
        return View.from_rows(rows, "min")

    assert watch(refresh, SPEC, live=False, every_s=0.01, stop=stop) is False
    assert len(asked) == 3
    assert capsys.readouterr().out.count("t0003") == 1


def test_watch_tells_an_end_from_a_person_who_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    rows = campaign_rows(10)[0]
    end = Row(event="campaign", campaign=rows[0].campaign, operator="end", notes="all 10 trials are done")

    def interrupted() -> View:
        raise KeyboardInterrupt

    assert watch(lambda: View.from_rows([*rows, end], "min"), SPEC, live=False) is True
    assert watch(interrupted, SPEC, live=False) is False
    assert "t0003" in capsys.readouterr().out


def test_watch_says_once_that_nobody_runs_the_campaign(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row for row in campaign_rows(10)[0] if row.event != "campaign"]
    asked, stop = [0], threading.Event()

    def refresh() -> View:
        asked[0] += 1
        if asked[0] == 4:
            stop.set()
        return View.from_rows(rows, "min")

    assert watch(refresh, SPEC, live=False, every_s=0.01, stop=stop, alive=lambda: asked[0] < 2) is False
    assert capsys.readouterr().out.count("no process on this machine runs this campaign") == 1


def test_text_is_made_harmless_for_a_terminal() -> None:
    assert for_terminal("a\x1b[31mred\x1b[0m\x1b]0;title\x07\x07\x9b") == "ared"
    assert for_terminal("left\u202eright") == "leftright"
    assert one_line("a\n b\tc", 4) == "a b…"
