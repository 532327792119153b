"""One JSON line a run of the GPU tests: the machine, each check's result and seconds, and what the checks measured.

Use: `Record().note(name, **figures)` from tests; `conftest.py` adds the outcomes and calls `write`. The line is
appended to `tests/bench/records/gpu.jsonl`, or to the file that BAKEOFF_GPU_RECORD names. Limits: nothing is written
when every test was skipped.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).resolve().parents[1] / "bench" / "records" / "gpu.jsonl"
PACKAGES = ("torch", "triton", "numpy", "prefect", "nvidia-ml-py", "pytest")


def target() -> Path:
    return Path(os.environ.get("BAKEOFF_GPU_RECORD") or RECORDS)


@dataclass
class Record:
    """What this run of the tests saw so far."""

    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    device: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def note(self, name: str, **figures: Any) -> None:
        """Keep figures of a check; a later call adds to them."""
        self.figures.setdefault(name, {}).update(figures)

    def outcome(self, name: str, result: str, seconds: float, why: str = "") -> None:
        """A check's result: passed, failed, skipped; the worst of set-up, call and tear-down, their seconds added."""
        known = self.checks.setdefault(name, {"result": "passed", "seconds": 0.0})
        known["seconds"] = round(known["seconds"] + seconds, 2)
        if result != "passed" and known["result"] != "failed":
            known["result"] = result
            if why:
                known["why"] = why[:400]

    def line(self) -> dict[str, Any]:
        return {
            "at": self.began.isoformat(timespec="seconds"),
            "seconds": round((datetime.now(UTC) - self.began).total_seconds(), 1),
            "device": self.device,
            "python": platform.python_version(),
            "kernel": platform.release(),
            "packages": {name: _version(name) for name in PACKAGES},
            "checks": self.checks,
            "figures": self.figures,
        }

    def write(self) -> Path | None:
        """Append the line; None when nothing ran."""
        if not self.device or all(check["result"] == "skipped" for check in self.checks.values()):
            return None
        path = target()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.line(), sort_keys=False, allow_nan=False) + "\n")
        return path


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
