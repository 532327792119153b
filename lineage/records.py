"""Frozen records that cross stages, and the closed lists of statuses and causes.

Everything here is plain data that survives a round trip through JSON unchanged
(`model_dump_json` / `model_validate_json`); NaN and infinity are refused everywhere.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from lineage.script_task import Trust


class Status(StrEnum):
    """The outcome of a trial: the paper's words plus `rejected`."""

    BASELINE = "baseline"
    KEEP = "keep"
    DISCARD = "discard"
    CRASH = "crash"
    PREFLIGHT_CRASH = "preflight_crash"
    SIZE_BLOCKED = "size_blocked"
    TRAIN_BUDGET_OVERRUN = "train_budget_overrun"
    EVAL_BUDGET_OVERRUN = "eval_budget_overrun"
    DISQUALIFIED = "disqualified"
    HARNESS_ABORT = "harness_abort"
    REJECTED = "rejected"


CAUSES = (
    "bad_edit",  # the search text was not found exactly once, or the reply contained no edit
    "outside_surface",  # a unit that the role does not own would change
    "duplicate",  # the resulting program is already in lineage
    "refused",  # the model declined
    "abandoned",  # stopped by a person or by the end of the campaign before it had an outcome
    "syntax",  # does not parse
    "import",  # fails while being imported
    "smoke",  # fails on a few steps of tiny data
    "crash",  # an exception during training or prediction
    "oom",  # memory limit
    "nan",  # non-finite predictions
    "cpu_cap",  # CPU seconds used up
    "wall_cap",  # wall clock used up
    "segfault",  # killed by a signal that the engine did not send
    "no_metric",  # ended well, and a metric was neither printed nor written
    "no_artifact",  # exit 0 and nothing usable written
    "oversize",  # artifact or source over the cap
    "gate_missed",  # a gate of the environment
    "not_causal",  # outputs depend on inputs they must not see
    "illegal",  # illegal:<rule>, a rule of the protocol broken
    "tamper",  # an attempt on the judge or the record
    "pruned",  # ended early by its own training curve
    "infra",  # infra:<what>, a fault of the machine or of Bakeoff
)

STAGES = ("propose", "patch", "build", "train", "evaluate", "label")


def check_cause(cause: str | None) -> str | None:
    """Accept a word of CAUSES, or `illegal:<rule>` / `infra:<what>`; raise ValueError otherwise."""
    if cause is None:
        return None
    head, _, tail = cause.partition(":")
    if head not in CAUSES or bool(tail) != (head in ("illegal", "infra")):
        raise ValueError(f"unknown cause {cause!r}; see lineage.records.CAUSES")
    return cause


Cause = Annotated[str | None, AfterValidator(check_cause)]
Number = int | float | str
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class Usage(Record):
    """Tokens and money of one or more model calls. `usd` is computed from the price table named."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cache_read: int = 0
    tokens_cache_write: int = 0
    usd: Finite = 0.0
    price_table: str = ""
    # left out where there is none, so that the bytes of proposals stored before stay what they are
    searches: int = Field(0, description="searches of the open web", exclude_if=lambda value: not value)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls + other.calls,
            tokens_in=self.tokens_in + other.tokens_in,
            tokens_out=self.tokens_out + other.tokens_out,
            tokens_cache_read=self.tokens_cache_read + other.tokens_cache_read,
            tokens_cache_write=self.tokens_cache_write + other.tokens_cache_write,
            usd=self.usd + other.usd,
            price_table=self.price_table or other.price_table,
            searches=self.searches + other.searches,
        )


class Allowance(Record):
    """What one trial's proposal may spend, reserved before it starts; None means no limit.

    `beyond`: no other trial is being proposed, so its last call may pass the limit by one reply. Without it a call
    that could pass the limit is not made.
    """

    usd: Finite | None = None
    tokens: int | None = None
    beyond: bool = False


class Edit(Record):
    """One search/replace block. `search` must occur exactly once in `path`.

    An empty `search` on a path that does not exist creates the file; a whole-definition
    replacement is the block whose `search` is the old definition.
    """

    path: str
    search: str
    replace: str


class AgentFacts(Record):
    """What is known of one run of a coding agent, seen from outside but for what its own report says.

    `box`: `proven` (what it could not reach is listed by `CampaignConfig.agent_box_holds`) or `trusted` (the user said
    --trust-agent: it ran without a box). `cost`: are dollars known from its own report? `ended`: why it ended.
    """

    name: str
    version: str = ""
    box: Literal["proven", "trusted"]
    ended: str = ""
    exit_code: int | None = None
    seconds: Finite = 0.0
    turns: int | None = None
    cost: Literal["reported", "unknown"] = "unknown"
    tokens: Literal["reported", "unknown"] = "unknown"
    checks: int = 0
    hosts: tuple[str, ...] = Field((), description="what its network passed besides the model's endpoint")
    refused_hosts: tuple[str, ...] = Field((), description="what it asked for and did not get; untrusted")


class Proposal(Record):
    """What a proposer hands in: which program to start from, what to change, why, how much it hopes for."""

    role: str
    proposer: str
    parent: str
    hypothesis: str = Field(max_length=2000)
    expected_delta: Finite | None = None
    edits: tuple[Edit, ...]
    edit_kind: str = ""
    operator: str = ""
    notes: str = Field("", max_length=8000)
    model: str = ""
    usage: Usage = Usage()
    prompt: str = Field("", description="rendered prompt, stored by hash")
    exchange: str = Field("", description="raw exchange as JSON, stored by hash")
    # left out where there is none, so that the bytes of proposals stored before stay what they are
    agent: AgentFacts | None = Field(None, exclude_if=lambda value: value is None)
    sources: tuple[str, ...] = Field(
        (),
        description="pages of the open web that its session was shown; untrusted",
        exclude_if=lambda value: not value,
    )
    outside: tuple[str, ...] = Field(
        (),
        description="changes that no edit can contain, each with its reason: the trial is outside_surface",
        exclude_if=lambda value: not value,
    )


class Device(Record):
    """One accelerator that a process can be given: a whole device, or a part of a divided one (NVIDIA's MIG).

    `index` and `part` are the driver's numbers, `minor` that of its node, `nodes` the device files that a process
    on it opens, `parent` the UUID of the device that a part belongs to.
    """

    uuid: str
    index: int
    minor: int
    name: str
    memory_bytes: int
    capability: str = ""
    driver: str = ""
    part: int | None = None
    parent: str = ""
    nodes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """`3`, or `3:1` for a part of it."""
        return str(self.index) if self.part is None else f"{self.index}:{self.part}"


class DeviceUse(Record):
    """What the driver said of the devices of one run, sampled from its spawn to its end; None: not to be had.

    `peak_bytes` is of the device that used most, above what it used before. `throttled` maps a reason to the
    share of the run in which the clocks of at least one device were lowered for it.
    """

    uuids: tuple[str, ...]
    name: str = ""
    driver: str = ""
    began: datetime
    ended: datetime
    peak_bytes: int | None = None
    energy_j: Finite | None = None
    utilisation: Finite | None = None
    throttled: dict[str, Finite] = {}
    faults: tuple[str, ...] = ()


class Check(Record):
    """One rung of the preflight ladder, or one gate."""

    name: str
    passed: bool
    seconds: Finite = 0.0
    numbers: dict[str, Number] = {}
    detail: str = ""
    device: DeviceUse | None = Field(None, exclude_if=lambda value: value is None)


class _Grown(Record):
    """A record that has got fields since records of it were stored: unset, they are left out of the JSON.

    So an older record that is read and written again keeps its bytes, and with them its hash.
    """

    @model_serializer(mode="wrap")
    def _as_stored(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        stored: dict[str, Any] = handler(self)
        return {name: value for name, value in stored.items() if value or name not in _ADDED}


_ADDED = frozenset(
    {
        *("answers_sha256", "sketch", "artifact_sha256", "items_sha256", "effects"),
        *("prepared", "prepared_cpu_s", "prepared_wall_s"),
    }
)


class RunFacts(_Grown):
    """What the supervisor saw of one candidate process tree, from outside. Nothing in it is claimed by the candidate.

    `end`: how it ended. `cpu_s`/`wall_s` run from data release to the end; `start_cpu_s`/`start_wall_s`
    from spawn to release. `peak_bytes`: highest anonymous plus shared memory of the tree.
    """

    end: Literal["exit", "signal", "cpu_cap", "wall_cap", "oom", "start_cap", "protocol", "infra", "pruned"]
    code: int = 0
    started: bool = True
    cpu_s: Finite = 0.0
    wall_s: Finite = 0.0
    start_cpu_s: Finite = 0.0
    start_wall_s: Finite = 0.0
    peak_bytes: int = 0
    oom_kills: int = 0
    log_tail: str = Field(
        "", description="last part of stdout+stderr, stripped of control characters; untrusted"
    )
    exception: str = Field("", description="'Type: message (file:line)' parsed from the log; untrusted")
    detail: str = ""
    isolation: str = ""
    load_start: Finite = 0.0
    load_end: Finite = 0.0
    effects: dict[str, tuple[str, ...]] = Field(
        {}, description="look -> definitions that were no longer what their files define; untrusted"
    )
    # left out where there is none, so that the bytes and hashes of older measurements stay what they are
    device: DeviceUse | None = Field(None, exclude_if=lambda value: value is None)
    prepared: bool = Field(
        False, description="forked from a process that had imported the packages; else a start of its own"
    )
    prepared_cpu_s: Finite = Field(0.0, description="CPU seconds of that import, which this run did not pay")
    prepared_wall_s: Finite = 0.0


class Artifact(Record):
    """A sealed artifact: the regular files a training run wrote, copied, counted and hashed."""

    sha256: str
    bytes: int
    files: dict[str, int]


class TrainRun(Record):
    seed: int
    facts: RunFacts
    artifact: Artifact | None = None
    cause: Cause = None
    numbers: dict[str, Number] = {}


class SeedResult(_Grown):
    """What the judge measured for one seed: e.g. quantities = {"accuracy": 0.9711, "cpu_seconds": 3.1}.

    `artifact_sha256` names the artifact that answered, `answers_sha256` the bits of what the judge kept of the
    answers, `sketch` is a few projections of them, which rounding moves by less than `lawful_measurement.SAME`.
    """

    seed: int
    quantities: dict[str, Finite] = {}
    cause: Cause = None
    numbers: dict[str, Number] = {}
    facts: RunFacts | None = None
    answers_sha256: str = ""
    sketch: tuple[Finite, ...] = ()
    artifact_sha256: str = ""


class Measurement(_Grown):
    """What the evaluator alone produces; stored create-if-absent, never changed.

    `score` is None when any seed failed or the metric is undefined. `split` is `public` or `sealed`.
    `items_sha256` names the artifact with the result of each test item (`evaluators.judge.item_scores`).
    """

    trial: str
    purpose: Literal["screen", "calibrate", "confirm", "sealed", "replay", "control"]
    split: Literal["public", "sealed"] = "public"
    metric: str
    score: Finite | None
    per_seed: tuple[SeedResult, ...]
    quantities: dict[str, Finite] = Field({}, description="means over seeds")
    gates: tuple[Check, ...] = ()
    audits: tuple[Check, ...] = ()
    artifact_bytes: int = 0
    source_bytes: int = 0
    source_sha256: str
    environment_sha256: str
    evaluator_sha256: str
    isolation: str
    machine: str
    accelerator: str = ""
    load_start: Finite = 0.0
    load_end: Finite = 0.0
    measured_at: datetime
    items_sha256: str = ""
    trust: Trust = Field(
        "judged",
        exclude_if=lambda value: value == "judged",
        description="how far the score can be believed: `lineage.environment_spec.EnvironmentSpec.trust`",
    )


class Label(Record):
    """Status + cause + numbers + one sentence; a pure function of facts (evaluators.statistics.label)."""

    status: Status
    cause: Cause = None
    numbers: dict[str, Number] = {}
    text: str = ""


EventKind = Literal["campaign", "submitted", "trial", "confirmation", "sealed", "intervention", "calibration"]


class Row(Record):
    """One lineage event, flat, as stored. `event == "trial"` rows are the outcomes, one per trial id.

    Other events: `campaign` (start, pause, end and why), `submitted` (a trial id was allocated),
    `confirmation` / `sealed` (later facts about a trial), `calibration`, `intervention` (a person
    acted). Times are UTC; seconds are float; missing is None, never NaN.
    """

    event: EventKind
    campaign: str
    environment: str = ""
    arm: str = ""
    trial: str | None = None
    attempt: int = 0
    role: str | None = None
    proposer: str | None = None
    model: str | None = None
    edit_kind: str | None = None
    operator: str | None = None
    parent: str | None = None
    incumbent: str | None = Field(None, description="the confirmed best when the trial was submitted")
    hypothesis: str | None = None
    expected_delta: Finite | None = None
    notes: str | None = None

    status: Status | None = None
    cause: Cause = None
    numbers_json: str = "{}"
    error_excerpt: str | None = Field(None, max_length=4096)
    stage: str | None = Field(None, description="last stage reached")

    score: Finite | None = None
    delta_parent: Finite | None = None
    delta_best: Finite | None = Field(None, description="against the leader as of recording")
    scores: list[Finite] = Field([], description="per seed")
    seeds: list[int] = []
    quantities_json: str = "{}"
    noise_sd: Finite | None = None
    gate_ok: bool | None = None

    verdict: Literal["confirmed", "unconfirmed"] | None = Field(None, description="of a confirmation event")
    p_value: Finite | None = None
    alpha_spent: Finite | None = None
    gain: Finite | None = None
    gain_low: Finite | None = None
    gain_high: Finite | None = None
    sealed_score: Finite | None = None
    public_score: Finite | None = Field(None, description="public score beside a sealed one")

    artifact_bytes: int | None = None
    source_bytes: int | None = None
    parent_sha256: str | None = None
    source_sha256: str | None = Field(None, description="tree hash of the source snapshot")
    ast_sha256: str | None = Field(None, description="hash of the normalised syntax trees: the duplicate key")
    diff_sha256: str | None = None
    prompt_sha256: str | None = None
    exchange_sha256: str | None = None
    measurement_sha256: str | None = None
    evaluator_sha256: str | None = None
    environment_sha256: str | None = None
    isolation: str | None = None
    machine: str | None = None
    accelerator: str | None = None
    bakeoff_version: str | None = None

    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cache_read: int = 0
    tokens_cache_write: int = 0
    usd: Finite = 0.0

    propose_s: Finite | None = None
    patch_s: Finite | None = None
    build_s: Finite | None = None
    train_s: Finite | None = None
    evaluate_s: Finite | None = None
    label_s: Finite | None = None
    queue_s: Finite | None = None
    build_cpu_s: Finite | None = None
    train_cpu_s: Finite | None = None
    evaluate_cpu_s: Finite | None = None
    engine_cpu_s: Finite | None = None
    peak_bytes: int | None = None
    t_started: datetime | None = None
    t_finished: datetime | None = None
    detail_json: str = Field("{}", description="event-specific facts that have no column")

    deterministic: bool | None = Field(
        None, description="every seed gave the same result; None with fewer than two runs"
    )
    sealed_gain: Finite | None = Field(
        None, description="over the start on the sealed split, positive is better"
    )
    sealed_low: Finite | None = None
    sealed_high: Finite | None = None
    sealed_p: Finite | None = None
    sealed_level: Finite | None = Field(None, description="of this look at the sealed split, one-sided")
    sealed_looks: int | None = Field(None, description="looks at the sealed split up to this one")
    sealed_verdict: Literal["generalises", "not shown", "reversed"] | None = None
    epoch: int = Field(0, description="of the owner that wrote it; 0: no owner did (lineage.log.epochs)")
    devices: list[str] = Field(
        [], description="UUIDs of the accelerators that its runs had, each run its own"
    )
    throttled_runs: int = Field(0, description="seeds in whose runs the clocks of a device were lowered")
    throttle_json: str = Field("{}", description="reason to the largest share of a run in which it applied")
    device_peak_bytes: int | None = None
    energy_j: Finite | None = None
    utilisation: Finite | None = Field(None, description="mean of the timed runs, 0 to 1")
    planned_runs: int | None = Field(
        None, description="runs that the trial was to have; `scores` has fewer where racing ended it"
    )
    slot_s: Finite | None = Field(
        None, description="seconds for which its runs had a slot, all of them added up"
    )
    slot_measured_s: Finite | None = Field(None, description="of these, what a score or a cap rests on")
    slot_starting_s: Finite | None = Field(
        None, description="of these, starts of processes before it and the handling of artifacts"
    )
    measured_cpu_s: Finite | None = Field(None, description="CPU seconds of what was measured")
    trust: Trust = Field(
        "judged", description="how far its score can be believed: judged, evaluated or reported"
    )
