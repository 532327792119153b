"""Properties of ids, rows, blobs and the journal that must hold for any input."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lineage.ids import canonical_json, tree_hash, tree_manifest, uuid7
from lineage.log.journal import Journal
from lineage.log.log_reader import Lineage
from lineage.log.parquet_files import Footer, decode_log, decode_part, encode_log, encode_part, part_key
from lineage.queries import View
from lineage.records import CAUSES, Row, Status
from lineage.schema import SCHEMA, row_hash, seal, strip, to_row
from lineage.script_task import TRUSTS
from lineage.store.blobs import get_blob, pack, put_blob, unpack
from lineage.store.objects import LocalStore, open_store

C = "c-prop"
floats = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=40)
times = st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC))
whole = st.integers(-(2**63), 2**63 - 1)


def column(name: str) -> st.SearchStrategy[Any]:
    """Values for a Row field, by its column type."""
    field = Row.model_fields[name]
    optional = st.none() if field.default is None else st.nothing()
    if name == "status":
        return st.none() | st.sampled_from(list(Status))
    if name == "cause":
        return st.none() | st.sampled_from([word for word in CAUSES if word not in ("illegal", "infra")])
    if name == "trust":
        return st.sampled_from(TRUSTS)
    if name == "verdict":
        return st.sampled_from([None, "confirmed", "unconfirmed"])
    if name == "sealed_verdict":
        return st.sampled_from([None, "generalises", "not shown", "reversed"])
    kind = str(SCHEMA.field(name).type)
    by_kind: dict[str, st.SearchStrategy[Any]] = {
        "string": texts, "int64": whole, "double": floats, "bool": st.booleans(), "timestamp[us, tz=UTC]": times,
        "list<item: double>": st.lists(floats, max_size=3), "list<element: double>": st.lists(floats, max_size=3),
        "list<item: string>": st.lists(texts, max_size=3), "list<element: string>": st.lists(texts, max_size=3),
        "list<item: int64>": st.lists(whole, max_size=3), "list<element: int64>": st.lists(whole, max_size=3),
    }  # fmt: skip
    return optional | by_kind[kind]


events = st.sampled_from(
    ["campaign", "submitted", "trial", "confirmation", "sealed", "intervention", "calibration"]
)
names = [name for name in Row.model_fields if name not in ("event", "campaign")]


@st.composite
def rows(draw: st.DrawFn) -> Row:
    chosen = draw(st.lists(st.sampled_from(names), unique=True, max_size=25))
    return Row(event=draw(events), campaign=C, **{name: draw(column(name)) for name in chosen})


def sealed(row: Row, seq: int = 0) -> dict[str, Any]:
    return seal(row, event_id=uuid7(), writer="w-1", seq=seq, prev=None, now=datetime.now(UTC))


@given(rows())
@settings(max_examples=60, deadline=None)
def test_lineage_row_survives_log_and_part_unchanged(row: Row) -> None:
    record = sealed(row)
    key, data = encode_log(record, C)
    back = decode_log(key, data, C)
    assert to_row(back, C) == row and row_hash(back) == record["row_sha256"]
    part = part_key(C, 1)
    table, footer = decode_part(
        part, encode_part([record], Footer(1, None, 0, 1, (key.rsplit("/", 1)[-1],), ()))
    )
    assert table.schema.equals(SCHEMA) and footer.rows == 1
    stored = strip(table.to_pylist()[0], C)
    assert to_row(stored, C) == row and row_hash(stored) == record["row_sha256"]
    assert Row.model_validate_json(row.model_dump_json()) == to_row(stored, C)


@given(rows(), st.data())
@settings(max_examples=60, deadline=None)
def test_lineage_any_changed_value_changes_the_row_hash(row: Row, data: st.DataObject) -> None:
    record = sealed(row)
    name = data.draw(st.sampled_from([n for n in names if n not in ("cause", "status", "verdict")]))
    value = data.draw(column(name))
    changed = strip({**record, name: value}, C)
    assert (row_hash(changed) == record["row_sha256"]) == (changed.get(name) == record.get(name))


@given(st.text())
def test_lineage_broken_text_never_refuses_a_row(text: str) -> None:
    broken = text + "\ud800"
    record = sealed(Row(event="intervention", campaign=C, notes=broken))
    key, data = encode_log(record, C)
    assert decode_log(key, data, C)["notes"].startswith(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), json_values, max_size=5), st.randoms())
def test_lineage_canonical_json_is_one_text_per_value(value: dict[str, Any], rng: Any) -> None:
    items = list(value.items())
    rng.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(value)
    assert json.loads(canonical_json(value)) == value


paths = st.text(st.characters(codec="utf-8", exclude_characters="\n\0"), min_size=1, max_size=12)
trees = st.dictionaries(paths, st.binary(max_size=20), max_size=5)


@given(trees, trees)
def test_lineage_tree_hash_tells_trees_apart(one: dict[str, bytes], two: dict[str, bytes]) -> None:
    assert (tree_hash(one) == tree_hash(two)) == (one == two)
    assert tree_hash(dict(reversed(one.items()))) == tree_hash(one)
    assert tree_manifest({}) == b""


@given(st.binary(max_size=3000))
@settings(max_examples=60, deadline=None)
def test_lineage_blob_comes_back_and_packs_the_same_twice(data: bytes) -> None:
    assert pack(data) == pack(data) and unpack(pack(data), "k") == data
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(folder)
        assert get_blob(store, put_blob(store, data)) == data


@given(st.lists(st.booleans(), max_size=30))
def test_lineage_ids_only_grow(jumps: list[bool]) -> None:
    seen = [uuid7()]
    for jump in jumps:
        seen.append(uuid7(after="ffff0000-0000-7fff-8000-000000000000" if jump else ""))
        assert seen[-1] > seen[-2] and len(seen[-1]) == 36 and seen[-1][14] == "7"
        if jump:
            assert seen[-1] > "ffff0000-0000-7fff-8000-000000000000"


class JournalAndTable(RuleBasedStateMachine):
    """Any order of appends by several writers, compactions and refreshes shows every row once, in one order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = open_store(self.folder.name, create=True)
        self.writers = [Journal(self.store, C, f"w{at}") for at in range(3)]
        self.reader = Lineage(self.store, C, "min")
        self.other = Lineage(self.store, C, "min")
        self.known: dict[str, str] = {}
        self.late: list[str] = []

    @property
    def expected(self) -> list[str]:
        """Trials in the order of their event ids."""
        return [self.known[event] for event in sorted(self.known)]

    def row(self, score: float | None, status: str) -> Row:
        trial = f"t{len(self.known)}"
        values = {"event": "trial", "campaign": C, "trial": trial, "score": score, "status": status}
        return Row.model_validate(values)

    @rule(
        who=st.integers(0, 2), score=st.none() | floats, status=st.sampled_from(["keep", "discard", "crash"])
    )
    def append(self, who: int, score: float | None, status: str) -> None:
        row = self.row(score, status)
        self.known[self.writers[who].append(row)] = str(row.trial)

    @rule()
    def begin_slow_write(self) -> None:
        self.late.append(uuid7())

    @rule(score=floats)
    def finish_slow_write(self, score: float) -> None:
        """A row whose id was drawn long ago arrives after younger ones were compacted."""
        if self.late:
            row, event = self.row(score, "keep"), self.late.pop(0)
            record = seal(
                row, event_id=event, writer=f"slow-{event}", seq=0, prev=None, now=datetime.now(UTC)
            )
            self.store.create(*encode_log(record, C))
            self.known[event] = str(row.trial)

    @rule(who=st.integers(0, 2))
    def confirm(self, who: int) -> None:
        if self.known:
            row = {"event": "confirmation", "campaign": C, "trial": self.expected[-1], "verdict": "confirmed"}
            self.writers[who].append(Row.model_validate(row))

    @rule(least=st.integers(1, 4))
    def compact(self, least: int) -> None:
        self.other.compact(least)

    @rule()
    def restart_writer(self) -> None:
        self.writers[0] = Journal(self.store, C, "w0")

    @invariant()
    def everything_is_there_once(self) -> None:
        warm = self.reader.refresh()
        assert [row.trial for row in warm.trials()] == self.expected
        cold = Lineage(self.store, C, "min").refresh()
        fresh = View.from_rows(cold.trials(), "min")
        assert warm.trials() == cold.trials()
        assert warm.best_so_far() == cold.best_so_far() == fresh.best_so_far()
        assert warm.failure_counts() == cold.failure_counts() == fresh.failure_counts()
        assert [r.trial for r in warm.rows_of_champions()] == [r.trial for r in cold.rows_of_champions()]
        leader = warm.row_of_leader()
        assert (leader and leader.trial) == (cold.row_of_leader() and cold.row_of_leader().trial)
        assert [row.trial for row in warm.recent(5)] == self.expected[-5:]

    def teardown(self) -> None:
        self.folder.cleanup()


TestJournalAndTable = JournalAndTable.TestCase
TestJournalAndTable.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
