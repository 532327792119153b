"""The files that a campaign writes for a person: report page, winner's diff, summary; and where they are.

For a local run they are in the run directory; for a store on S3 in a folder under BAKEOFF_HOME.
Everything here is derived from lineage and can be made again with `bakeoff report`.
"""

from __future__ import annotations

from pathlib import Path

from flows.campaign.make_certificate import certify
from flows.engine.campaign_config import CampaignConfig, load_config
from flows.engine.imported_record import imported_config
from flows.machine.folders import bakeoff_version, home, run_key
from flows.machine.webhook import flush, post
from flows.report.html.build import Meta, build_report
from flows.report.summary import Links, end_text, morning_summary
from lineage.errors import StoreError
from lineage.log.log_reader import Lineage
from lineage.log.part_anchors import anchor
from lineage.queries import View
from lineage.store.blobs import get_blob
from lineage.store.objects import Store, open_store


def reports_folder(root: str, campaign: str) -> Path:
    """Folder for what is made from a run; several campaigns of one store do not share names."""
    base = home() / "reports" / run_key(root) if "://" in root else Path(root)
    return base / "reports" / campaign


def certificate_path(root: str, campaign: str, trial: str) -> Path:
    return reports_folder(root, campaign) / f"certificate-{trial}.json"


def links_for(root: str, config: CampaignConfig, view: View) -> Links:
    folder = reports_folder(root, config.id)
    best = view.row_of_incumbent()
    changed = best is not None and best.parent is not None
    anchor = _anchor(root, config.id)
    return Links(
        run=root,
        report=str(folder / "report.html"),
        diff=str(folder / "winner.diff") if changed else "",
        apply_command=f"bakeoff apply {root} {best.trial} --to DIR" if changed and best is not None else "",
        anchor=anchor,
    )


def _anchor(root: str, campaign: str) -> str:
    """Hash of the newest lineage part; kept outside the store, it shows whether the record was rolled back."""
    try:
        return str(anchor(open_store(root), campaign))
    except StoreError:  # nothing compacted yet
        return ""


def write_report(root: str, campaign: str, out: Path | None = None, reload_s: int = 0) -> Path:
    """Write the report page of a campaign as of now; returns its path."""
    store = open_store(root)
    config = imported_config(store, campaign) or load_config(store, campaign)
    view = Lineage(store, campaign, config.spec.score.direction).refresh()
    links = links_for(root, config, view)
    command, certificate = _certificate(root, campaign, view)
    meta = Meta(
        run=root,
        version=bakeoff_version(),
        anchor=links.anchor,
        apply_command=links.apply_command,
        certify_command=command,
        certificate=certificate,
        layers=config.isolation_layers,
        not_held=config.isolation_not_held,
        reload_s=reload_s,
    )
    return build_report(view, config.spec, lambda sha: get_blob(store, sha), out or Path(links.report), meta)


def _certificate(root: str, campaign: str, view: View) -> tuple[str, str]:
    """The command that makes the champion's certificate, and the file's name where it is beside the page."""
    trial = view.ranking.incumbent
    if trial is None or trial not in view.ranking.champions:
        return "", ""
    path = certificate_path(root, campaign, trial)
    return f"bakeoff certify {root} {trial}", path.name if path.is_file() else ""


def end_of_run(root: str, campaign: str, why: str) -> str:
    """Write report, winner's diff and summary, and post the webhook; returns the lines for the terminal."""
    store = open_store(root)
    config = load_config(store, campaign)
    view = Lineage(store, campaign, config.spec.score.direction).refresh()
    links = links_for(root, config, view)
    folder = reports_folder(root, campaign)
    folder.mkdir(parents=True, exist_ok=True)
    champion = view.ranking.incumbent
    if champion is not None and champion in view.ranking.champions:
        path = certificate_path(root, campaign, champion)
        path.write_bytes(certify(store, config, view, champion))
    write_report(root, campaign)
    best = view.row_of_incumbent()
    if links.diff and best is not None:
        Path(links.diff).write_text(whole_diff(store, config, best.source_sha256 or ""), "utf-8")
    summary = morning_summary(view, config.spec, links, why)
    (folder / "summary.md").write_text(summary, "utf-8")
    flush()  # in order, after the messages before
    failed = post(config.settings.webhook, summary) if config.settings.webhook else ""
    return end_text(view, config.spec, links, why) + (f"\n{failed}" if failed else "")


def whole_diff(store: Store, config: CampaignConfig, source_sha256: str) -> str:
    """The diff from the campaign's start to a program: what a person merges."""
    from agents.edits.search_replace import canonical_diff
    from lineage.store.blobs import get_tree

    return canonical_diff(get_tree(store, config.start_sha256), get_tree(store, source_sha256))
