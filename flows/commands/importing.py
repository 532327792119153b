"""Commands that import records, and the paper's analyses of any record."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer

from flows.commands.chosen_run import absolute, run_root
from flows.commands.options import AS_JSON, CAMPAIGN, print_json

importing = typer.Typer(help="Read records of other systems into a store.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(importing, name="import")
    app.command(epilog="Example: bakeoff audit runs/first --json")(audit)


@importing.command("released-run", epilog="Example: bakeoff import released-run DIR --store runs/paper")
def released_run(
    folder: Path = typer.Argument(
        ..., metavar="DIR", help="folder with the paper's results.tsv and tree.tsv"
    ),
    store: str = typer.Option(..., "--store", help="folder or s3://bucket/prefix; created if absent"),
    campaign: str | None = typer.Option(
        None, "--campaign", help="campaign id; default from the folder's name"
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Import a run that the paper's authors released; nothing is dropped, repaired rows are marked."""
    from flows.engine.campaign_config import campaign_id
    from lineage.paper.import_released import import_released
    from lineage.paper.released_tsv import read_run
    from lineage.store.objects import open_store

    root = absolute(store)
    identifier = campaign or campaign_id(folder.resolve().name, "released")
    read_run(folder)  # before a store is created: a wrong folder raises
    report = import_released(folder, open_store(root, create=True), identifier)
    if as_json:
        return print_json(asdict(report))
    print(
        f"{identifier} in {root}: {report.trials} trials of {report.environment}, score {report.score_column}"
    )
    if report.repaired:
        print(
            f"{len(report.repaired)} damaged rows repaired and marked; the files as they were are in the store"
        )
    return None


def audit(
    store: str | None = typer.Argument(
        None, metavar="STORE", help="run directory, name under runs/, or s3:// URI"
    ),
    campaign: str | None = CAMPAIGN,
    as_json: bool = AS_JSON,
) -> None:
    """The paper's analyses for any record: statuses, keeps by role, diversity, parents, forecasts."""
    from dataclasses import asdict

    from flows.engine.campaign_config import campaigns, load_config
    from flows.report.prune_checks import prunes, prunes_text
    from lineage.errors import UsageError
    from lineage.log.log_reader import Lineage, list_campaigns
    from lineage.paper.analyses import audit as analyse
    from lineage.paper.analyses import lines
    from lineage.store.objects import open_store

    root = run_root(store)
    opened = open_store(root)
    known = list_campaigns(opened)
    if campaign is None and len(known) != 1:
        listed = ", ".join(known) or "none"
        raise UsageError(f"{root}: name a campaign with --campaign; this store contains: {listed}")
    identifier = campaign or known[0]
    view = Lineage(opened, identifier).refresh()
    found = analyse(view)
    if identifier in campaigns(opened):  # an imported record has no rule that could prune
        ended = prunes(view.trials(), load_config(opened, identifier).spec.sign)
        found["pruning"] = asdict(ended)
    if as_json:
        return print_json(found)
    print(*lines(found), sep="\n")
    if "pruning" in found and (text := prunes_text(ended)):
        print(f"pruning: {text}")
    return None
