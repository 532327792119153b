"""What an environment is, as read from `recipes/NAME/environment.toml`; and what a role is.

Frozen pydantic models with unknown keys forbidden, so that a misspelt key is an error that names
it. Reading files is done in `flows.environments.loading`; this module has the models only.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lineage.script_task import COSTS as SCRIPT_COSTS
from lineage.script_task import Name as Name
from lineage.script_task import ScriptMetric, Trust, command_faults, matches
from lineage.script_task import Spec as Spec

Quantity = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,59}$")]

# what the judge knows of every run, whatever the task: a gate may name any of them
COSTS = (
    *("cpu_seconds", "wall_seconds", "train_cpu_seconds", "train_wall_seconds"),
    *("predict_cpu_seconds", "predict_wall_seconds", "start_cpu_seconds"),
    *("train_start_cpu_seconds", "train_start_wall_seconds"),
    *("predict_start_cpu_seconds", "predict_start_wall_seconds"),
    *("billed_cpu_seconds", "billed_wall_seconds", "peak_mb"),
    *("artifact_bytes", "source_bytes", "total_bytes"),
)
# of those a score: the others can be lowered by moving work or bytes to where they are not counted
SCORED_COSTS = ("cpu_seconds", "wall_seconds", "total_bytes", "peak_mb")
# what a task's own judge gives; judge.py gives what it returns
QUANTITIES: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1", "log_loss", "auroc"),
    "language_model": ("bits_per_byte", "centered_accuracy"),
    "regression": ("rmse", "mae", "r2"),
    "text": ("word_error_rate", "character_error_rate", "exact_match"),
}
ASKING = ("regression", "text", "judge")  # kinds whose judge is a function that asks


class Score(Spec):
    """The number a campaign improves: a quantity of the task (`QUANTITIES`), one that judge.py returns or a script gives, or a cost."""

    metric: Quantity = Field(
        description="a quantity of the task, one that judge.py returns or a script gives, or a cost: cpu_seconds, wall_seconds, total_bytes, peak_mb"
    )
    direction: Literal["min", "max"] = Field(description="which way is better")
    unit: str = Field(description="shown behind the score; may be empty")
    digits: int = Field(4, description="digits behind the point where a score is shown")


class Task(Spec):
    """What goes over the pipe to the candidate's predictor and what it must answer.

    classification: inputs float32/uint8 arrays, answers float32 (n, outputs).
    language_model: inputs token ids (n, context), answers float32 (n, context, outputs): the
    distribution over the token that FOLLOWS each position.
    regression: inputs arrays, answers float32 (n, outputs).
    text: a list of str, answers a list of as many str.
    judge: what the environment's judge.py asks (`evaluators.judge.ask`).
    script: a command that trains, and metrics read from what it prints or writes; nothing is asked. Its keys are
    `train` to `evaluation_data`; `lineage.script_task` has what the commands may contain.
    """

    kind: Literal["classification", "language_model", "regression", "text", "judge", "script"] = Field(
        description="what is asked of a recipe, and by whom it is judged"
    )
    outputs: int = Field(0, ge=0, description="classes, vocabulary size, or numbers per row of a regression")
    context: int = Field(0, ge=0, description="tokens per request of a language_model; else 0")
    batch: int = Field(256, ge=1, description="rows per request")
    # left out where unset, so that an environment of another kind keeps its hash
    text_bytes: int = Field(
        4096,
        ge=1,
        exclude_if=lambda value: value == 4096,
        description="most bytes of one answer, as UTF-8, of a task of kind text",
    )
    train: str = Field(
        "",
        exclude_if=lambda value: not value,
        description="script: the command that trains, with {seed}, {out} and {data}",
    )
    evaluate: str = Field(
        "",
        exclude_if=lambda value: not value,
        description="script: the protected command that prints the metrics, with {out}, {eval_data} and {data}",
    )
    smoke: str = Field(
        "",
        exclude_if=lambda value: not value,
        description="script: a short form of `train` for the first check of an edit; it must end by itself",
    )
    metrics: list[ScriptMetric] = Field(
        [], exclude_if=lambda value: not value, description="script: its figures, one table each"
    )
    protected: list[str] = Field(
        [],
        exclude_if=lambda value: not value,
        description="script: patterns of files that candidates cannot change; restored before every run",
    )
    evaluator_sees: Literal["protected", "recipe"] = Field(
        "protected",
        exclude_if=lambda value: value == "protected",
        description="script: files beside `evaluate`; with `recipe` also what candidates edit, and the score is `reported`",
    )
    sealed: bool = Field(
        False,
        exclude_if=lambda value: not value,
        description="script: prepare.py writes a folder `sealed` beside `public`, for `evaluate`",
    )
    data: list[str] = Field(
        ["data/**"],
        exclude_if=lambda value: value == ["data/**"],
        description="script without prepare.py: patterns of the source's files that are data, read-only in training",
    )
    evaluation_data: list[str] = Field(
        [],
        exclude_if=lambda value: not value,
        description="script without prepare.py: patterns of the source's files that only `evaluate` sees",
    )

    @model_validator(mode="after")
    def _keys_of_its_kind(self) -> Self:
        if self.kind == "script":
            faults = command_faults(self.train, self.evaluate, self.smoke)
            if not self.metrics:
                faults.append(
                    "metrics: a script needs at least one [[task.metrics]] with a name and a pattern or file"
                )
            names = [metric.name for metric in self.metrics]
            faults += [
                f"metrics: {name!r} twice" for name in sorted({n for n in names if names.count(n) > 1})
            ]
            faults += [
                f"metrics: {name!r} is measured by Bakeoff itself; choose another name"
                for name in names
                if name in COSTS
            ]
            if self.evaluate:
                faults += [
                    f"metrics: {metric.name!r} is read from a file, but with `evaluate` metrics are read from what it prints"
                    for metric in self.metrics
                    if metric.file
                ]
            elif self.sealed or self.evaluation_data:
                faults.append("sealed and evaluation_data are for `evaluate`, which is not given")
            if faults:
                raise ValueError(faults[0])
            return self
        least = {"classification": 2, "language_model": 2, "regression": 1}.get(self.kind, 0)
        if self.outputs < least:
            raise ValueError(f"outputs: a {self.kind} needs at least {least}, got {self.outputs}")
        if self.train or self.evaluate or self.smoke or self.metrics or self.protected:
            raise ValueError(
                f'train, evaluate, smoke, metrics and protected are keys of kind = "script", not of {self.kind}'
            )
        return self


class Gate(Spec):
    """A gate: a limit on a quantity that a valid trial must keep. `on`: the mean itself, or the one-sided confidence bound against the candidate."""

    quantity: str = Field(
        description="a quantity of the task, one that judge.py returns or a script gives, or a cost"
    )
    at_least: float | None = Field(None, description="lowest value that passes; either this or at_most")
    at_most: float | None = Field(None, description="highest value that passes")
    on: Literal["mean", "bound", "each"] = Field(
        "mean",
        description="what is compared: the mean, its confidence bound on the unfavourable side (needs 2 runs), or every run",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the bound")

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"gate on {self.quantity!r} needs exactly one of at_least, at_most")
        return self


class Budget(Spec):
    """Limits of ONE candidate run (one seed). CPU seconds are of the whole process tree."""

    train_cpu_s: float = Field(gt=0, description="CPU seconds of training, from the release of the data")
    train_wall_s: float = Field(gt=0, description="seconds on the clock of training")
    predict_cpu_s: float = Field(gt=0, description="CPU seconds of prediction")
    predict_wall_s: float = Field(
        gt=0, description="seconds on the clock of prediction, judge.py's own between its questions included"
    )
    start_cpu_s: float = Field(60, gt=0, description="import, build and warm-up before data release")
    smoke_wall_s: float = Field(120, gt=0, description="seconds on the clock of the first check on fake data")
    memory_mb: int = Field(gt=0, description="memory of all processes of a run")
    artifact_bytes: int = Field(gt=0, description="cap on the sealed artifact as written by the recipe")
    source_bytes: int = Field(200_000, gt=0, description="size of the source, names included")
    added_bytes: int = Field(
        0,
        ge=0,
        description="compressed bytes that a source may add to the start's; 0: from the labels' entropy",
    )
    tmp_mb: int = Field(256, description="size of /tmp")
    processes: int = Field(64, description="processes and threads at once")
    threads: int = Field(1, description="threads that libraries are told to use")
    gpus: int = Field(0, description="GPUs of one run")
    start_factor: float = Field(
        1.5, ge=1, description="start-up of a process is free up to so many times the start recipe's own"
    )
    predict_factor: float = Field(
        2.0,
        ge=1,
        description="predictions beyond so many times the start's count as training, unless time is the score",
    )
    shm_mb: int = Field(64, gt=0, description="size of /dev/shm: DataLoader workers and NCCL need room there")
    distributed: bool = Field(
        False, description="processes of one run talk over loopback (torch.distributed); implied by gpus > 1"
    )
    # left out where unset, so that an environment that does not ask for it keeps its hash
    fit_to_machine: float = Field(
        1.0,
        ge=1,
        le=4,
        exclude_if=lambda value: value == 1,
        description="caps of seconds are multiplied by at most this on a slower machine; 1: never",
    )
    fitted_by: float = Field(
        1.0,
        ge=1,
        le=4,
        exclude_if=lambda value: value == 1,
        description="by what the caps here have been multiplied; written by the engine",
    )

    @property
    def loopback(self) -> bool:
        """Does a run get sockets of a network of its own, which has the loopback interface and nothing else?"""
        return self.distributed or self.gpus > 1


class Evaluation(Spec):
    """How many seeds decide. `min_gain` is the smallest relative gain worth a confirmation."""

    runs: int = Field(ge=1, description="seeds of a screen")
    confirm_runs: int = Field(ge=2, description="seeds of the first look of a confirmation")
    max_confirm_runs: int = Field(ge=2, description="seeds of its last look")
    calibrate_runs: int = Field(ge=3, description="seeds that measure the start")
    alpha: float = Field(0.05, gt=0, lt=1, description="chance of a false champion over a whole campaign")
    min_gain: float = Field(
        0.0, ge=0, lt=1, description="smallest gain worth a confirmation, as a share of the score"
    )
    min_units: float = Field(0.0, description="the same in units of the score")
    prune: Literal["", "lower", "higher"] = Field(
        "",
        description="which way the value that the recipe reports improves; empty: no run is ended early by it",
    )
    prune_surfaces: list[Name] = Field(
        [],
        description="surfaces whose edits leave the reported curve comparable, step by step, with the parent's",
    )


class AuditBounds(Spec):
    """How far two askings of the same row may lie apart. Fixed by the environment, never by a run.

    Honest float32 networks differ by about 1e-6; half-precision kernels on an accelerator by up to 1e-2.
    """

    worst: float = Field(
        1e-3,
        gt=0,
        description="one answer: bits of a token; for classification, share of the lead that decides",
    )
    mean: float = Field(
        2e-5, gt=0, description="mean bits of a token that the sight of what follows may gain"
    )
    flips: float = Field(0.001, ge=0, description="share of decisions that may differ; one always may")


class Surface(Spec):
    """A named part of the recipe that one specialist may edit.

    `units` maps a file name to the top-level definitions and constants that may change
    (`"make_optimizer"`, `"Net"`, `"Net.forward"`, `"Net.*"`, `"LR"`, or `"*"` for the whole file);
    of a YAML, TOML or JSON file to key paths (`"model.depth"`, `"optim.*"`); of any other text file to `"*"`.
    `allow_new` are name patterns (fnmatch) for new definitions in those files; `imports` are
    modules that an edit may add an import of. `new_files` are path patterns, compared part by part.
    """

    name: Name = Field(description="what roles call it")
    title: str = Field(description="what it is, for people and prompts")
    units: dict[str, list[str]] = Field(
        description="file to the definitions and constants that may change (`Net`, `Net.forward`, `Net.*`, `LR`), keys of a YAML, TOML or JSON file, or `*` for the whole file"
    )
    allow_new: list[str] = Field([], description="patterns of names that an edit may add to those files")
    imports: list[str] = Field([], description="modules that an edit may import")
    new_files: list[str] = Field([], description="patterns of files that an edit may add")


class Runtime(Spec):
    """The interpreter of candidates, smoke test, prediction and prepare.py; Bakeoff's own by default."""

    python: str = Field(
        "",
        description="path of the recipe's own interpreter, from the environment's or the adopted repository's folder",
    )
    build: bool = Field(
        False, description="compilers and headers are in the sandbox (torch.compile, extensions)"
    )
    version: str = Field(
        "", exclude_if=lambda value: not value, description="of that interpreter; written by the engine"
    )


class EnvironmentSpec(Spec):
    schema_version: Literal[1] = Field(1, description="of this file")
    name: Name = Field(description="lower-case letters, digits, underscores")
    title: str = Field(description="one line for people")
    description: str = Field(description="two or three sentences for people and prompts")
    score: Score = Field(description="table: what is improved")
    task: Task = Field(description="table: what is asked")
    gates: list[Gate] = Field([], description="tables: limits that a valid trial keeps")
    budget: Budget = Field(description="table: limits of one run")
    evaluation: Evaluation = Field(description="table: how many runs decide")
    surfaces: list[Surface] = Field(min_length=1, description="tables: the parts that roles edit")
    data: str = Field(
        "", description="first part of the name of the data folder; defaults to the environment's name"
    )
    audits: list[Literal["causality", "batch_invariance", "order_invariance"]] = Field(
        [], description="what answers must not depend on; two processes are then asked"
    )
    audit: AuditBounds = Field(AuditBounds(), description="table: bounds of the audits")
    runtime: Runtime = Field(
        Runtime(),
        exclude_if=lambda value: value == Runtime(),
        description="table: the interpreter of candidates",
    )
    hardware: Literal["cpu", "cuda"] = Field("cpu", description="where a run trains")
    packages: list[str] = Field(["torch", "numpy"], description="what the recipe may import")
    masked_packages: list[str] = Field([], description="hidden in the sandbox: they contain the labels")
    judge_sha256: str = Field(
        "",
        exclude_if=lambda value: not value,
        description="sha256 of the environment's judge.py; written by the engine",
    )
    knowledge_sha256: str = Field(
        "",
        exclude_if=lambda value: not value,
        description="hash of the files in knowledge/; written by the engine",
    )

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [s.name for s in self.surfaces]
        if len(names) != len(set(names)):
            raise ValueError(f"surfaces: the same name twice in {names}")
        unknown = sorted(set(self.evaluation.prune_surfaces) - set(names))
        if unknown:
            raise ValueError(f"evaluation.prune_surfaces: no surface named {unknown[0]!r}; known: {names}")
        if self.task.kind == "language_model" and self.task.context < 1:
            raise ValueError("task.context: a language_model needs the tokens per request")
        if self.task.kind == "script":
            self._check_script(self.quantities)
        return self

    def _check_script(self, quantities: frozenset[str]) -> None:
        if self.score.metric not in quantities:
            raise ValueError(
                f"score.metric: no quantity named {self.score.metric!r}; known: {sorted(quantities)}"
            )
        for gate in self.gates:
            if gate.quantity not in quantities:
                raise ValueError(f"gates: no quantity named {gate.quantity!r}; known: {sorted(quantities)}")
        for surface in self.surfaces:
            for path in surface.units:
                if matches(path, self.task.protected):
                    raise ValueError(
                        f"surfaces.{surface.name}: {path} is protected, so no surface may have it"
                    )
        if self.audits:
            raise ValueError(
                f"audits: {self.audits[0]} asks a predictor, which a script does not have; drop it"
            )

    @property
    def quantities(self) -> frozenset[str]:
        """Names that a measurement may have, beside what judge.py returns: what the task gives, and the costs."""
        if self.task.kind == "script":
            return SCRIPT_COSTS | {metric.name for metric in self.task.metrics}
        return frozenset((*QUANTITIES.get(self.task.kind, ()), *COSTS))

    @property
    def trust(self) -> Trust:
        """How far a score can be believed.

        `judged`: answers were judged outside the candidate's reach. `evaluated`: a protected program printed the score
        in a sandbox that holds no file that candidates edit. `reported`: the recipe's own program said so.
        """
        if self.task.kind != "script":
            return "judged"
        return "evaluated" if self.task.evaluate and self.task.evaluator_sees == "protected" else "reported"

    @property
    def has_items(self) -> bool:
        """Does a measurement keep what each test item gave?"""
        return self.task.kind != "script"

    @property
    def has_sealed_split(self) -> bool:
        """Is there test data that only confirmed trials are scored on?"""
        return self.task.kind != "script" or self.task.sealed

    @property
    def sign(self) -> int:
        """+1 when a higher score is better, -1 when a lower one is."""
        return 1 if self.score.direction == "max" else -1

    def surface(self, name: str) -> Surface:
        return next(s for s in self.surfaces if s.name == name)


class Role(Spec):
    """One specialist: what it owns (surfaces), its brief (Markdown), and how large its edits may be."""

    name: Name = Field(description="the name of its file")
    surfaces: tuple[str, ...] = Field(description="what it may edit")
    brief: str = Field(description="its Markdown: what it owns, what it must not touch")
    max_changed_lines: int = Field(200, description="largest edit, added and removed lines")
