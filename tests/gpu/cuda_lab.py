"""Where the GPU tests work: a home, a folder of environments, the command line, and what the driver says.

Use: `why_not()` says in a sentence what is missing, `CudaLab(folder)` runs commands, `used_bytes(device)` asks the
driver. Limits: this process never opens the device itself, because a context of its own would be a foreign process
to the campaign under test.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import quick

from evaluators.judge import accelerators

T = TypeVar("T")
TORCH = (
    "import torch; assert torch.cuda.is_available(), 'torch ' + torch.__version__ + ' sees no CUDA device'; "
    "x = torch.ones(1000, device='cuda'); print(torch.__version__, torch.version.cuda, float(x.sum()))"
)


@functools.cache
def why_not() -> str:
    """Why no test can use a GPU here; empty when one can."""
    try:
        devices = accelerators.usable()
    except accelerators.DriverFault as fault:
        return f"no GPU here: {fault}"
    if not devices:
        return "no GPU here: the driver shows no device that may be used (CUDA_VISIBLE_DEVICES)"
    done = subprocess.run([sys.executable, "-c", TORCH], capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        return f"{devices[0].name} cannot be used: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
    return ""


def first_device() -> Any:
    return accelerators.usable()[0]


def describe(device: Any) -> dict[str, Any]:
    """What the record says of the device."""
    facts: dict[str, Any] = device.model_dump(
        include={"uuid", "name", "memory_bytes", "capability", "driver", "part", "parent"}
    )
    return facts


def used_bytes(device: Any) -> int:
    return int(accelerators.read(device).used_bytes or 0)


class CudaLab:
    """Homes under `folder`; the environments are in `folder/recipes`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipes = folder / "recipes"
        self.recipes.mkdir()
        self.env = quick.environ(folder / "home", self.recipes)
        # a GPU machine's libraries can lie where only these say
        kept = ("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES")
        self.env |= {name: os.environ[name] for name in kept if name in os.environ}
        self.env["PYTHONPATH"] = os.pathsep.join(
            (str(quick.ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")]))
        )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "flows.cli", *arguments]

    def bakeoff(
        self, *arguments: str, check: bool = True, timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """The command line in a child, as a person runs it."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(
                f"bakeoff {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def scripted(self, script: Path, **settings: object) -> list[str]:
        """The options of `bakeoff run` for a script of proposals."""
        config = script.with_suffix(".toml")
        lines = ['[campaign]\nproposer = "scripted"\n', f'script = "{script}"\n']
        lines += [f"{name} = {str(value).lower()}\n" for name, value in settings.items()]
        config.write_text("".join(lines), "utf-8")
        return ["--config", str(config), "--plain"]


def until(look: Callable[[], T], seconds: float, what: str, told: Callable[[], str] = lambda: "") -> T:
    """Look until there is something. Fails with `what` and what `told` says by then."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        found = look()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds:g} s\n{told()}")


def tail(text: str, lines: int = 30) -> str:
    return "\n".join(text.splitlines()[-lines:])


def rate(rows: int, seconds: Sequence[float]) -> float | None:
    """Rows answered a second, over the runs together."""
    spent = sum(seconds)
    return round(rows * len(seconds) / spent, 1) if spent else None
