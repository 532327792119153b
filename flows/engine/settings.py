"""The settings of a campaign, each declared once: name, type, default, bounds, group and description.

Sources, later wins: the defaults here, `campaign.toml`, the environment variable `BAKEOFF_<NAME>`, the
command line. The options of `bakeoff run`, `compare` and `fork` (`flows.commands.options`) and the
parameters of the deployed campaign (`parameters`) are made from the model: a new setting is one line.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from lineage.errors import SpecInvalid

SEARCH, LIMITS, MODELS, AGENTS, MACHINE, FAULTS = (
    "The search",
    "Limits",
    "Language models",
    "Coding agents",
    "This machine",
    "Faults and messages",
)
_RENAMED = {"zone": "timezone"}  # names in stores and files of earlier versions


def _setting(default: Any, group: str, description: str, option: str = "", **bounds: Any) -> Any:
    """A field of `Settings`. `option`: how the command line spells it, where that is not `--<name>`."""
    return Field(
        default, description=description, json_schema_extra={"group": group, "option": option}, **bounds
    )


class Settings(BaseModel):
    """Settings of one campaign. Hours, tokens and dollars are caps; None means no cap."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str = Field(description="name of an environment, or a folder with an environment.toml")
    variant: str = _setting("", SEARCH, "variant of the environment, as `bakeoff environments` lists them")
    proposer: Literal["catalogue", "anthropic", "openai", "command", "mcp", "scripted", "replay"] = _setting(
        "catalogue", SEARCH, "who proposes, catalogue without a key; mcp waits for clients of `bakeoff mcp`"
    )
    arm: Literal["specialists", "generic", "single", "no_lineage", "random"] = _setting(
        "specialists", SEARCH, "what the proposers know"
    )
    roles: tuple[str, ...] = _setting((), SEARCH, "only these roles; default all", option="--role")
    seed: int = _setting(0, SEARCH, "seed of the proposers' choices")
    confirm: bool = _setting(
        True, SEARCH, "confirm leaders with fresh seeds", option="--confirm/--no-confirm"
    )
    racing: bool = _setting(
        True,
        SEARCH,
        "end a screen early when its trial can no longer become a keep",
        option="--racing/--no-racing",
    )
    steering: str = _setting("", SEARCH, "a note in every prompt", option="--steer")
    lessons: str = _setting(
        "", SEARCH, "lessons of earlier campaigns, a file made by `bakeoff learn`; recorded by hash"
    )
    script: str = _setting("", SEARCH, "proposals of the scripted proposer, or the record to replay")

    trials: int = _setting(24, LIMITS, "trials besides the baseline", ge=1)
    hours: float | None = _setting(None, LIMITS, "stop after this many hours", gt=0)
    until: str | None = _setting(
        None, LIMITS, "stop at this clock time, HH:MM", pattern=r"^([01]\d|2[0-3]):[0-5]\d$"
    )
    timezone: str = _setting("", LIMITS, "time zone of until, such as Europe/Berlin; default this machine's")
    tokens: int | None = _setting(None, LIMITS, "cap on tokens", ge=1)
    usd: float | None = _setting(None, LIMITS, "cap on dollars", gt=0)
    usd_per_role: float | None = _setting(None, LIMITS, "cap on dollars of each role", gt=0)
    usd_per_trial: float | None = _setting(None, LIMITS, "cap on dollars of each trial", gt=0)
    cpu_hours: float | None = _setting(None, LIMITS, "cap on CPU hours of candidates", gt=0)
    no_improvement: int | None = _setting(None, LIMITS, "stop after this many trials without a keep", ge=1)

    model: str = _setting("", MODELS, "model of the specialists; default: the one of `bakeoff ask`")
    models: dict[str, str] = _setting({}, MODELS, "other models for some roles, as JSON by role")
    prices: dict[str, dict[str, float]] = _setting(
        {}, MODELS, "changes to the list prices of genai-prices, as JSON by model"
    )
    free_models: tuple[str, ...] = _setting(
        (), MODELS, "models that cost nothing, such as local ones", option="--free-model"
    )
    research: bool = _setting(
        False,
        MODELS,
        "let the anthropic proposer search the open web; its trials are marked, because that is not reproducible",
        option="--research/--no-research",
    )
    research_searches: int = _setting(5, MODELS, "searches of one proposal with --research", ge=1, le=50)
    research_blocked_domains: tuple[str, ...] = _setting(
        (),
        MODELS,
        "domains that --research leaves out, such as those that carry the test data",
        option="--research-blocked-domain",
    )
    outage_first_s: float = _setting(
        5.0, MODELS, "seconds before the first retry of an endpoint that fails; doubles up to 300", gt=0
    )

    agent: str = _setting(
        "",
        AGENTS,
        "the coding agent that proposes: claude, codex, opencode, gemini, or FILE.toml; implies --proposer command",
    )
    command: tuple[str, ...] = _setting(
        (),
        AGENTS,
        "your own agent's program and its arguments; implies --proposer command",
        option="--command",
    )
    agent_minutes: float = _setting(30.0, AGENTS, "minutes that a proposal of an agent may take", gt=0)
    agent_hosts: tuple[str, ...] = _setting(
        (),
        AGENTS,
        "hosts that the agent may reach besides its model, as name or name:port",
        option="--agent-host",
    )
    agent_variables: tuple[str, ...] = _setting(
        (), AGENTS, "environment variables that the agent gets besides its own", option="--agent-variable"
    )
    agent_folders: tuple[str, ...] = _setting(
        (), AGENTS, "files and folders that the agent may read besides its own", option="--agent-folder"
    )
    proposers: dict[str, dict[str, float]] = _setting(
        {},
        AGENTS,
        "who proposes for some roles, as JSON by role: catalogue, anthropic:MODEL, claude:MODEL, command, "
        "or a table of these with weights",
    )
    trust_agent: bool = _setting(
        False, AGENTS, "run the agent without a box, where none can be made", option="--trust-agent"
    )

    idle_min: float = _setting(
        15.0, MODELS, "with --proposer mcp: minutes without a proposal after which the screen says so", gt=0
    )

    slots: int = _setting(
        0, MACHINE, "candidate processes at once; 0: 2, or as many as the GPUs allow", ge=0, le=64
    )
    in_flight: int | None = _setting(
        None, MACHINE, "trials under way at once; default slots, one more with a language model", ge=1
    )
    gpus: str = _setting(
        "", MACHINE, "GPUs that may be used: indices as in nvidia-smi, or UUIDs, with commas; default all"
    )
    isolation: Literal["strong", "medium", "weak"] = _setting(
        "medium", MACHINE, "weakest sandbox that is accepted"
    )
    trust_weak: bool = _setting(
        False, MACHINE, "accept weak isolation for this run", option="--i-trust-this-code"
    )
    trust: Literal["reported", "evaluated", "judged"] = _setting(
        "reported",
        MACHINE,
        "refuse scores that can be believed less: judged, or evaluated, or any (reported)",
    )
    accelerator_wait_s: float = _setting(
        300.0, MACHINE, "seconds to wait for a GPU that another program uses", ge=0
    )

    max_infra_faults: int = _setting(
        5, FAULTS, "faults of the machine in a row before a pause; three pauses at most", ge=1
    )
    fault_pause_s: float = _setting(
        60.0, FAULTS, "seconds of the first pause; each further one is 5 times longer", ge=0
    )
    take_over_s: float = _setting(
        90.0,
        FAULTS,
        "seconds without its owner's beacon after which another machine may take a campaign over",
        gt=0,
    )
    webhook: str = _setting("", FAULTS, "URL that gets {text} by POST: end, stall, pause, new confirmed best")

    @model_validator(mode="before")
    @classmethod
    def _new_names(cls, values: Any) -> Any:
        return _named_agent(_renamed(values)) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _one_agent(self) -> Settings:
        if self.agent and self.command:
            raise ValueError("agent and command are both given; name one of them")
        if self.proposer == "command" and not (self.agent or self.command):
            raise ValueError("proposer command needs an agent: --agent NAME, or [proposer] command = [...]")
        if (self.agent or self.command) and self.proposer not in ("command", "replay") and not self.proposers:
            raise ValueError(f"an agent is named, but the proposer is {self.proposer}; leave one of them out")
        return self

    @model_validator(mode="after")
    def _researcher(self) -> Settings:
        named = {name.partition(":")[0] for names in self.proposers.values() for name in names}
        if self.research and not {self.proposer, *named} & {"anthropic", "replay"}:
            raise ValueError(
                f"research needs the search tool of the Messages API, and the proposer is {self.proposer}; "
                "use --proposer anthropic, or give an agent its own network with --agent-host"
            )
        return self

    @field_validator("proposers", mode="before")
    @classmethod
    def _weighted(cls, value: Any) -> Any:
        """One name stands for itself with weight 1, a list for equal weights."""
        if not isinstance(value, dict):
            return value
        plain = {role: [names] if isinstance(names, str) else names for role, names in value.items()}
        return {role: dict.fromkeys(n, 1.0) if isinstance(n, list) else n for role, n in plain.items()}

    @field_validator("proposers")
    @classmethod
    def _positive(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for role, names in value.items():
            if not names or not all(0 < weight < math.inf for weight in names.values()):
                raise ValueError(f"role {role} needs at least one name, each with a weight above 0")
        return value

    @field_validator("roles")
    @classmethod
    def _unique(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("the same role twice")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            return ZoneInfo(value).key if value else ""
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError("no time zone of that name; give one such as Europe/Berlin") from None

    def trials_at_once(self, slots: int) -> int:
        """Trials under way beside `slots` candidate processes: a model writes while another trial trains."""
        quick = self.proposer in ("catalogue", "mcp", "scripted", "replay")
        quick &= all(name == "catalogue" for names in self.proposers.values() for name in names)
        return self.in_flight or slots + (0 if quick else 1)


def load_settings(
    flags: Mapping[str, Any], file: Path | None = None, env: Mapping[str, str] | None = None
) -> tuple[Settings, dict[str, str]]:
    """Merge the sources. Returns the settings and, per name, the source of its value.

    Text stands for a list (with commas) or a table (JSON) where the setting is one.
    Raises SpecInvalid naming the setting, its value and its source.
    """
    values: dict[str, Any] = {}
    source: dict[str, str] = {}
    environ = os.environ if env is None else env
    sources = {
        str(file): _read(file) if file is not None else {},
        "environment": {key: environ[name] for key, name in _variables().items() if name in environ},
        "command line": {key: value for key, value in flags.items() if value is not None},
    }
    for where, given in sources.items():
        for key, value in _renamed(given).items():
            source[key] = _variables()[key] if where == "environment" else where
            values[key] = _parsed(key, value, source[key])
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "(top level)"
        if not first["loc"]:  # two settings that do not go together
            raise SpecInvalid(f"settings: {first['msg'].removeprefix('Value error, ')}") from None
        raise _invalid(key, first.get("input"), source.get(key, "not given"), first["msg"]) from None
    return settings, {key: source.get(key, "default") for key in Settings.model_fields}


def _invalid(key: str, value: object, source: str, why: str) -> SpecInvalid:
    return SpecInvalid(f"setting {key} = {value!r} ({source}): {why}")


def _variables() -> dict[str, str]:
    return {key: f"BAKEOFF_{key.upper()}" for key in (*Settings.model_fields, *_RENAMED)}


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {_RENAMED.get(key, key): value for key, value in values.items()}


def _named_agent(values: dict[str, Any]) -> dict[str, Any]:
    """Naming an agent is asking for it."""
    named = values.get("agent") or values.get("command")
    known = {"proposer": "command", **values} if named else dict(values)
    if isinstance(known.get("command"), list | tuple):  # a resume may come from another folder
        known["command"] = [_absolute(part) if at == 0 else part for at, part in enumerate(known["command"])]
    if str(known.get("agent", "")).endswith(".toml"):
        known["agent"] = _absolute(known["agent"], bare=True)
    if isinstance(known.get("agent_folders"), list | tuple):
        known["agent_folders"] = [_absolute(folder, bare=True) for folder in known["agent_folders"]]
    return known


def _absolute(path: Any, bare: bool = False) -> Any:
    """A path made absolute; `bare`: a name without a slash is one too, not a program on PATH."""
    if not isinstance(path, str) or not (bare or "/" in path):
        return path
    return str(Path(path).expanduser().absolute())


def _parsed(key: str, value: Any, source: str) -> Any:
    """A value that was given as text: a list with commas, a table as JSON."""
    kind = get_origin(Settings.model_fields[key].annotation) if key in Settings.model_fields else None
    if not isinstance(value, str) or kind not in (tuple, dict):
        return value
    if kind is tuple:
        return [part.strip() for part in value.split(",") if part.strip()]
    try:
        return json.loads(value)
    except ValueError as error:
        raise _invalid(key, value, source, f"not valid JSON: {error}") from None


def differences(stored: Settings, given: Settings) -> str:
    """Each setting of a stored campaign that is given differently now, with both values; empty when none is.

    >>> differences(Settings(environment="x", trials=8), Settings(environment="x", trials=12))
    'trials = 8 (given: 12)'
    """
    old, new = stored.model_dump(), given.model_dump()
    changed = [key for key in new if key != "environment" and old[key] != new[key]]
    return ", ".join(f"{key} = {old[key]!r} (given: {new[key]!r})" for key in changed)


def parameters() -> list[inspect.Parameter]:
    """A keyword parameter for every setting, with its bounds and description: what a deployed flow takes."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.is_required() else field.default,
            annotation=_annotated(field),
        )
        for name, field in Settings.model_fields.items()
    ]


def _annotated(field: FieldInfo) -> Any:
    return Annotated[(field.annotation, *field.metadata, Field(description=field.description))]


def _read(file: Path) -> dict[str, Any]:
    try:
        raw = tomllib.loads(file.read_text("utf-8-sig"))
    except OSError as error:
        raise SpecInvalid(
            f"{file}: cannot be read ({error.strerror}); check the path given with --config"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecInvalid(f"{file}: not valid TOML: {error}") from None
    by_role = {"proposers": raw.pop("roles")} if isinstance(raw.get("roles"), dict) else {}
    proposer = raw.pop("proposer") if isinstance(raw.get("proposer"), dict) else {}
    section = raw.get("campaign", raw)
    if not isinstance(section, dict):
        raise SpecInvalid(f"{file}: [campaign] must be a table")
    return {**section, **_proposer_table(file, proposer), **by_role}


# keys of the table [proposer] of campaign.toml, and the settings that they stand for
_PROPOSER = {
    "name": "proposer",
    "agent": "agent",
    "command": "command",
    "model": "model",
    "models": "models",
    "minutes": "agent_minutes",
    "hosts": "agent_hosts",
    "variables": "agent_variables",
    "folders": "agent_folders",
    "trust": "trust_agent",
}


def _proposer_table(file: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    unknown = [key for key in table if key not in _PROPOSER]
    if unknown:
        raise SpecInvalid(f"{file}: [proposer] has no key {unknown[0]!r}; known: {', '.join(_PROPOSER)}")
    return {_PROPOSER[key]: value for key, value in table.items()}
