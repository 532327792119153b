"""`verify`: re-hash every object of a store and name what is missing, altered, swapped, added or out of order.

Use: `report = verify(store, "c-golf-1", relabel=..., anchor="c-golf-1:12:3050:ab12…")`; `report.ok`.
`relabel(store, view)` recomputes labels and promotions and yields findings; it comes from flows, because
lineage does not import evaluators.
Limits: nothing later confirms the last rows of a writer that are not compacted yet, and somebody who can
rewrite the whole store can rewrite its anchors: keep the printed anchor line elsewhere and pass it here.
Reads every byte once (about 100 MB/s locally) with one part in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from lineage.errors import StoreCorrupt, StoreError, UnknownName
from lineage.ids import HEX64, sha256
from lineage.log.log_reader import Lineage, list_campaigns
from lineage.log.packs import decode_pack, pack_folder, pack_range
from lineage.log.parquet_files import decode_part, log_event, part_folder, part_key, part_number
from lineage.log.part_anchors import anchor_bytes, anchor_folder, anchor_key, parse_anchor
from lineage.queries import View
from lineage.store.blobs import blob_key, read_manifest, unpack
from lineage.store.objects import MARKER, MARKER_BYTES, Store
from lineage.store.results import claim_bytes, claim_place, read_claim
from lineage.verify.findings import Finding, VerifyReport
from lineage.verify.row_checks import RowCheck

Relabel = Callable[[Store, View], Iterable[Finding]]
Progress = Callable[[int, int], None]
BATCH = 64


def verify(
    store: Store,
    campaign: str | None = None,
    relabel: Relabel | None = None,
    anchor: str | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check one campaign, or all of them when none is named; every blob of the store is checked either way."""
    known = list_campaigns(store)
    if campaign is not None and campaign not in known:
        raise UnknownName("campaign", campaign, known, f"in {store.root}")
    for attempt in range(4):
        try:
            check = _Check(store, [campaign] if campaign else known, known, progress, strict=attempt < 3)
            _run(check, anchor)
            break
        except _Moved:
            continue  # a compactor deleted log objects meanwhile: look at the store again
    if anchor and parse_anchor(anchor).campaign not in known:
        said = parse_anchor(anchor).campaign
        check.found("missing", store.root, f"the anchor speaks of campaign {said}, which is not here")
    if relabel is not None and check.report.ok:
        for name in check.report.campaigns:
            check.report.findings += relabel(store, Lineage(store, name).refresh())
    return check.report


class _Moved(Exception):
    """A log object that was listed has been compacted since."""


def _run(check: _Check, anchor: str | None) -> None:
    check.marker()
    check.blobs()
    for name in check.known:
        check.campaign(name, anchor if anchor and parse_anchor(anchor).campaign == name else None)
    check.orphans()


class _Check:
    """State of one run: what was seen, what refers to what."""

    def __init__(
        self, store: Store, wanted: list[str], known: list[str], progress: Progress | None, *, strict: bool
    ) -> None:
        self.store = store
        self.strict = strict
        self.wanted = wanted
        self.report = VerifyReport(store.root, campaigns=wanted)
        self.progress = progress
        # Rows are listed before what they refer to, because writers go the other way round.
        self.keys = [*store.list("log"), *store.list("lineage")]
        self.keys += [key for key in store.list("") if not key.startswith(("log/", "lineage/"))]
        self.folders: dict[str, list[str]] = {}
        for key in self.keys:
            self.folders.setdefault(key.rpartition("/")[0], []).append(key)
        self.done = 0
        self.blob_kinds: dict[str, str] = {}  # sha -> "" or, for a tree manifest, its shas joined
        self.mentions: set[str] = set()
        self.seen: set[str] = set()
        self.damaged: set[str] = set()
        self.known = known

    def found(self, kind: str, where: str, text: str) -> None:
        self.damaged.add(where)
        self.report.findings.append(Finding(kind, where, text))  # type: ignore[arg-type]

    def read(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Every object, in batches; one that cannot be read is a finding."""
        for start in range(0, len(keys), BATCH):
            batch = keys[start : start + BATCH]
            try:
                found = list(zip(batch, self.store.get_many(batch), strict=True))
            except FileNotFoundError:
                found = []
                for key in batch:
                    try:
                        found.append((key, self.store.get(key)))
                    except FileNotFoundError:
                        self.found(
                            "missing",
                            key,
                            "was listed and is gone: compacted meanwhile, or deleted; run again",
                        )
            for key, data in found:
                self.seen.add(key)
                self.done += 1
                self.report.objects += 1
                self.report.bytes += len(data)
                yield key, data
            if self.progress is not None:
                self.progress(self.done, len(self.keys))

    def below(self, folder: str) -> list[str]:
        return [key for key in self.keys if key.startswith(f"{folder}/")]

    def marker(self) -> None:
        for key, data in self.read([MARKER] if MARKER in self.keys else []):
            if data != MARKER_BYTES:
                self.found("altered", key, f"holds {data[:40]!r}")
        if MARKER not in self.keys:
            self.found("missing", MARKER, "the store has lost its marker")

    def blobs(self) -> None:
        """Every blob must hash to its name."""
        wrong: list[tuple[str, str]] = []
        for key, data in self.read(self.below("blobs")):
            sha = key.rsplit("/", 1)[-1].removesuffix(".zst")
            if not HEX64.fullmatch(sha) or blob_key(sha) != key:
                self.seen.discard(key)
                continue
            try:
                content = unpack(data, key)
            except StoreCorrupt as error:
                self.found("altered", key, str(error))
                continue
            if sha256(content) != sha:
                wrong.append((key, sha256(content)))
                continue
            self.blob_kinds[sha] = _mentioned(content, sha)
        for key, actual in wrong:
            other = blob_key(actual) in self.keys
            what = "the content of another object" if other else "other content"
            self.found("swapped" if other else "altered", key, f"holds {what} (sha256 {actual[:16]}…)")

    def campaign(self, name: str, anchor: str | None) -> None:
        """Parts, log, packs, anchors, claims and rows of a campaign."""
        before = len(self.report.findings)
        rows = RowCheck(name, self.store.root)
        last = self._parts(name, rows, anchor)
        for key, data in self.read([k for k in self.folders.get(f"log/campaign={name}", []) if log_event(k)]):
            rows.log(key, data)
        self._packs(name)
        self._claims(name, rows)
        self.report.findings += rows.finish(last)
        for sha, where in rows.references.items():
            self._must_exist(sha, where)
        for sha, where in rows.trees.items():
            for entry in self.blob_kinds.get(sha, "").split():
                self._must_exist(entry, f"source tree {sha[:16]}… of {where}")
        self.mentions |= rows.mentions
        if name not in self.wanted:  # read only for what its rows refer to
            del self.report.findings[before:]
        else:
            self.report.rows += rows.count

    def _parts(self, name: str, rows: RowCheck, anchor: str | None) -> int:
        """The chain of parts against itself and against the anchors; returns the number of the last part."""
        keys = [key for key in self.folders.get(part_folder(name), []) if part_number(key)]
        numbers = [part_number(key) or 0 for key in keys]
        for gap in sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers)):
            self.found(
                "missing", part_key(name, gap), "a part between others is gone; restore it from a copy"
            )
        prev: str | None = None
        shas: dict[int, tuple[str, int]] = {}
        for (key, data), number in zip(self.read(keys), numbers, strict=False):
            try:
                table, footer = decode_part(key, data)
            except StoreCorrupt as error:
                self.found("altered", key, str(error))
                rows.unreadable = True
                prev = sha256(data)
                continue
            if (number == 1 or number - 1 in numbers) and footer.prev_sha256 != prev:
                self.found(
                    "chain",
                    key,
                    f"does not continue part {number - 1}: one of the two was altered or replaced",
                )
            if footer.rows_before != rows.count and not rows.unreadable:
                self.found(
                    "chain", key, f"says {footer.rows_before} rows come before it; there are {rows.count}"
                )
            rows.part(key, table, footer)
            prev = sha256(data)
            shas[number] = (prev, footer.rows_before + footer.rows)
        self._anchors(name, shas, set(numbers), anchor)
        return max(numbers, default=0)

    def _anchors(
        self, name: str, shas: dict[int, tuple[str, int]], numbers: set[int], given: str | None
    ) -> None:
        for key, data in self.read(self.folders.get(anchor_folder(name), [])):
            digits = key.rsplit("part-", 1)[-1].removesuffix(".json")
            number = int(digits) if digits.isdigit() else 0
            if key != anchor_key(name, number):
                self.seen.discard(key)
            elif number not in numbers:
                self.found(
                    "missing",
                    part_key(name, number),
                    f"{key} vouches for it: the part was deleted or rolled back",
                )
            elif number in shas and data != anchor_bytes(name, number, *shas[number]):
                self.found(
                    "altered",
                    part_key(name, number),
                    f"does not match its anchor {key}: one of the two was altered",
                )
        if shas:
            last = max(shas)
            self.report.anchors[name] = f"{name}:{last}:{shas[last][1]}:{shas[last][0]}"
            if anchor_key(name, last) not in self.keys:
                self.found(
                    "unvouched",
                    part_key(name, last),
                    "the last part has no anchor yet; the next compaction writes it",
                )
        if given is None:
            return
        said = parse_anchor(given)
        if shas.get(said.part) != (said.sha256, said.rows):
            what = "was altered" if said.part in numbers else "is gone"
            self.found("altered" if said.part in numbers else "missing", part_key(name, said.part),
                       f"{what}: the anchor given says {said.rows} rows and sha256 {said.sha256[:16]}…")  # fmt: skip

    def _packs(self, name: str) -> None:
        """Checks that a pack has exactly the rows of its parts."""
        for key, data in self.read([k for k in self.folders.get(pack_folder(name), []) if pack_range(k)]):
            try:
                pack = decode_pack(key, data)
                numbers = range(pack.first, pack.first + len(pack.shas))
                stored = [
                    (part_key(name, number), self.store.get(part_key(name, number))) for number in numbers
                ]
                tables = [decode_part(part, content)[0] for part, content in stored]
            except StoreError as error:
                self.found("altered", key, f"cannot be compared with its parts: {error}")
                continue
            ends = 0
            for table in tables:
                if not pack.table.slice(ends, table.num_rows).equals(table):
                    self.found(
                        "altered",
                        key,
                        "does not hold the rows of its parts; delete it, packs are only copies",
                    )
                    break
                ends += table.num_rows
            else:
                if ends != pack.table.num_rows or [sha256(content) for _, content in stored] != list(
                    pack.shas
                ):
                    self.found(
                        "altered", key, "does not vouch for its parts; delete it, packs are only copies"
                    )

    def _claims(self, name: str, rows: RowCheck) -> None:
        for key, data in self.read(self.below(f"results/campaign={name}")):
            place = claim_place(key)
            if place is None:
                self.seen.discard(key)
                continue
            try:
                sha = read_claim(data, key)
                payload = unpack(self.store.get(blob_key(sha)), key) if sha in self.blob_kinds else None
            except StoreError as error:
                self.found("altered", key, str(error))
                continue
            self._must_exist(sha, key)
            if payload is not None and data != claim_bytes(*place, payload):
                self.found(
                    "altered",
                    key,
                    "does not match its place or payload: altered, or exchanged with another claim",
                )
            elif payload is not None:
                rows.claim(key, place[1], place[2], sha, payload)

    def _must_exist(self, sha: str, where: str) -> None:
        self.mentions.add(sha)
        if sha not in self.blob_kinds and blob_key(sha) not in self.damaged:
            self.found("missing", blob_key(sha), f"{where} refers to it; restore it from a copy")

    def orphans(self) -> None:
        """Blobs that no row, claim or tree of any campaign mentions, and files that Bakeoff did not write."""
        reached: set[str] = set()
        todo = [sha for sha in self.mentions if sha in self.blob_kinds]
        while todo:
            sha = todo.pop()
            if sha in reached:
                continue
            reached.add(sha)
            todo += [found for found in HEX64.findall(self.blob_kinds[sha]) if found in self.blob_kinds]
        for sha in sorted(set(self.blob_kinds) - reached):
            self.found(
                "orphaned", blob_key(sha), "nothing refers to it (a crash before its row, or a deleted row)"
            )
        for key in sorted(set(self.keys) - self.seen):
            if not key.startswith(
                ("probe/", "beacon/", "reports/")
            ):  # reports are made from the record, again at will
                self.found("foreign", key, "was not written by Bakeoff and is not read")


def _mentioned(content: bytes, sha: str) -> str:
    """The hashes that a blob mentions: a tree manifest's files, or the hashes in a JSON payload."""
    if b"\0" in content[:5000]:
        try:
            return " ".join(read_manifest(content, sha).values())
        except StoreCorrupt:
            return ""
    if content[:1] in (b"{", b"["):
        return " ".join(HEX64.findall(content.decode("utf-8", "replace")))
    return ""
