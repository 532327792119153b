"""Rows and short reads that the journal tests share."""

from __future__ import annotations

from lineage.log.log_reader import Lineage
from lineage.records import Row
from lineage.store.objects import Store

C = "c-test"


def row(number: int, **more: object) -> Row:
    return Row.model_validate(
        {
            "event": "trial",
            "campaign": C,
            "trial": f"t{number:04d}",
            "status": "discard",
            "score": number / 7,
            **more,
        }
    )


def numbers(store: Store) -> list[str | None]:
    return [found.trial for found in Lineage(store, C, "min").refresh().trials()]
