"""Text that lies in a sandbox for nothing: a predictor whose bytes are counted finds no sources and no documentation."""

from __future__ import annotations

import inspect
import json
import marshal
import re
import subprocess
import sys
from pathlib import Path
from types import CodeType

import pytest
import workbench as wb

from evaluators.judge.judge_client import Bench
from evaluators.judge.sandbox import compiled_packages, prove_level
from evaluators.judge.sandbox.compiled_packages import reduced, without_comments, without_prose

pytestmark = pytest.mark.skipif(
    prove_level.best().level != "strong", reason="this machine's sandbox is not strong"
)

# what a predictor may do: walk every mount, and ask the objects that it has
SEARCH = """
import json, os, re, sys
import numpy as np

def load(artifact):
    return np.load(artifact / "table.npy")

def found():
    skipped = ("/proc", "/dev", "/sys", "/release", "/recipe", "/fake", "/bench")
    files = {}
    for base, folders, names in os.walk("@TOP@"):
        folders[:] = [n for n in folders if os.path.join(base, n) not in skipped]
        for name in names:
            path = os.path.join(base, name)
            try:
                with open(path, "rb") as handle:
                    data = handle.read(4)
                    data += handle.read() if data not in (b"\\x7fELF", b"!<ar") else b""
            except OSError:
                continue
            if data[:4] not in (b"\\x7fELF", b"!<ar"):
                files[path] = data.lower()
    # not os: it is part of the interpreter's binary
    docs = [getattr(sys.modules[m], "__doc__", None) or "" for m in list(sys.modules) if m[:5] in ("numpy", "json.")]
    docs += [f.__doc__ or "" for m in (np, json) for f in vars(m).values() if type(f).__name__ == "function"]
    return files, docs

def predict(model, inputs):
    files, docs = found()
    words = [len(re.findall(rb"\\w (?:the|and|which) \\w", text)) for text in files.values()]
    told = {
        "sources": sorted(p for p in files if p.endswith((".py", ".h", ".rst", ".html")))[:2],
        "words": sum(words),
        "docs": sum(len(re.findall(r"\\w the \\w", text)) for text in docs),
        "programs": len(os.listdir("/usr/bin")) if os.path.isdir("/usr/bin") else 0,
    }
    raise RuntimeError(json.dumps(told))
"""
BYTES = {"gates": [{"quantity": "total_bytes", "at_most": 100_000, "on": "each"}]}


def language(folder: Path, **changes: object) -> Bench:
    """The same folder has the same copy of the packages."""
    budget = {**wb.BUDGET, "predict_cpu_s": 60, "predict_wall_s": 600}
    return wb.language(folder / "w", budget=budget, **changes)


def seen(folder: Path, top: str, **changes: object) -> dict[str, object]:
    """What a predictor finds under `top`, told in its exception."""
    bench = language(folder, **changes)
    search = SEARCH.replace("@TOP@", top)
    outcome = wb.run(bench, {**wb.BIGRAM, "predict.py": search}, folder)
    assert outcome.measurement is not None
    (result,) = outcome.measurement.per_seed
    assert result.facts is not None, result
    told = re.search(r"\{.*\}", result.facts.exception)
    assert told, result
    return dict(json.loads(told[0]))


def test_where_bytes_count_a_predictor_finds_no_text(tmp_path: Path) -> None:
    """Of one folder of Python's library the search finds more where bytes have no price than of everything where they have."""
    bounded = seen(tmp_path / "bounded", "/", **BYTES)
    free = seen(tmp_path / "free", str(Path(json.__file__).parent))
    assert free["sources"] and bounded["sources"] == []
    assert bounded["docs"] < 0.1 * free["docs"]  # type: ignore[operator]
    assert bounded["programs"] <= 1  # type: ignore[operator]
    assert bounded["words"] < 2000  # type: ignore[operator]
    honest = wb.run(language(tmp_path / "bounded", **BYTES), wb.BIGRAM, tmp_path / "honest")
    plain = wb.run(language(tmp_path / "free"), wb.BIGRAM, tmp_path / "plain")
    assert honest.cause is None and honest.score == pytest.approx(plain.score)


TEXT = "Return the width of a table that was built from all rows."
MODULE = f'''"""{TEXT}"""
# {TEXT}
NAMES = "alpha beta gamma delta epsilon zeta eta theta"
PATTERN = r"""(?x) the word of a line  # {TEXT * 4}"""
HELP = "{TEXT * 5} {{count}} of them"
TEMPLATE = """
def f(self):
    return {{body}}  # {TEXT * 5}
"""


class Table:
    """{TEXT}"""

    def width(self):
        """{TEXT}

        Second line about it.
        """
        return "short words of it"
'''


def test_prose_goes_and_what_programs_use_stays() -> None:
    code = without_prose(compile(MODULE, "m.py", "exec"))
    assert isinstance(marshal.loads(marshal.dumps(code)), CodeType)
    space: dict[str, object] = {"__name__": "m"}
    exec(code, space)
    table = space["Table"]
    assert space["NAMES"] == "alpha beta gamma delta epsilon zeta eta theta"
    assert str(space["PATTERN"]).startswith("(?x) the word") and "return {body}" in str(space["TEMPLATE"])
    assert str(space["HELP"]).split() == ["Return", "{count}"]
    documents = [space["__doc__"], table.__doc__, inspect.getdoc(table.width)]  # type: ignore[attr-defined]
    assert all("width" not in str(text) for text in documents)
    assert table().width() == "short words of it"  # type: ignore[operator]


def test_text_that_is_formatted_and_settings_that_read_their_source() -> None:
    assert reduced(
        "The {input} is one of the {kinds} that \\text{{out}} has.\n   first of the lines"
    ).split() == [*("The", "{input}{kinds}", "first")]
    source = 'a = "#"  # what it is\n# @compile_ignored: kept\nb = 1\n'
    assert without_comments(source) == 'a = "#"  \n# @compile_ignored: kept\nb = 1\n'


def test_a_copy_is_made_once(tmp_path: Path) -> None:
    first = compiled_packages.compiled(("typing_extensions",), (), tmp_path)
    (first / "mark").touch()
    again = compiled_packages.compiled(("typing_extensions",), (), tmp_path)
    assert again == first and (again / "mark").exists()
    names = {path.name for path in (first / "site").iterdir()}
    assert "typing_extensions.pyc" in names
    metadata = next((first / "site").glob("*.dist-info/METADATA")).read_text()
    assert "Version:" in metadata and len(metadata) < 200
    assert not list(first.rglob("*.py")) and (first / "library" / "json" / "decoder.pyc").exists()
    assert sys.version_info >= (3, 11)


USES_TORCH = """
import sys
sys.path[:] = [@LIBRARY@, *(path for path in sys.path if "packages" not in path), @SITE@]
import bz2, contextlib, copy, dataclasses, functools, itertools, lzma, math, struct, typing, zlib
import numpy, torch, torch.fft, torch.linalg
net = torch.nn.TransformerEncoderLayer(8, 2, batch_first=True)
optimizer = torch.optim.AdamW(net.parameters())
net(torch.randn(2, 3, 8)).sum().backward()
optimizer.step()
torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=5).step()
import torch._dynamo
print(torch.__file__)
"""


@pytest.mark.slow  # the copy of torch takes 10 CPU-s
def test_torch_works_from_its_copy(tmp_path: Path) -> None:
    copy = compiled_packages.compiled(("torch", "numpy"), (), tmp_path)
    code = USES_TORCH.replace("@LIBRARY@", repr(str(copy / "library"))).replace(
        "@SITE@", repr(str(copy / "site"))
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(copy / "site" / "torch" / "__init__.pyc")
    left = [
        path
        for path in (copy / "site" / "torch").rglob("*.py")
        if path.name not in ("config.py", "_config.py")
    ]
    assert all("config" in path.name for path in left)
