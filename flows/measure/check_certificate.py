"""A certificate: one JSON file with which a referee checks a champion without the store and without the data.

Use: `sealed(content)` closes one, `check(data)` gives everything in it that does not hold. It carries the rows
that decide promotions up to the champion's last one, every measurement that these rest on, the items that
measurements name, the plan that was fixed before, and the chain of the record's parts. The check folds the
rows and repeats every test from the replicates by the rules of `evaluators.statistics.recompute`, which is what
`bakeoff verify` does with a store. Limits: it takes the rules of the Bakeoff that checks, for the plan that
the campaign was started with; `UNKNOWN` says what no file can show.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from evaluators.judge.item_scores import Items, unpack
from evaluators.statistics.confirmation import ConfirmPlan
from evaluators.statistics.confirmation_book import Book
from evaluators.statistics.confirmation_inputs import Read
from evaluators.statistics.recompute import recompute_items, recompute_promotions
from flows.engine.campaign_config import commitment, seeds_from
from lineage.environment_spec import EnvironmentSpec
from lineage.errors import StoreCorrupt, StoreError, UsageError
from lineage.ids import canonical_json, sha256
from lineage.records import Measurement, Row
from lineage.script_task import NOT_APPLICABLE, TRUST_MEANS

FORMAT = "bakeoff certificate 1"
LARGEST = 1 << 30
UNKNOWN = (
    "that the rows are those in the record's parts: `bakeoff verify RUN` with the anchor shows it",
    "that the judge whose hash is named made the measurements: replay the trial with that version on that data",
    "that the data behind the environment's hash are what the environment says: prepare them again and compare",
    "that nothing was run outside the record",
)


def sealed(content: Mapping[str, Any]) -> bytes:
    """The file: canonical JSON with the sha256 of everything else in it."""
    body = {key: value for key, value in content.items() if key != "sha256"}
    return canonical_json({**body, "sha256": sha256(canonical_json(body))}) + b"\n"


def blob(data: bytes) -> dict[str, str]:
    """Stored bytes as they stand in the file: text, or base64 where they are none."""
    try:
        return {"text": data.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode("ascii")}


def read(data: bytes) -> dict[str, Any]:
    """The content. Raises UsageError when it is no certificate of a version that is known here."""
    try:
        content = json.loads(data)
    except ValueError as error:
        raise UsageError(f"not a certificate: {error}; it is made with `bakeoff certify RUN`") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise UsageError(f"not a certificate that this Bakeoff reads: format {found!r}, need {FORMAT!r}")
    return dict(content)


def check(data: bytes) -> list[str]:
    """Everything that does not hold, as sentences; nothing when all of it does. Raises UsageError."""
    content = read(data)
    try:
        return list(dict.fromkeys(_problems(content)))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        return [f"the certificate is damaged: {type(error).__name__}: {str(error)[:200]}"]


def report_of(data: bytes) -> dict[str, Any]:
    """What `bakeoff verify FILE` says. Keys: ok, problems, claims, cannot_show, text. Raises UsageError."""
    content, problems = read(data), check(data)
    claims, trial = content.get("claims", {}), content.get("subject", {}).get("trial")
    lines = [f"certificate of {trial}: {len(problems)} things do not hold" if problems else _holds(content)]
    lines += [
        "it cannot show:",
        *(f"- {text}" for text in UNKNOWN),
        *(f"- {text}" for text in _unbound(content)),
    ]
    return {
        "ok": not problems,
        "problems": problems,
        "claims": claims,
        "cannot_show": [*UNKNOWN, *_unbound(content)],
        "text": "\n".join(lines),
    }


def _holds(content: Mapping[str, Any]) -> str:
    claims, subject = content["claims"], content["subject"]
    p, level = claims["p_value"], claims["level"]
    tested = f"p = {p:.3g} at a level of {level:.3g}" if p is not None else "no test"
    runs = f"{len(claims['candidate_replicates'])} fresh runs beside {len(claims['incumbent_replicates'])}"
    said = f"{subject['trial']} of {subject['campaign']}: {claims['verdict']} against {claims['against']}, {tested}, {runs}"
    verdict = (claims.get("sealed") or {}).get("sealed_verdict")
    return f"{said}{f'; sealed split: {verdict}' if verdict else ''}: every hash holds and every test is repeated"


def _unbound(content: Mapping[str, Any]) -> list[str]:
    """What this one file cannot show, of what another could."""
    seeds = content.get("seeds", {})
    found = _of_a_script(content.get("spec", {}))
    if not seeds.get("in_record"):
        found.append(
            "that the seeds' secret was fixed before: the record's first row holds no commitment to it"
        )
    if seeds.get("secret") is None:
        found.append(
            "that the seeds are those that the secret draws: it is not shown (`bakeoff certify --reveal`)"
        )
    return found


def _of_a_script(spec: Mapping[str, Any]) -> list[str]:
    """What a script's measurements never have, and how far its score can be believed."""
    if spec.get("task", {}).get("kind") != "script":
        return []
    trust = EnvironmentSpec.model_validate(spec).trust
    return [
        f"that the score is worth more than its trust, {trust}: {TRUST_MEANS[trust]}",
        NOT_APPLICABLE + ("" if spec["task"].get("sealed") else ", sealed split"),
    ]


def _problems(content: dict[str, Any]) -> Iterator[str]:
    body = {key: value for key, value in content.items() if key != "sha256"}
    if content.get("sha256") != sha256(canonical_json(body)):
        yield "the file does not match its own sha256: it was changed after it was made"
    blobs = {sha: _bytes(held) for sha, held in content["blobs"].items()}
    for sha, held in blobs.items():
        if sha256(held) != sha:
            yield f"measurement or artifact {sha[:16]}… does not match its hash"
    plan = ConfirmPlan(**_tuples(content["plan"]))
    spec = EnvironmentSpec.model_validate(content["spec"])
    rows = [Row.model_validate(row) for row in content["rows"]]
    yield from _chain(content["chain"])
    yield from _identities(content, rows, blobs)
    yield from _promotions(rows, plan, spec, blobs)
    yield from _claims(content, rows, plan)
    yield from _seeds(content, rows, blobs)


def _bytes(held: Mapping[str, str]) -> bytes:
    return held["text"].encode("utf-8") if "text" in held else base64.b64decode(held["base64"])


def _tuples(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in plan.items()}


def stored(blobs: Mapping[str, bytes]) -> Callable[[str], Measurement | None]:
    """Measurements by hash; None for one that is not there or is none."""

    def measured(sha: str) -> Measurement | None:
        try:
            return Measurement.model_validate_json(blobs[sha])
        except (KeyError, ValueError):
            return None

    return measured


def items_in(blobs: Mapping[str, bytes]) -> Read:
    """Reads the test items of a measurement from the file."""
    held: dict[str, Mapping[str, Items]] = {}

    def read(measurement: Measurement) -> Mapping[str, Items] | None:
        sha = measurement.items_sha256
        if sha and sha not in blobs:
            raise StoreCorrupt(f"the artifact {sha[:16]}… that a measurement names is not in the file")
        if sha and sha not in held:
            held[sha] = unpack(blobs[sha])[1]
        return held[sha] if sha else None

    return read


def _promotions(
    rows: Sequence[Row], plan: ConfirmPlan, spec: EnvironmentSpec, blobs: Mapping[str, bytes]
) -> Iterator[str]:
    read = items_in(blobs)
    try:
        for mismatch in recompute_promotions(rows, plan, stored(blobs), spec, read):
            yield str(mismatch)
        for sha in named_measurements(rows):
            made = stored(blobs)(sha)
            if made is not None:
                yield from map(str, recompute_items(made, read))
    except StoreError as error:
        yield f"what test items gave cannot be read: {error}"


def of_subject(rows: Sequence[Row], trial: str) -> tuple[Row | None, Row | None]:
    """The last confirmation and the last sealed event of a trial."""
    told = [row for row in rows if row.trial == trial]
    confirmed = [row for row in told if row.event == "confirmation"]
    looked = [row for row in told if row.event == "sealed"]
    return next(reversed(confirmed), None), next(reversed(looked), None)


def claims_of(rows: Sequence[Row], plan: ConfirmPlan, trial: str) -> dict[str, Any]:
    """What the certificate says in short; the check derives it from the rows again."""
    confirmed, looked = of_subject(rows, trial)
    book = Book(plan)
    for row in rows:
        book.read(row)
    said: dict[str, Any] = {"champion_now": trial in book.champions, "incumbent_now": book.incumbent}
    if confirmed is not None:
        detail = json.loads(confirmed.detail_json)
        said |= {
            "verdict": confirmed.verdict,
            "against": confirmed.incumbent,
            "candidate_replicates": list(confirmed.scores),
            "incumbent_replicates": detail.get("incumbent_scores", []),
            "looks": detail.get("looks", []),
            **{name: getattr(confirmed, name) for name in ("score", "gain", "gain_low", "gain_high")},
            "p_value": confirmed.p_value,
            "level": confirmed.alpha_spent,
        }
    if looked is not None:
        names = [name for name in Row.model_fields if name.startswith("sealed_")]
        said["sealed"] = {name: getattr(looked, name) for name in ("public_score", *names)}
    return said


def _claims(content: Mapping[str, Any], rows: Sequence[Row], plan: ConfirmPlan) -> Iterator[str]:
    trial = content["subject"]["trial"]
    again = json.loads(canonical_json(claims_of(rows, plan, trial)))
    for name in sorted({*again, *content["claims"]}):
        said, found = content["claims"].get(name), again.get(name)
        if said != found:
            yield f"claim {name}: the file says {said}, its rows give {found}"
    if again.get("verdict") is None:
        yield f"{trial} has no confirmation among the rows"


def _chain(chain: Mapping[str, Any]) -> Iterator[str]:
    """Each part names the one before it, and the anchor names the last."""
    before: Mapping[str, Any] | None = None
    for part in chain["parts"]:
        number = before["part"] + 1 if before else part["part"]
        rows = before["rows_before"] + before["rows"] if before else part["rows_before"]
        if (part["part"], part["rows_before"]) != (number, rows):
            yield f"part {part['part']}: the chain is not continuous"
        if before is not None and part["prev_sha256"] != before["sha256"]:
            yield f"part {part['part']}: names {str(part['prev_sha256'])[:16]}… as the part before it, not {before['sha256'][:16]}…"
        before = part
    if before is not None:
        total = before["rows_before"] + before["rows"]
        line = f"{chain['campaign']}:{before['part']}:{total}:{before['sha256']}"
        if chain["anchor"] != line:
            yield f"the anchor is {chain['anchor']}, the last part gives {line}"


def _identities(content: Mapping[str, Any], rows: Sequence[Row], blobs: Mapping[str, bytes]) -> Iterator[str]:
    """One environment, one judge, the program that is certified, in every row and measurement of it."""
    subject, hashes = content["subject"], content["hashes"]
    if hashes["spec_sha256"] != sha256(canonical_json(content["spec"])):
        yield "the environment's description does not match its hash"
    if hashes["plan_sha256"] != sha256(canonical_json(content["plan"])):
        yield "the plan does not match its hash"
    measured = stored(blobs)
    for row in rows:
        if row.event not in ("confirmation", "sealed"):
            continue
        where = f"{row.event} of {row.trial}"
        yield from _same(where, row, hashes)
        if row.trial == subject["trial"] and row.source_sha256 != subject["source_sha256"]:
            yield f"{where}: of another program than the certificate's"
        for sha in _named(row):
            made = measured(sha)
            if made is None:
                yield f"{where}: measurement {sha[:16]}… is not in the file"
            else:
                yield from _same(f"measurement {sha[:16]}…", made, hashes)
    for event in of_subject(rows, subject["trial"]):
        own = json.loads(event.detail_json).get("measurements", []) if event is not None else []
        for sha in own:
            made = measured(sha)
            if made is not None and made.source_sha256 != subject["source_sha256"]:
                yield f"measurement {sha[:16]}…: of another program than the certificate's"


def _same(where: str, made: Row | Measurement, hashes: Mapping[str, str]) -> Iterator[str]:
    for name in ("environment_sha256", "evaluator_sha256"):
        if getattr(made, name) not in (None, hashes[name]):
            yield f"{where}: another {name} than the certificate's"


def _named(row: Row) -> list[str]:
    """Hashes of all measurements that an event rests on."""
    detail = json.loads(row.detail_json)
    lists = [value for name, value in detail.items() if name.endswith("measurements")]
    control = ((detail.get("control") or {}).get("numbers") or {}).get("measurement_sha256")
    return [sha for shas in lists for sha in shas] + ([control] if control else [])


def named_measurements(rows: Sequence[Row]) -> list[str]:
    """Hashes of all measurements that the rows rest on, each once."""
    own = [row.measurement_sha256 for row in rows if row.event == "trial" and row.measurement_sha256]
    later = [sha for row in rows if row.event in ("confirmation", "sealed") for sha in _named(row)]
    return list(dict.fromkeys([*own, *later]))


def _seeds(content: Mapping[str, Any], rows: Sequence[Row], blobs: Mapping[str, bytes]) -> Iterator[str]:
    """Recorded seeds are those of the measurements; with the secret shown, those that it draws."""
    subject, told = content["subject"], content["seeds"]
    confirmed, _ = of_subject(rows, subject["trial"])
    if confirmed is None:
        return
    made = [stored(blobs)(sha) for sha in json.loads(confirmed.detail_json).get("measurements", [])]
    used = [seed.seed for m in made if m is not None for seed in m.per_seed]
    if used != list(confirmed.seeds):
        yield f"the row names seeds {list(confirmed.seeds)}, its measurements {used}"
    promised = [row for row in rows if row.event == "campaign" and _commitment(row)]
    if told["in_record"] != bool(promised):
        yield "the record does not hold the seeds' commitment as the file says it does"
    if any(_commitment(row) != told["commitment"] for row in promised):
        yield "the seeds' commitment is not the one that the record's first row holds"
    if told["secret"] is None:
        return
    if commitment(told["secret"]) != told["commitment"]:
        yield "the secret that is shown is not the one that was committed to"
    purpose = f"confirm-{subject['trial']}-candidate"
    drawn = seeds_from(told["secret"], subject["source_sha256"], purpose, told["drawn"], told["skip"])
    if not set(used) <= set(drawn):
        yield f"seeds {used} are not those that the secret draws for this program: {list(drawn)}"


def _commitment(row: Row) -> str:
    detail = json.loads(row.detail_json)
    return str(detail.get("seed_commitment", "")) if isinstance(detail, dict) else ""
