"""Commands about this machine and its Prefect server: doctor, setup-server, worker."""

from __future__ import annotations

import typer

from flows.commands.chosen_run import run_root
from flows.commands.options import AS_JSON, GPUS, RUN, print_json


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: bakeoff doctor --json")(doctor)
    app.command(epilog="Example: bakeoff ui runs/first")(ui)
    app.command(epilog="Example: PREFECT_API_URL=http://127.0.0.1:4200/api bakeoff setup-server")(
        setup_server
    )
    app.command(
        epilog="Example: bakeoff worker --pool trials-gpu --limit 2",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(worker)


def doctor(as_json: bool = AS_JSON, gpus: str | None = GPUS) -> None:
    """Prove what the sandbox isolates on this machine, how its GPUs behave inside, and what would improve it."""
    from evaluators.judge.sandbox.prove_level import doctor_report
    from flows.machine.accelerator_doctor import accelerator_reports, lines
    from flows.machine.agent_box import agent_box_report

    found, fault = accelerator_reports(gpus or "")
    box, box_fault = agent_box_report()
    report = {**doctor_report(), "accelerators": found, "accelerator_fault": fault}
    report |= {"agent_box_holds": box, "agent_box_fault": box_fault}
    if as_json:
        print_json(report)
        return
    print(f"isolation: {str(report['level']).upper()} ({', '.join(report['layers']) or 'no layers'})")
    print(f"  holds: {', '.join(report['holds']) or 'nothing'}")
    print(f"  {report['start']}")
    if report["not_held"]:
        print(f"  NOT held: {', '.join(report['not_held'])}")
    for line in report["advice"]:
        print(f"  to get better: {line}")
    for line in lines(found, fault):
        print(line)
    print(
        f"coding agents: a box of their own, proven: {', '.join(box)}"
        if box
        else f"coding agents: {box_fault}"
    )


def setup_server() -> None:
    """Create the work pools and automations that deployments need on the Prefect server at PREFECT_API_URL."""
    import asyncio
    import os

    from lineage.errors import UsageError

    if not os.environ.get("PREFECT_API_URL"):
        raise UsageError(
            "setup-server: PREFECT_API_URL is not set; start a server with `prefect server start` and set it, "
            "e.g. PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    from flows.campaign.server_setup import setup_server as run

    for line in asyncio.run(run()):
        print(line)


def worker(context: typer.Context) -> None:
    """Run `prefect worker start` with the same options, and hand its trials back on SIGTERM.

    For SLURM, Kubernetes and other schedulers; see flows/MACHINES.md. Elsewhere Prefect's own command is enough.
    """
    from flows.campaign.cluster_worker import run

    raise typer.Exit(run(context.args))


def ui(run: str | None = RUN) -> None:
    """Open a run's timelines in the Prefect UI: its own local server, until Ctrl-C."""
    import time

    from flows.machine.prefect_server import embedded_server, live_url

    root = run_root(run)
    running = live_url(root)
    if running:
        print(f"Prefect UI: {running.removesuffix('/api')} (the campaign's own server)")
        return
    with embedded_server(root) as url:
        print(f"Prefect UI: {url.removesuffix('/api')}  (Ctrl-C ends)", flush=True)
        while True:
            time.sleep(1)
