"""Commands about this machine: doctor."""

from __future__ import annotations

import typer

from flows.commands._shared import AS_JSON, print_json


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: bakeoff doctor --json")(doctor)


def doctor(as_json: bool = AS_JSON) -> None:
    """Prove what the sandbox holds on this machine: strong, medium or weak, and how to get better."""
    from evaluators.sandbox.prove import doctor_report

    report = doctor_report()
    if as_json:
        print_json(report)
        return
    print(f"isolation: {str(report['level']).upper()} ({', '.join(report['layers']) or 'no layers'})")
    print(f"  holds: {', '.join(report['holds']) or 'nothing'}")
    if report["not_held"]:
        print(f"  NOT held: {', '.join(report['not_held'])}")
    for line in report["advice"]:
        print(f"  to get better: {line}")
