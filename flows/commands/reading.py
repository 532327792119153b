"""Commands that read a record: demo, show, diff, report, summary, watch, verify, export."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from flows.commands.chosen_run import open_view, run_root, split_trial
from flows.commands.options import AS_JSON, CAMPAIGN, RUN, print_json

SECOND = typer.Argument(None, help="trial: t0042, 42, best, leader, baseline or last")


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: bakeoff demo")(demo)
    app.command(epilog="Examples: bakeoff show · bakeoff show runs/first · bakeoff show runs/first best")(
        show
    )
    app.command(epilog="Examples: bakeoff diff t0007 · bakeoff diff runs/first best --whole")(diff)
    app.command(epilog="Examples: bakeoff report runs/first · bakeoff report runs/first --serve")(report)
    app.command(epilog="Example: bakeoff summary runs/first")(summary)
    app.command(epilog="Example: bakeoff watch runs/first")(watch)
    app.command("attach", help="The same as watch.", epilog="Example: bakeoff attach runs/first")(watch)
    app.command(epilog="Examples: bakeoff verify runs/first --json · bakeoff verify certificate-t0011.json")(
        verify
    )
    app.command(epilog="Examples: bakeoff certify runs/first · bakeoff certify runs/first t0011 --reveal")(
        certify
    )
    app.command(epilog="Example: bakeoff export runs/first --csv trials.csv")(export)


def demo(
    browser: bool = typer.Option(True, "--browser/--no-browser", help="open the page in a browser"),
) -> None:
    """Show the page of a campaign that was recorded; needs no data, no torch and no run of your own."""
    from flows.report.demo.show_demo import show as show_demo

    print(show_demo(browser))


def show(
    run: str | None = RUN,
    trial: str | None = SECOND,
    campaign: str | None = CAMPAIGN,
    as_json: bool = AS_JSON,
) -> None:
    """A campaign at a glance, or everything known about one trial."""
    from rich.console import Console

    from flows.report.show import campaign_json, campaign_view, find_trial, trial_diff, trial_json, trial_view
    from lineage.store.blobs import get_blob

    run, trial = split_trial(run, trial)
    store, config, view = open_view(run_root(run), campaign, imported=True)
    if trial is None:
        if as_json:
            return print_json(campaign_json(view, config.spec))
        return Console().print(campaign_view(view, config.spec))
    row = find_trial(view, trial)
    if as_json:
        return print_json(trial_json(view, row))
    text = trial_diff(row, lambda sha: get_blob(store, sha))
    return Console().print(trial_view(view, config.spec, row, diff=text))


def diff(
    run: str | None = RUN,
    trial: str | None = SECOND,
    other: str | None = typer.Argument(None, help="second trial: show what turns the first one into it"),
    campaign: str | None = CAMPAIGN,
    whole: bool = typer.Option(False, "--whole", help="against the campaign's start instead of the parent"),
) -> None:
    """The source diff of a trial against its parent, against the start, or against another trial."""
    from rich.console import Console

    from agents.edits.search_replace import canonical_diff
    from flows.campaign.outputs import whole_diff
    from flows.report.show import diff_view, find_trial, trial_diff
    from lineage.errors import UsageError
    from lineage.store.blobs import get_blob, get_tree

    if other is None:
        run, trial = split_trial(run, trial)
    store, config, view = open_view(run_root(run), campaign, imported=True)
    row = find_trial(view, trial or "best")
    if other is not None:
        second = find_trial(view, other)
        if row.source_sha256 is None or second.source_sha256 is None:
            raise UsageError(
                f"{row.trial} or {second.trial} never became a program, so there is nothing to compare"
            )
        text = canonical_diff(get_tree(store, row.source_sha256), get_tree(store, second.source_sha256))
    elif whole and row.source_sha256 is not None:
        text = whole_diff(store, config, row.source_sha256)
    else:
        text = trial_diff(row, lambda sha: get_blob(store, sha))
    if sys.stdout.isatty():
        Console().print(diff_view(text))
    else:
        sys.stdout.write(text)


def report(
    run: str | None = RUN,
    campaign: str | None = CAMPAIGN,
    out: Path | None = typer.Option(None, "--out", help="where to write the page"),
    serve: bool = typer.Option(
        False, "--serve", help="serve it on 127.0.0.1 and refresh while the campaign runs"
    ),
    port: int = typer.Option(0, "--port", help="port of --serve; default a free one"),
) -> None:
    """Write the report page: one HTML file that needs no network."""
    from flows.campaign.outputs import write_report
    from flows.campaign.run_on_this_machine import only_campaign

    root = run_root(run)
    identifier = only_campaign(root, campaign, imported=True).id
    if not serve:
        print(f"report: {write_report(root, identifier, out)}")
        return
    from flows.report.html.serve import Cached
    from flows.report.html.serve import serve as serve_page
    from lineage.store.objects import open_store

    store = open_store(root)
    path = out or Path(write_report(root, identifier))

    def build() -> str:
        return write_report(root, identifier, path, reload_s=5).read_text("utf-8")

    def version() -> object:
        return len(store.list(f"log/campaign={identifier}")), len(
            store.list(f"lineage/campaign={identifier}")
        )

    serve_page(Cached(build, version), port)


def summary(run: str | None = RUN, campaign: str | None = CAMPAIGN) -> None:
    """The morning summary in Markdown: what won, what was learnt, what kept failing, what it cost."""
    from flows.campaign.outputs import links_for
    from flows.report.summary import morning_summary

    root = run_root(run)
    _, config, view = open_view(root, campaign, imported=True)
    sys.stdout.write(morning_summary(view, config.spec, links_for(root, config, view)))


def watch(
    run: str | None = RUN, campaign: str | None = CAMPAIGN, plain: bool = typer.Option(False, "--plain")
) -> None:
    """Follow a campaign that another process runs, live. Ctrl-C detaches; the campaign continues."""
    from flows.campaign.run_on_this_machine import only_campaign
    from flows.machine.run_lock import holder_of
    from flows.report.terminal.watch import stage_after
    from flows.report.terminal.watch import watch as follow
    from lineage.log.log_reader import Lineage
    from lineage.store.objects import open_store
    from lineage.store.results import list_results

    root = run_root(run)
    config = only_campaign(root, campaign, imported=True)
    if not config.start_sha256:
        print(f"{config.id} is an imported record, which nobody runs; see it with: bakeoff show {root}")
        return
    store = open_store(root)
    lineage = Lineage(store, config.id, config.spec.score.direction)
    ended = follow(
        lineage.refresh,
        config.spec,
        config.settings,
        title=config.id,
        live=sys.stdout.isatty() and not plain,
        stage_of=lambda trial: stage_after(list_results(store, config.id, trial)),
        alive=lambda: holder_of(root, config.id) is not None,
    )
    again = root + (f" --campaign {campaign}" if campaign else "")
    print(
        f"{config.id} has ended; see it with: bakeoff show {again}"
        if ended
        else f"detached from {config.id}, which continues; follow it again with: bakeoff attach {again}"
    )


def verify(
    run: str | None = RUN,
    campaign: str | None = CAMPAIGN,
    anchor: str | None = typer.Option(None, "--anchor", help="anchor printed at the end of the campaign"),
    as_json: bool = AS_JSON,
) -> None:
    """Re-hash everything, check every chain, recompute every label and promotion; exit 4 if anything is off.

    RUN may also be the file of a certificate, which is checked without a store.
    """
    from flows.measure.verify import verify_run

    if run is not None and Path(run).is_file():
        _verify_file(Path(run), as_json)
        return
    found = verify_run(run_root(run), campaign, anchor)
    if as_json:
        print_json(found)
    else:
        for line in (*found["problems"], *found["unfinished"]):
            print(line)
        print(found["text"])
    if found["problems"]:
        raise typer.Exit(4)


def _verify_file(path: Path, as_json: bool) -> None:
    from flows.measure.check_certificate import report_of

    found = report_of(path.read_bytes())
    if as_json:
        print_json(found)
    else:
        print(*found["problems"], found["text"], sep="\n")
    if found["problems"]:
        raise typer.Exit(4)


def certify(
    run: str | None = RUN,
    trial: str | None = SECOND,
    campaign: str | None = CAMPAIGN,
    out: Path | None = typer.Option(None, "--out", help="the file to write; default: beside the report"),
    reveal: bool = typer.Option(
        False, "--reveal", help="show the secret that the seeds were drawn with; once the campaign is over"
    ),
) -> None:
    """Write one file with which a referee can check a champion without the store and the data."""
    from flows.campaign.make_certificate import certify as make
    from flows.campaign.outputs import certificate_path
    from flows.report.show import find_trial

    run, trial = split_trial(run, trial)
    root = run_root(run)
    store, config, view = open_view(root, campaign, imported=True)
    row = find_trial(view, trial or "best")
    data = make(store, config, view, row.trial or "", reveal=reveal)
    target = out or certificate_path(root, config.id, row.trial or "")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    print(f"{target}: {len(data):,} bytes; check it anywhere with: bakeoff verify {target}")


def export(
    run: str | None = RUN,
    campaign: str | None = CAMPAIGN,
    csv: Path | None = typer.Option(None, "--csv", help="trials as CSV"),
    parquet: Path | None = typer.Option(None, "--parquet", help="trials as one Parquet file"),
    tsv: Path = typer.Option(
        None, "--tsv", help="folder for results.tsv and tree.tsv as the paper's authors keep them"
    ),
    mlflow: str | None = typer.Option(None, "--mlflow", help="MLflow tracking URI"),
) -> None:
    """Copy the record into other tools' formats."""
    from flows.report import export as formats
    from lineage.errors import UsageError

    _, config, view = open_view(run_root(run), campaign, imported=True)
    if not any((csv, parquet, tsv, mlflow)):
        raise UsageError("export: name at least one of --csv FILE, --parquet FILE, --tsv DIR, --mlflow URI")
    if csv:
        print(formats.to_csv(view, csv))
    if parquet:
        print(formats.to_parquet(view, parquet))
    if tsv:
        print(*formats.to_paper_tsv(view, config.spec, tsv), sep="\n")
    if mlflow:
        print(f"{formats.to_mlflow(view, config.spec, mlflow)} runs in {mlflow}")
