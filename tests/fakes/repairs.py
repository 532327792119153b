"""Sessions for campaigns on real environments: edits, submissions, and repairs that need a number from the prompt.

A repair looks its number up in the prompt of its own session and fails the test when it is not there, so a
campaign that goes through shows that the number arrived. `costly` marks the reply that uses up a role's
dollars: the role's next session is refused by the ledger, which ends its lane after a known number of trials.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from tests.fakes.brain import Line, prompt_of
from tests.fakes.script import Json, Step, tool_uses

Call = tuple[str, Json]
COSTLY_TOKENS = 100_000  # two dollars of the default model's output


def edit(path: str, search: str, new: str) -> Call:
    return "replace", {"path": path, "search": search, "replace": new}


def submit(words: str, **more: object) -> Call:
    return "submit", {"hypothesis": words, "expected_delta": 0.01, **more}


def from_start(*calls: Call) -> Step:
    """A session of one reply that starts from the recipe as it was given."""
    return tool_uses([("choose_parent", {"trial": "t0000"}), *calls])


def costly(step: Step) -> Step:
    return replace(step, usage={"output_tokens": COSTLY_TOKENS})


def found(body: Json, role: str, label: str, number: str) -> tuple[str, str]:
    """(trial, number) of the newest trial of `role` with this label in the prompt. AssertionError when absent."""
    pattern = rf"(t\d+) \[{role}\] {re.escape(label)};.*?\b{number}=(\S+?)(?=[;\s])"
    hit = re.search(pattern, prompt_of(body))
    if hit is None:
        raise AssertionError(f"no {number} of {label} in the prompt of {role}")
    return hit[1], hit[2]


def repair(role: str, label: str, number: str, change: Callable[[float], Call], words: str) -> list[Line]:
    """Looks at the failed trial, starts from it, changes what `change` says for the number."""

    def look(body: Json) -> Step:
        trial, _ = found(body, role, label, number)
        calls = [("read_trial", {"trial": trial}), ("diff_trials", {"first": "t0000", "second": trial})]
        return tool_uses([*calls, ("choose_parent", {"trial": trial})])

    def mend(body: Json) -> Step:
        _, value = found(body, role, label, number)
        return tool_uses([change(float(value)), ("check", {}), submit(f"{words}: {number}={value}")])

    return [look, mend]
