"""Everything a person can set about a campaign, in one frozen object.

Sources, later wins: defaults here, `campaign.toml`, the environment variable `BAKEOFF_<KEY>`, the
command line. `sources()` tells which one gave each value; it is printed at the start of a campaign.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lineage.errors import SpecInvalid

ARMS = ("specialists", "generic", "single", "no_lineage", "random")


class Settings(BaseModel):
    """Settings of one campaign. Hours, tokens and dollars are caps; 0 or None means no cap."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str
    variant: str = Field("", description="variant of the environment: other hardware, limits or data")
    proposer: Literal["catalogue", "anthropic", "openai", "scripted", "replay"] = "catalogue"
    arm: Literal["specialists", "generic", "single", "no_lineage", "random"] = "specialists"
    roles: tuple[str, ...] = Field((), description="roster; empty means every role of the environment")
    trials: int = Field(24, ge=1, description="trials besides the baseline")
    hours: float | None = Field(None, gt=0)
    until: str | None = Field(
        None, pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="clock time HH:MM, local"
    )
    zone: str = Field("", description="time zone of `until`, such as Europe/Berlin; default this machine's")
    tokens: int | None = Field(None, ge=1)
    usd: float | None = Field(None, gt=0)
    usd_per_role: float | None = Field(None, gt=0)
    usd_per_trial: float | None = Field(None, gt=0)
    prices: dict[str, dict[str, float]] = Field({}, description="changes to agents/prices.toml, by model")
    free_models: tuple[str, ...] = Field((), description="models that cost nothing, such as local ones")
    cpu_hours: float | None = Field(None, gt=0)
    no_improvement: int | None = Field(None, ge=1, description="stop after this many trials without a keep")
    slots: int = Field(
        0,
        ge=0,
        le=64,
        description="candidate processes at once on this machine; 0: 2, or as many as the GPUs allow",
    )
    gpus: str = Field(
        "", description="GPUs that may be used here, indices or UUIDs with commas; empty: all visible"
    )
    in_flight: int | None = Field(
        None, ge=1, description="trials under way at once; default slots, +1 for an LLM"
    )
    seed: int = 0
    confirm: bool = True
    racing: bool = Field(True, description="a screen ends early when its trial can no longer become a keep")
    isolation: Literal["strong", "medium", "weak"] = "medium"
    trust_weak: bool = False
    model: str = ""
    models: dict[str, str] = {}
    steering: str = ""
    script: str = Field("", description="file of proposals for the scripted proposer, or store for replay")
    max_infra_faults: int = Field(5, ge=1, description="in a row, before the campaign pauses, thrice at most")
    fault_pause_s: float = Field(
        60.0, ge=0, description="first pause after them; each further one 5 times that"
    )
    outage_first_s: float = Field(
        5.0, gt=0, description="first wait when a model endpoint is away; doubles up to five minutes"
    )
    take_over_s: float = Field(
        90.0,
        gt=0,
        description="silence of the owner on another machine after which a campaign may be taken over",
    )
    accelerator_wait_s: float = Field(
        300.0, ge=0, description="how long a GPU that somebody else's process uses is waited for"
    )
    webhook: str = Field(
        "", description="URL that gets {text} by POST: end, stall, pause, new confirmed best"
    )

    @field_validator("roles")
    @classmethod
    def _unique(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("the same role twice")
        return value

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            return ZoneInfo(value).key if value else ""
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError("no time zone of that name; give one such as Europe/Berlin") from None

    def trials_at_once(self, slots: int) -> int:
        """Trials under way beside `slots` candidate processes: a model writes while another trial trains."""
        return self.in_flight or slots + (0 if self.proposer in ("catalogue", "scripted", "replay") else 1)


def load_settings(
    flags: Mapping[str, Any], file: Path | None = None, env: Mapping[str, str] | None = None
) -> tuple[Settings, dict[str, str]]:
    """Merge the sources. Returns the settings and, per key, the name of the source that gave it.

    Raises SpecInvalid naming the key, its value and its source.
    """
    values: dict[str, Any] = {}
    source: dict[str, str] = {}
    if file is not None:
        for key, value in _read(file).items():
            values[key], source[key] = value, str(file)
    environ = os.environ if env is None else env
    for key in Settings.model_fields:
        name = f"BAKEOFF_{key.upper()}"
        if name in environ:
            text = environ[name]
            values[key] = text.split(",") if key == "roles" else text
            source[key] = name
    for key, value in flags.items():
        if value is not None:
            values[key], source[key] = value, "command line"
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "(top level)"
        given = source.get(key, "not given")
        raise SpecInvalid(f"setting {key} = {first.get('input')!r} ({given}): {first['msg']}") from None
    return settings, {key: source.get(key, "default") for key in Settings.model_fields}


def _read(file: Path) -> dict[str, Any]:
    try:
        raw = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SpecInvalid(
            f"{file}: cannot be read ({error.strerror}); check the path given with --config"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecInvalid(f"{file}: not valid TOML: {error}") from None
    section = raw.get("campaign", raw)
    if not isinstance(section, dict):
        raise SpecInvalid(f"{file}: [campaign] must be a table")
    return section
