"""Fit a campaign's texts into a page: columns, compression, and a byte budget that is kept.

Use: `columns(rows, ids)`, `squeeze(obj)` -> gzip + base64 text, `fit_texts(rows, limit)`,
`fit_diffs(order, blob, limit)`.
Limits: every ladder step is deterministic, so the same rows give the same page byte for byte. What
did not fit is said on the page, trial by trial, with the command that shows it.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from flows.report.campaign_digest import loads
from flows.report.device_facts import throttle_text
from lineage.errors import StoreError
from lineage.records import STAGES, Row
from lineage.safe_text import for_terminal

NUMBERS = [
    "score",
    "delta_parent",
    "delta_best",
    "expected_delta",
    "noise_sd",
    "p_value",
    "alpha_spent",
    "gain",
    "gain_low",
    "gain_high",
    "sealed_score",
    "public_score",
    "artifact_bytes",
    "source_bytes",
    "tokens_in",
    "tokens_out",
    "tokens_cache_read",
    "tokens_cache_write",
    "usd",
    "queue_s",
    "build_cpu_s",
    "train_cpu_s",
    "evaluate_cpu_s",
    "engine_cpu_s",
    "peak_bytes",
    "attempt",
    "throttled_runs",
    "device_peak_bytes",
    "energy_j",
    "utilisation",
] + [f"{stage}_s" for stage in STAGES]
WORDS = [
    "arm",
    "role",
    "proposer",
    "model",
    "edit_kind",
    "operator",
    "status",
    "cause",
    "stage",
    "verdict",
    "isolation",
    "machine",
    "accelerator",
    "evaluator_sha256",
    "environment_sha256",
    "bakeoff_version",
]
HASHES = ["source_sha256", "diff_sha256", "prompt_sha256", "exchange_sha256", "measurement_sha256"]
# characters of hypothesis, notes, log excerpt and label sentence kept per trial; the first step that fits the budget is used
TEXT_LADDER = (
    (2000, 8000, 4096, 1000),
    (2000, 2000, 2000, 600),
    (1000, 800, 900, 400),
    (600, 240, 400, 300),
    (300, 0, 160, 200),
    (120, 0, 0, 100),
)
DIFFS_PER_BLOCK = 50
DIFF_CHARS = 16_000  # of one diff; a longer one is cut and says so
FULL_HASHES_UP_TO = 1_500  # trials; 32 random bytes each do not compress
READERS = 8
LEVEL = 6  # of gzip: level 9 takes three times as long for 1 % less


def squeeze(obj: object) -> str:
    """JSON, gzip, base64: no `<` can occur, so no text inside can end the script element that holds it.

    >>> "<" in squeeze({"hypothesis": "</script>"})
    False
    """
    text = json.dumps(obj, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), LEVEL, mtime=0)).decode()


def tidy(value: float | None) -> float | int | None:
    """Six significant digits: a page is read by people, and digits of noise are half its bytes."""
    if value is None or not math.isfinite(value):
        return None
    if isinstance(value, int):
        return value
    short = float(f"{value:.6g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short


def columns(rows: Sequence[Row]) -> dict[str, object]:
    """Rows as columns; a column that is empty throughout is left out, words are dictionary coded."""
    index = {row.trial: i for i, row in enumerate(rows)}
    out: dict[str, object] = {
        "id": [row.trial for row in rows],
        "parent": [index.get(row.parent, -1) for row in rows],
        "incumbent": [index.get(row.incumbent, -1) for row in rows],
        "t_started": [row.t_started.timestamp() if row.t_started else None for row in rows],
        "t_finished": [row.t_finished.timestamp() if row.t_finished else None for row in rows],
        "gate_ok": [row.gate_ok for row in rows],
        "scores": [[tidy(x) for x in row.scores] for row in rows],
        "seeds": [row.seeds for row in rows],
        "numbers": [_object(row.numbers_json) for row in rows],
        "quantities": [_object(row.quantities_json) for row in rows],
        "checks": [_checks(row) for row in rows],
    }
    if any(row.devices for row in rows):
        out["devices"] = [row.devices for row in rows]
        out["throttled"] = [throttle_text(row) or None for row in rows]
    for name in NUMBERS:
        values = [tidy(getattr(row, name)) for row in rows]
        if any(values):
            out[name] = values
    for name in WORDS:
        words = [getattr(row, name) for row in rows]
        known = sorted({str(word) for word in words if word})
        if known:
            code = {word: i for i, word in enumerate(known)}
            out[name] = {"words": known, "codes": [code[str(word)] if word else -1 for word in words]}
    keep = 64 if len(rows) <= FULL_HASHES_UP_TO else 16
    for name in HASHES:
        hashes = [(getattr(row, name) or "")[:keep] for row in rows]
        if any(hashes):
            out[name] = hashes
    return out


def fit_texts(rows: Sequence[Row], limit: int) -> tuple[str, tuple[int, ...]]:
    """Hypotheses, notes, log excerpts and label sentences, cut alike for all trials until they fit `limit` bytes."""
    packed, step = "", TEXT_LADDER[-1]
    for step in TEXT_LADDER:
        packed = squeeze(
            [
                [_cut(text, chars) for row in rows for text in (of(row),)]
                for of, chars in zip(_TEXTS, step, strict=True)
            ]
        )
        if len(packed) <= limit:
            break
    return packed, step


def fit_diffs(
    wanted: Sequence[tuple[int, str]], blob: Callable[[str], bytes], limit: int
) -> tuple[list[tuple[list[int], str]], int]:
    """Diffs in the order given until `limit` bytes are used: ([(trial indexes, packed)], left out)."""
    blocks: list[tuple[list[int], str]] = []
    used = placed = 0
    for start in range(0, len(wanted), DIFFS_PER_BLOCK):
        batch = wanted[start : start + DIFFS_PER_BLOCK]
        with ThreadPoolExecutor(READERS) as pool:  # a remote store answers in tens of milliseconds each
            texts = list(pool.map(lambda item: _read(blob, item[1]), batch))
        found = {str(i): text for (i, _), text in zip(batch, texts, strict=True) if text is not None}
        packed = squeeze(found)
        if used + len(packed) > limit:
            break
        used += len(packed)
        placed += len(batch)
        if found:
            blocks.append(([int(i) for i in found], packed))
    return blocks, len(wanted) - placed


def diff_order(rows: Sequence[Row], first: Sequence[str | None]) -> list[tuple[int, str]]:
    """Which diffs matter most: the champions' chains, then keeps, then the newest of the rest."""
    by_id = {row.trial: i for i, row in enumerate(rows)}
    chosen: dict[int, None] = {}
    for start in first:
        trial = start
        while trial in by_id and by_id[trial] not in chosen:
            chosen[by_id[trial]] = None
            trial = rows[by_id[trial]].parent
    chosen.update({i: None for i, row in enumerate(rows) if str(row.status) == "keep"})
    chosen.update(dict.fromkeys(range(len(rows) - 1, -1, -1)))
    return [(i, sha) for i in chosen if (sha := rows[i].diff_sha256)]


def _read(blob: Callable[[str], bytes], sha: str) -> str | None:
    try:
        text = for_terminal(blob(sha).decode("utf-8", "replace"))
    except (StoreError, OSError):
        return None  # the page says that the diff is not in the store, which is what happened
    return (
        text if len(text) <= DIFF_CHARS else text[:DIFF_CHARS] + f"\n… cut, {len(text):,} characters in all\n"
    )


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[: max(chars - 1, 0)] + "…" if chars else ""


_TEXTS: tuple[Callable[[Row], str], ...] = (
    lambda row: for_terminal(row.hypothesis or ""),
    lambda row: for_terminal(row.notes or ""),
    lambda row: for_terminal(row.error_excerpt or ""),
    lambda row: for_terminal(str(loads(row.detail_json).get("label") or "")),
)


def _checks(row: Row) -> list[list[object]] | None:
    """[name, passed, seconds] of the preflight checks, and the gates and audits without seconds."""
    facts = loads(row.detail_json)
    found: list[list[object]] = []
    for kind in ("checks", "gates", "audits"):
        listed = facts.get(kind)
        for check in listed if isinstance(listed, list) else []:
            if isinstance(check, dict):
                took = check.get("seconds") if kind == "checks" else None
                name = for_terminal(str(check.get("name", "")))[:60]
                found.append(
                    [name, bool(check.get("passed")), tidy(took) if isinstance(took, float) else None]
                )
    return found[:24] or None


def _object(text: str) -> Mapping[str, object] | None:
    found = loads(text)
    if not found:
        return None
    return {
        str(k)[:60]: tidy(v) if isinstance(v, int | float) else str(v)[:300]
        for k, v in list(found.items())[:24]
    }
