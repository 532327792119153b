"""Results of the judge that can be written once: a claim key created if absent, plus a content-addressed payload.

Use: `put_result(store, campaign, trial, "screen", payload)` from the engine only; trial processes have
no credentials. Writing the same payload again is quiet; another payload raises `ObjectExists`.
The claim lies at `results/campaign=C/trial=T/NAME.json` and names its place and the payload's sha256 and size.
Limits: the payload is written before the claim, so a crash between leaves an orphaned blob, never a claim
without its bytes.
"""

from __future__ import annotations

import json
import re

from lineage.errors import ObjectExists, ObjectMissing, StoreCorrupt
from lineage.ids import HEX64, canonical_json, check_campaign, check_segment, sha256
from lineage.store.blobs import get_blob, put_blob
from lineage.store.objects import Store

CLAIM_KEY = re.compile(r"results/campaign=([^/]+)/trial=([^/]+)/([^/]+)\.json")


def results_folder(campaign: str, trial: str = "") -> str:
    base = f"results/campaign={check_campaign(campaign)}"
    return f"{base}/trial={check_segment('trial', trial)}" if trial else base


def claim_key(campaign: str, trial: str, name: str) -> str:
    return f"{results_folder(campaign, trial)}/{check_segment('result', name)}.json"


def claim_bytes(campaign: str, trial: str, name: str, payload: bytes) -> bytes:
    """The content of a claim. Campaign, trial and name are part of it, so that two claims cannot be swapped."""
    place = {"campaign": campaign, "trial": trial, "name": name}
    return canonical_json({**place, "bytes": len(payload), "sha256": sha256(payload)})


def claim_place(key: str) -> tuple[str, str, str] | None:
    """campaign, trial and name of a claim key; None for any other file."""
    match = CLAIM_KEY.fullmatch(key)
    return (match[1], match[2], match[3]) if match else None


def read_claim(data: bytes, key: str) -> str:
    """The sha256 that a claim names."""
    try:
        sha = json.loads(data)["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreCorrupt(f"{key} is not a result claim ({error!r}); restore it from a copy") from error
    if not isinstance(sha, str) or not HEX64.fullmatch(sha):
        raise StoreCorrupt(f"{key} names no sha256: {sha!r}; restore it from a copy")
    return sha


def put_result(store: Store, campaign: str, trial: str, name: str, payload: bytes) -> str:
    """Record a result for good and return its sha256; ObjectExists when another one is already recorded."""
    key = claim_key(campaign, trial, name)
    sha = put_blob(store, payload)
    store.create(key, claim_bytes(campaign, trial, name, payload))
    return sha


def first_result(store: Store, campaign: str, trial: str, name: str, payload: bytes) -> bytes:
    """Record a result, or take the one that another worker recorded before: whichever was first counts."""
    try:
        put_result(store, campaign, trial, name, payload)
        return payload
    except ObjectExists:
        kept = get_result(store, campaign, trial, name)
        return payload if kept is None else kept


def get_result(store: Store, campaign: str, trial: str, name: str) -> bytes | None:
    """The recorded payload, hash verified; None when nothing was recorded under this name."""
    key = claim_key(campaign, trial, name)
    try:
        claim = store.get(key)
    except ObjectMissing:
        return None
    payload = get_blob(store, read_claim(claim, key))
    if claim_bytes(campaign, trial, name, payload) != claim:
        raise StoreCorrupt(f"{key} was altered: it does not match its payload; restore it from a copy")
    return payload


def list_results(store: Store, campaign: str, trial: str) -> list[str]:
    """Names of the results recorded for a trial, sorted."""
    folder = results_folder(campaign, trial)
    names = [key[len(folder) + 1 :] for key in store.list(folder)]
    return [name.removesuffix(".json") for name in names if name.endswith(".json") and "/" not in name]
