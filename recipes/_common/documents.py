"""Text documents out of parquet shards (column `text`), and their tokens into `.bin` shards.

Use: `texts(path)` yields documents; `encode(texts, tokenizer, ...)` gives token arrays. Limits: needs
pyarrow; raises BadParquet, whose text names the file and what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np


class BadParquet(ValueError):
    pass


def texts(path: Path) -> Iterator[str]:
    """All documents of one shard, row group by row group."""
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        shard = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise BadParquet(f"{path}: not a readable parquet file ({str(error)[:120]})") from None
    with shard:
        if "text" not in shard.schema_arrow.names:
            raise BadParquet(f"{path}: no column 'text', only {', '.join(shard.schema_arrow.names)}")
        for group in range(shard.num_row_groups):
            try:
                column = shard.read_row_group(group, columns=["text"]).column("text").to_pylist()
            except (pyarrow.ArrowException, OSError, ValueError) as error:
                raise BadParquet(f"{path}: row group {group} is damaged ({str(error)[:120]})") from None
            yield from (text for text in column if text)


def token_stream(
    documents: Iterable[str], encode: Callable[[str], list[int]], start: int, limit: int | None = None
) -> tuple[np.ndarray, int]:
    """Tokens of all documents, each behind the token `start`, and the bytes of text that they stand for.

    Stops after the document with which `limit` tokens are reached.
    """
    parts: list[np.ndarray] = []
    have = nbytes = 0
    for document in documents:
        tokens = np.array([start, *encode(document)], dtype=np.uint16)
        parts.append(tokens)
        have += tokens.size
        nbytes += len(document.encode("utf-8"))
        if limit is not None and have >= limit:
            break
    if not parts:
        raise BadParquet("no document with any text")
    return np.concatenate(parts), nbytes
