"""`bakeoff`: the command line. Commands live in `flows.commands`; this file turns errors into sentences.

Exit codes: 0 done · 1 unexpected fault, or a replay that differs · 2 wrong input · 4 store · 5 machine or proposer · 6 isolation
below the policy · 130 stopped by Ctrl-C. `--debug` (or BAKEOFF_DEBUG=1) shows the traceback.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback

import typer

from flows.commands import (
    adopting,
    applying,
    clients,
    environments,
    experiments,
    importing,
    machine,
    measuring,
    model,
    reading,
    running,
    steering,
)
from flows.machine.folders import bakeoff_version
from lineage.errors import BakeoffError

STOPPED = 130

app = typer.Typer(
    name="bakeoff",
    help="Auto research on training recipes: specialists propose, an evaluator they cannot touch decides.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (
    running,
    steering,
    clients,
    reading,
    applying,
    environments,
    adopting,
    model,
    machine,
    importing,
    measuring,
    experiments,
):
    group.register(app)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bakeoff {bakeoff_version()}")
        raise typer.Exit


@app.callback()
def _root(
    debug: bool = typer.Option(False, "--debug", help="show the traceback of an error"),
    version: bool = typer.Option(
        False,
        "--version",
        help="print the version and the revision, and exit",
        is_eager=True,
        callback=_say_version,
    ),
) -> None:
    if debug:
        os.environ["BAKEOFF_DEBUG"] = "1"


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except BakeoffError as error:
        _explain(error, error.exit_code or 1)
    except KeyboardInterrupt:
        _explain(None, STOPPED, "stopped")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        _explain(error, 5, f"the machine refused: {what}")


def _explain(error: BaseException | None, code: int, text: str | None = None) -> None:
    if error is not None and os.environ.get("BAKEOFF_DEBUG"):
        traceback.print_exception(error)
    print(f"bakeoff: {text or error}", file=sys.stderr)
    if code == STOPPED and any(thread.name == "campaign" for thread in threading.enumerate()):
        # a second Ctrl-C: the campaign's thread has not ended, and at exit Prefect would wait for its server, which has
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
