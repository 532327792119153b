"""Makes the certificate of a champion from a store: `bakeoff certify`. What it holds is checked in `flows.measure.check_certificate`.

Use: `certify(root, config, view, trial)` gives the file's bytes. Limits: rows after the trial's last confirmation
or sealed event are left out, so a title that was lost later shows only in the record; texts of proposals stay out.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from flows.campaign.confirmation_attempts import OFFSET
from flows.engine.campaign_config import CampaignConfig, commitment
from flows.machine.folders import bakeoff_version
from flows.measure.check_certificate import (
    FORMAT,
    UNKNOWN,
    blob,
    claims_of,
    named_measurements,
    sealed,
    stored,
)
from lineage.errors import StoreError, UsageError
from lineage.ids import canonical_json, sha256
from lineage.log.parquet_files import part_folder, part_number, read_footer
from lineage.log.part_anchors import anchor
from lineage.queries import View
from lineage.records import Row, Status
from lineage.store.blobs import get_blob
from lineage.store.objects import Store

DECIDE = ("trial", "confirmation", "sealed", "calibration", "intervention", "campaign", "submitted")
TEXTS = {"hypothesis", "notes", "error_excerpt", "prompt_sha256", "exchange_sha256", "numbers_json"}
POLICY = (
    "seeds are HMAC-SHA256(secret, program | purpose | index); the commitment is a hash of the secret; the secret is "
    "shown with --reveal once a campaign is over, because it foretells the seeds of every later attempt in it"
)


def certify(store: Store, config: CampaignConfig, view: View, trial: str, *, reveal: bool = False) -> bytes:
    """The certificate of a trial's last confirmation. Raises UsageError for a trial that never had one."""
    rows = view.rows()
    last = max((at for at, row in enumerate(rows) if _decides(row, trial)), default=None)
    if last is None:
        raise UsageError(
            f"{trial} was never confirmed, so there is nothing to certify: a certificate is of a confirmation on "
            f"fresh seeds; confirmed in {config.id}: {', '.join(view.ranking.champions) or 'none'}"
        )
    kept = [_kept(row) for row in rows[: last + 1] if row.event in DECIDE]
    subject = next(row for row in rows if row.event == "trial" and row.trial == trial)
    spec, plan = config.spec.model_dump(mode="json"), asdict(config.plan)
    plain = json.loads(canonical_json(plan))
    content: dict[str, Any] = {
        "format": FORMAT,
        "bakeoff_version": bakeoff_version(),
        "subject": _subject(config, subject),
        "spec": spec,
        "plan": plain,
        "hashes": {
            "environment_sha256": config.environment_sha256,
            "evaluator_sha256": config.evaluator_sha256,
            "start_sha256": config.start_sha256,
            "spec_sha256": sha256(canonical_json(spec)),
            "plan_sha256": sha256(canonical_json(plain)),
        },
        "seeds": _seeds(config, kept, trial, reveal),
        "rows": [row.model_dump(mode="json", exclude_defaults=True) for row in kept],
        "blobs": _blobs(store, kept),
        "chain": _chain(store, config.id),
        "claims": claims_of(kept, config.plan, trial),
        "cannot_show": list(UNKNOWN),
    }
    return sealed(content)


def _decides(row: Row, trial: str) -> bool:
    return row.trial == trial and row.event in ("confirmation", "sealed")


def _kept(row: Row) -> Row:
    """A row without texts; an outcome that neither leads nor starts keeps only what counts it."""
    changes = {name: Row.model_fields[name].default for name in TEXTS}
    if row.event == "trial" and row.status not in (Status.KEEP, Status.BASELINE):
        changes |= {"detail_json": "{}", "quantities_json": "{}", "measurement_sha256": None}
    return row.model_copy(update=changes)


def _subject(config: CampaignConfig, row: Row) -> dict[str, Any]:
    return {
        "campaign": config.id,
        "environment": config.spec.name,
        "trial": row.trial,
        "role": row.role,
        "parent": row.parent,
        "source_sha256": row.source_sha256,
        "diff_sha256": row.diff_sha256,
        "machine": row.machine,
        "isolation": row.isolation,
        "campaign_created_at": config.created_at,
    }


def _seeds(config: CampaignConfig, rows: list[Row], trial: str, reveal: bool) -> dict[str, Any]:
    attempts = [row for row in rows if row.event == "confirmation" and row.trial == trial]
    committed = any(
        "seed_commitment" in json.loads(row.detail_json) for row in rows if row.event == "campaign"
    )
    failed = len(json.loads(attempts[-1].detail_json).get("failures", [])) if attempts else 0
    return {
        "commitment": commitment(config.secret),
        "in_record": committed,
        "policy": POLICY,
        "secret": config.secret if reveal else None,
        "drawn": len(attempts[-1].scores) + failed if attempts else 0,
        "skip": OFFSET * (len(attempts) - 1),
    }


def _blobs(store: Store, rows: list[Row]) -> dict[str, dict[str, str]]:
    """Every measurement that the rows name, and the items that these name."""
    held: dict[str, bytes] = {}
    for sha in named_measurements(rows):
        held[sha] = get_blob(store, sha)
    for sha in list(held):
        measurement = stored(held)(sha)
        items = measurement.items_sha256 if measurement is not None else ""
        if items and items not in held:
            held[items] = get_blob(store, items)
    return {sha: blob(data) for sha, data in held.items()}


def _chain(store: Store, campaign: str) -> dict[str, Any]:
    parts = []
    for key in store.list(part_folder(campaign)):
        if part_number(key) is not None:
            data = store.get(key)
            footer = read_footer(key, data)
            parts.append(
                {
                    "part": footer.part,
                    "sha256": sha256(data),
                    "prev_sha256": footer.prev_sha256,
                    "rows": footer.rows,
                    "rows_before": footer.rows_before,
                }
            )
    try:
        line = str(anchor(store, campaign))
    except StoreError:  # nothing compacted yet
        line = ""
    return {"campaign": campaign, "parts": parts, "anchor": line}
