"""The frozen description of one campaign, stored once when it starts; and how seeds are drawn.

Everything another machine, a resume or an audit needs to know is in it: spec, roles with briefs,
settings, the start's source by hash, judge and environment identity. The secret makes seeds
unpredictable to candidates and recomputable by an auditor; it never enters a sandbox or a prompt.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from pydantic import Field, PrivateAttr

from evaluators.statistics.confirmation import ConfirmPlan
from evaluators.statistics.racing import RacingPlan
from flows.engine.settings import Settings
from flows.environments.source_commit import SourceCommit
from lineage.environment_spec import EnvironmentSpec, Role
from lineage.errors import SpecInvalid, UsageError
from lineage.ids import sha256
from lineage.records import Record
from lineage.store.objects import Store
from lineage.store.results import get_result, put_result

HOLDER = "campaign"  # the place of a trial id in the key of the campaign's own results
BASELINE = "t0000"


class ComparisonCell(Record):
    """The comparison that a campaign is one cell of. Campaigns of one repeat share the seeds of the start."""

    arms: tuple[str, ...]
    repeat: int = Field(ge=1)


class Origin(Record):
    """The trial whose program a forked campaign starts from."""

    run: str
    campaign: str
    trial: str
    source_sha256: str

    def __str__(self) -> str:
        return f"{self.trial} of {self.campaign} in {self.run} (source {self.source_sha256[:12]})"


class CampaignConfig(Record):
    id: str
    environment: str
    folder: str = Field("", description="where the environment was read from; a hint, not an identity")
    spec: EnvironmentSpec
    roles: tuple[Role, ...]
    settings: Settings
    plan: ConfirmPlan
    secret: str
    start_sha256: str
    environment_sha256: str
    evaluator_sha256: str
    isolation: str
    isolation_layers: tuple[str, ...] = ()
    isolation_not_held: tuple[str, ...] = ()
    machine: str
    accelerator: str = ""
    calibration_sha256: str = Field("", description="calibration of the start that it began with; a blob")
    calibration: tuple[float, ...] = Field((), description="its scores")
    lessons_sha256: str = Field("", description="lessons of earlier campaigns in its prompts; a blob")
    comparison: ComparisonCell | None = None
    forked_from: Origin | None = None
    repository: SourceCommit | None = Field(None, description="the git commit that the start's source was at")
    bakeoff_version: str
    created_at: datetime
    agent_box_holds: tuple[str, ...] = Field((), description="what was proven of the box of a coding agent")
    agent_box_not_held: tuple[str, ...] = Field(
        (), description="what was not, where the user trusts the agent"
    )
    racing: RacingPlan | None = Field(None, description="when a screen ends before all its runs; None: never")
    _words: dict[str, Any] = PrivateAttr(default_factory=dict)  # of the specification, as the record has them

    @property
    def words(self) -> dict[str, Any]:
        """The specification as `environment_sha256` was made from it, perhaps by an earlier version."""
        return self._words or self.spec.model_dump(mode="json")

    def role(self, name: str) -> Role:
        return next(role for role in self.roles if role.name == name)


def campaign_id(environment: str, arm: str, tag: str = "") -> str:
    """`c-<environment>-<arm>[-tag]` in lower case, digits and dashes: never looks like a number to a reader of hive folders."""
    raw = "-".join(part for part in ("c", environment, arm, tag) if part)
    return re.sub(r"[^a-z0-9-]+", "-", raw.lower())


def new_secret() -> str:
    return secrets.token_hex(16)


def now() -> datetime:
    return datetime.now(UTC)


def save_config(store: Store, config: CampaignConfig) -> None:
    put_result(store, config.id, HOLDER, "config", config.model_dump_json().encode())


def load_config(store: Store, campaign: str) -> CampaignConfig:
    """Raises UsageError when the store holds no such campaign, SpecInvalid when it cannot be read by this version."""
    raw = get_result(store, campaign, HOLDER, "config")
    if raw is None:
        raise UsageError(
            f"{store.root}: no campaign {campaign!r} in this store; start one with: bakeoff run ENVIRONMENT"
        )
    try:
        config = CampaignConfig.model_validate_json(raw)
        config._words = json.loads(raw)["spec"]
        return config
    except ValueError as error:
        raise SpecInvalid(
            f"{store.root}: the configuration of {campaign!r} cannot be read: {error}"
        ) from None


def campaigns(store: Store) -> list[str]:
    """Ids of the campaigns in a store, from the keys of their configurations."""
    found = []
    for key in store.list("results"):
        match = re.match(rf"results/campaign=([^/]+)/trial={HOLDER}/config\b", key)
        if match:
            found.append(match.group(1))
    return sorted(set(found))


def commitment(secret: str) -> str:
    """What binds a campaign to its seeds before the first is drawn: a hash of the secret that they are drawn with."""
    return sha256(b"bakeoff seeds|" + bytes.fromhex(secret))


def draw_seeds(
    config: CampaignConfig, source_sha256: str, purpose: str, count: int, skip: int = 0
) -> tuple[int, ...]:
    """`count` seeds of a campaign for one frozen program.

    Fixed by the program's bytes, so a retried or resumed trial gets the same seeds and resubmitting
    the same program cannot draw luckier ones; unpredictable without the secret.
    """
    return seeds_from(config.secret, source_sha256, purpose, count, skip)


def seeds_from(secret: str, source_sha256: str, purpose: str, count: int, skip: int = 0) -> tuple[int, ...]:
    """Seeds in [1, 2^31): HMAC-SHA256(secret, source | purpose | index)."""

    def stream() -> Iterator[int]:
        for index in range(skip, skip + count):
            text = f"{source_sha256}|{purpose}|{index}".encode()
            digest = hmac.new(bytes.fromhex(secret), text, "sha256").digest()
            yield int.from_bytes(digest[:4], "big") % (2**31 - 1) + 1

    return tuple(stream())
