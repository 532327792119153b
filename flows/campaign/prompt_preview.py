"""The prompt that a specialist would get now, with no lineage or with a run's. Writes nothing.

Use: `preview_request("airbench_mini", "opt", None, None, None)` for `bakeoff propose --dry-run`. Limits:
programs under way and preflight checks are left out, as in a real prompt.
"""

from __future__ import annotations

from agents.edits.search_replace import Files
from agents.protocol import ProposalRequest
from flows.campaign.run_on_this_machine import only_campaign
from flows.engine.engine import lessons_of, steering_note
from flows.environments.loading import Environment, load_environment
from lineage.environment_spec import Role
from lineage.errors import UsageError
from lineage.log.log_reader import Lineage
from lineage.queries import View
from lineage.store.blobs import get_tree
from lineage.store.objects import open_store


def preview_request(
    environment: str, role: str, arm: str | None, root: str | None, campaign: str | None
) -> ProposalRequest:
    """Build the request. Raises UnknownName for an unknown environment, role or run, UsageError for a mismatch."""
    chosen = load_environment(environment)
    if root is None:
        start = chosen.source()
        arm = arm or "specialists"
        return ProposalRequest(
            spec=chosen.spec,
            role=_the_role(chosen, arm, role),
            view=View.from_rows([], chosen.spec.score.direction),
            files_of=lambda _: dict(start),
            seed=0,
            arm=arm,
            knowledge=chosen.knowledge(),
        )
    config = only_campaign(root, campaign)
    if config.spec.name != chosen.spec.name:
        raise UsageError(
            f"{root}: this run is of {config.spec.name}, not of {chosen.spec.name}; name the run's own"
        )
    store = open_store(root)
    view = Lineage(store, config.id, config.spec.score.direction).refresh()

    def files_of(trial: str) -> Files:
        row = view.trial(trial)
        sha = row.source_sha256 if row is not None else None
        return get_tree(store, sha or config.start_sha256)

    arm = arm or config.settings.arm
    own = {r.name: r for r in config.roles} if arm == config.settings.arm else {}
    return ProposalRequest(
        spec=config.spec,
        role=own.get(role)
        or (next(iter(own.values())) if len(own) == 1 and not role else _the_role(chosen, arm, role)),
        view=view,
        files_of=files_of,
        seed=0,
        steering=steering_note(config, view),
        knowledge=get_tree(store, config.spec.knowledge_sha256) if config.spec.knowledge_sha256 else {},
        lessons=lessons_of(store, config),
        arm=arm,
    )


def _the_role(chosen: Environment, arm: str, name: str) -> Role:
    """The role of that name, or the only one."""
    if name:
        return chosen.roster(arm, [name])[0]
    every = chosen.roster(arm)
    if len(every) > 1:
        names = ", ".join(role.name for role in every)
        raise UsageError(f"{chosen.spec.name} has several roles: name one with --role; known: {names}")
    return every[0]
