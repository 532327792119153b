"""`bakeoff verify`: hashes and chains by lineage, labels and promotions recomputed by the judge's own rules."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from evaluators.statistics.confirmation_inputs import Read
from evaluators.statistics.recompute import Evidence, recompute_items, recompute_labels, recompute_promotions
from flows.engine.campaign_config import CampaignConfig, campaigns, load_config
from flows.engine.confirmation_state import reader
from flows.engine.stage_records import BuildChecks, Trained, part_name
from flows.measure.calibrate import Calibration
from lineage.errors import StoreError
from lineage.leaderboard import Leaderboard
from lineage.queries import View
from lineage.records import Measurement, Row, TrainRun
from lineage.store.blobs import get_blob
from lineage.store.objects import Store, open_store
from lineage.store.results import get_result, list_results
from lineage.verify.findings import Finding
from lineage.verify.store_checks import verify

Progress = Callable[[int, int], None]


def verify_run(
    root: str, campaign: str | None = None, anchor: str | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Everything that is wrong with a record, as sentences. Keys: ok, problems, notes, unfinished, objects, rows, anchors, text."""
    store = open_store(root)
    report = verify(store, campaign, relabel=relabel, anchor=anchor, progress=progress)
    return {
        "ok": report.ok,
        "problems": [str(finding) for finding in report.problems],
        "notes": [str(finding) for finding in report.notes],
        "unfinished": [str(finding) for finding in report.notes if finding.kind == "unfinished"],
        "objects": report.objects,
        "rows": report.rows,
        "anchors": report.anchors,
        "text": report.summary(),
    }


def relabel(store: Store, view: View) -> Iterator[Finding]:
    """Labels and promotions that the stored facts do not support; nothing for an imported record."""
    if view.campaign not in campaigns(store):
        return
    config = load_config(store, view.campaign)
    plan, rows = config.plan, view.rows()

    def measured(sha: str) -> Measurement | None:
        return measurement_of(store, sha)

    def evidence(row: Row) -> Evidence | None:
        return evidence_of(store, config, row, measured)

    for mismatch in recompute_labels(rows, plan, config.spec, evidence, config.racing):
        yield Finding("differs", mismatch.trial, str(mismatch))
    read = reader(store)
    for mismatch in recompute_promotions(rows, plan, measured, config.spec, read):
        yield Finding("differs", mismatch.trial, str(mismatch))
    leaderboard = Leaderboard(
        plan.sign
    )  # a campaign that was killed at once has no event that says the direction
    for row in rows:
        leaderboard.read(row)
    for number, trial in leaderboard.unsealed:
        text = f"champion {trial} (confirmation {number + 1}) has no sealed score yet: a resume measures it"
        yield Finding("unfinished", f"trial {trial}", text)
    yield from _trust(rows, config, measured)
    yield from _items(rows, measured, read)
    yield from _calibrations(store, config, [row for row in rows if row.event == "calibration"])


def _trust(
    rows: list[Row], config: CampaignConfig, measured: Callable[[str], Measurement | None]
) -> Iterator[Finding]:
    """No row and no measurement claims more trust than the environment gives, nor spares itself the sealed split."""
    given = config.spec.trust
    for row in rows:
        if row.event not in ("trial", "confirmation", "sealed"):
            continue
        made = measured(row.measurement_sha256) if row.measurement_sha256 else None
        for claimed in (row.trust, made.trust if made is not None else given):
            if claimed != given:
                text = f"trial {row.trial}: trust recorded as {claimed}, the environment gives {given}"
                yield Finding("differs", row.trial or "", text)
        if config.spec.has_sealed_split and json.loads(row.detail_json).get("no_sealed_split"):
            text = f"trial {row.trial}: recorded as without a sealed split, which the environment has"
            yield Finding("differs", row.trial or "", text)


def measurement_of(store: Store, sha: str) -> Measurement | None:
    """A stored measurement; None when it is not there or not readable as one."""
    try:
        return Measurement.model_validate_json(get_blob(store, sha))
    except (StoreError, ValueError):
        return None


def _items(rows: list[Row], measured: Callable[[str], Measurement | None], read: Read) -> Iterator[Finding]:
    """Every measurement's scores against what its test items gave; older measurements have none."""
    names = ("measurements", "incumbent_measurements")
    for row in rows:
        detail = json.loads(row.detail_json) if row.event in ("confirmation", "sealed") else {}
        for sha in [row.measurement_sha256, *(sha for name in names for sha in detail.get(name, []))]:
            made = measured(sha) if sha else None
            if made is None:
                continue
            try:
                for mismatch in recompute_items(made, read):
                    yield Finding("differs", made.trial, str(mismatch))
            except StoreError as error:
                yield Finding("missing", made.trial, f"test items of measurement {sha}: {error}")


def _calibrations(store: Store, config: CampaignConfig, rows: list[Row]) -> Iterator[Finding]:
    """The start's replicates in lineage must be those of the one calibration that the campaign began with."""
    held, sha = None, config.calibration_sha256
    try:
        held = Calibration.model_validate_json(get_blob(store, sha)) if rows and sha else None
    except (StoreError, ValueError):
        pass  # a blob that is gone or damaged is told by its own finding
    for number, row in enumerate(rows):
        right = held is not None and (row.scores, row.seeds) == (list(held.scores), list(held.seeds))
        if number or not right or row.scores != list(config.calibration):
            text = f"calibration {number + 1} with scores {row.scores} is not the one the campaign began with"
            yield Finding("differs", row.campaign, text)


def evidence_of(
    store: Store, config: CampaignConfig, row: Row, measured: Callable[[str], Measurement | None]
) -> Evidence | None:
    """What the label stage had of a trial, from the results that the stages stored."""
    trial = row.trial or ""
    raw = get_result(store, config.id, trial, "build")
    if raw is None:
        return None
    return Evidence(
        build=BuildChecks.model_validate_json(raw).checks,
        runs=tuple(_runs(store, config, trial, "calibrate" if row.parent is None else "screen")),
        measurement=measured(row.measurement_sha256) if row.measurement_sha256 else None,
    )


def _runs(store: Store, config: CampaignConfig, trial: str, purpose: str) -> Iterator[TrainRun]:
    """The runs of a trial in order: of each part of a raced screen the newest training."""
    newest: dict[int, int] = {}
    for name in list_results(store, config.id, trial):
        found = re.fullmatch(rf"{purpose}(?:-(\d+))?-train-(\d+)", name)
        if found is not None:
            first = int(found[1] or 0)
            newest[first] = max(int(found[2]), newest.get(first, 0))
    for first, number in sorted(newest.items()):
        stored = get_result(store, config.id, trial, f"{part_name(purpose, first)}-train-{number}")
        if stored is not None:
            yield from Trained.model_validate_json(stored).runs
