"""The artifact stream: however it is cut up it seals the same, and no stream of bytes writes elsewhere."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.judge.judge_hashes import artifact_sha256
from evaluators.judge.sandbox.receive_artifact import MAX_FILES, Sealer, head, tail
from lineage.ids import tree_hash

NAMES = st.from_regex(r"[a-z0-9_]{1,8}(/[a-z0-9_]{1,8}){0,2}\Z", fullmatch=True)
FILES = st.dictionaries(NAMES, st.binary(max_size=300), min_size=1, max_size=6)
CAP = 100_000


def frame(name: bytes, data: bytes, size: int | None = None) -> bytes:
    return head(name, len(data) if size is None else size) + data


def stream(files: dict[str, bytes]) -> bytes:
    body = b"".join(frame(name.encode(), data) for name, data in sorted(files.items()))
    return body + tail(len(files))


def lawful(files: dict[str, bytes]) -> dict[str, bytes]:
    """Without names that are folders of others."""
    return {n: d for n, d in files.items() if not any(o.startswith(n + "/") for o in files)}


def feed(folder: str, data: bytes, cuts: list[int], cap: int = CAP) -> Sealer:
    sealer = Sealer(folder, cap)
    points = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    for start, stop in itertools.pairwise(points):
        if not sealer.rule:
            sealer.feed(data[start:stop])
    return sealer


@settings(max_examples=60, deadline=None)
@given(FILES, st.lists(st.integers(0, 10_000), max_size=12))
def test_any_cutting_seals_the_same_files(files: dict[str, bytes], cuts: list[int]) -> None:
    files = lawful(files)
    with tempfile.TemporaryDirectory() as folder:
        found = feed(folder, stream(files), cuts).result()
        assert found["bytes"] == sum(len(n) + len(d) for n, d in files.items())
        assert found["files"] == {n: len(d) for n, d in files.items()}
        assert {n: (Path(folder) / n).read_bytes() for n in files} == files
        assert artifact_sha256(Path(folder)) == tree_hash(files)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=400),
        st.builds(
            lambda n, d, s: frame(n, d, s),
            st.binary(max_size=60),
            st.binary(max_size=60),
            st.integers(0, 2**64 - 1),
        ),
    ),
    st.lists(st.integers(0, 400), max_size=4),
)
def test_no_stream_writes_outside_its_folder(data: bytes, cuts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as top:
        inside = Path(top) / "a" / "b" / "c"
        inside.mkdir(parents=True)
        sealer = feed(str(inside), data, cuts)
        assert not sealer.done or sealer.files is not None
        outside = set(Path(top).rglob("*")) - {Path(top) / "a", Path(top) / "a" / "b"}
        assert all(p == inside or inside in p.parents for p in outside)
        assert not any(p.is_symlink() for p in outside)


@given(st.integers(0, 2**63), st.integers(1, 10_000))
def test_what_is_announced_is_capped_before_it_is_written(size: int, cap: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sealer = Sealer(folder, cap)
        sealer.feed(frame(b"x", b"", size))
        assert (sealer.rule == "oversize") == (size + 1 > cap)
        if sealer.rule:
            assert sealer.result()["numbers"]["over"] == size + 1 - cap
            assert list(Path(folder).iterdir()) == []


def test_rules_by_name() -> None:
    cases = {
        "artifact_name": frame(b"../x", b""),
        "artifact_count": frame(b"a", b"1") + tail(2),
        "artifact_trailing": frame(b"a", b"1") + tail(1) + b"z",
        "artifact_stream": b"Zzz",
    }
    for rule, data in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            assert feed(folder, data, []).result()["rule"] == rule
    with tempfile.TemporaryDirectory() as folder:
        many = b"".join(frame(b"f%d" % n, b"") for n in range(MAX_FILES + 1))
        assert feed(folder, many, []).result()["rule"] == "artifact_count"
    with tempfile.TemporaryDirectory() as folder:
        assert feed(folder, tail(0), []).result()["rule"] == "no_artifact"
    with tempfile.TemporaryDirectory() as folder:
        assert feed(folder, frame(b"a", b"half", 90), []).result()["rule"] == "no_artifact"
