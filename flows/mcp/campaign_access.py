"""What a client may read of a campaign and do in it, as plain functions; `flows.mcp.server` makes MCP tools of them.

    access = open_access(root, campaign)
    access.leaderboard(10)
    access.submit("client 1.0", Draft(role="model", hypothesis="...", edits=(...)))

Reads the store alone, so it works beside the process that runs the campaign, and without one. A client's answers are what a
specialist's prompt and tools give: scores on the sealed split, seeds and the campaign's secret are not among them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from agents.edits.file_text import text_of
from agents.edits.search_replace import Files, apply_edit
from agents.llm.knowledge import contents, lessons_section, page
from agents.llm.prompt import outline, render_system, sees_lineage
from agents.llm.prompt_sections import parent_choice
from agents.llm.tools import EDIT_KINDS, Scratch, ToolError, faults, hand_in, open_scratch, use
from agents.llm.trial_text import FAILED, is_ours, trial_line
from agents.protocol import ProposalRequest
from flows.campaign.campaign_rows import end_of
from flows.campaign.interventions import intervene, paused, stage_of, veto
from flows.campaign.interventions import status as status_of
from flows.campaign.run_on_this_machine import only_campaign
from flows.engine.campaign_config import CampaignConfig
from flows.engine.engine import lessons_of, steering_note
from flows.engine.stage_records import Patched
from flows.machine.run_lock import holder_of
from flows.report.campaign_digest import digest
from flows.report.show import find_trial
from flows.trial import client_proposals
from flows.trial.static_checks import static_checks
from lineage.environment_spec import Role
from lineage.errors import BakeoffError, EditRefused, UnknownName, UsageError
from lineage.log.log_reader import Lineage
from lineage.queries import View
from lineage.records import Edit, Proposal, Record, Row, Status
from lineage.safe_text import for_prompt, for_terminal
from lineage.store.blobs import get_tree
from lineage.store.objects import Store, open_store
from lineage.store.results import get_result

MOST_ROWS, LINE = 100, 400


class Draft(Record):
    """An edit as a client gives it: blocks to replace, or whole new texts of files, or both."""

    role: str
    hypothesis: str = ""
    edits: tuple[Edit, ...] = ()
    files: dict[str, str] = {}
    parent: str = ""
    expected_delta: float | None = None
    notes: str = ""
    edit_kind: str = ""


@dataclass
class CampaignAccess:
    """A campaign opened for clients. Safe to use from several threads."""

    root: str
    store: Store
    config: CampaignConfig
    lineage: Lineage
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def view(self) -> View:
        with self._lock:
            return self.lineage.refresh()

    # ---- reading -------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Who runs it, what is under way, what is spent and what is allowed, the roles and their surfaces."""
        view, spec = self.view(), self.config.spec
        facts = status_of(self.root, self.store, self.config, view)
        owner = facts.pop("owner")
        return {
            **facts,
            "environment": spec.name,
            "score": f"{spec.score.metric}, {'lower' if spec.score.direction == 'min' else 'higher'} is better",
            "arm": self.config.settings.arm,
            "proposer": self.config.settings.proposer,
            "runs_on_this_machine": owner is not None,
            "ended": end_of(view),
            "roles": {role.name: list(role.surfaces) for role in self.config.roles},
            "steering": steering_note(self.config, view),
            "waiting_proposals": [found.id for found in self._waiting(view)],
        }

    def leaderboard(self, limit: int = 20) -> str:
        """Start, keeps and champions, best first, with what each is said to score now."""
        view, spec = self.view(), self.config.spec
        rows = [row for row in view.trials() if row.status in (Status.KEEP, Status.BASELINE)]
        scored = [(view.quoted(row.trial or ""), row) for row in rows]
        best = sorted(((s, r) for s, r in scored if s is not None), key=lambda pair: -spec.sign * pair[0])
        leader, incumbent = view.ranking.leader(), view.ranking.incumbent
        lines = [f"leader {leader[0] if leader else 'none'}, confirmed best {incumbent or 'none'}"]
        for _, row in best[: _few(limit)]:
            mark = " (vetoed)" if row.trial in view.ranking.vetoed else ""
            lines.append(trial_line(spec, row, LINE, view.quoted) + mark)
        return "\n".join(lines)

    def trial(self, trial: str) -> str:
        """Everything that a proposer may know of a trial, with its diff against its parent."""
        view = self.view()
        row = find_trial(view, trial)
        return self._use(self._scratch(view, self.config.roles[0]), "read_trial", trial=row.trial)

    def diff(self, trial: str, other: str = "") -> str:
        """What turns `other` (default: the trial's parent) into the trial."""
        view = self.view()
        row = find_trial(view, trial)
        base = find_trial(view, other or row.parent or "baseline")
        scratch = self._scratch(view, self.config.roles[0])
        return self._use(scratch, "diff_trials", first=base.trial, second=row.trial)

    def trials(self, role: str = "", limit: int = 30, failed: bool = False) -> str:
        """The newest trials, one line each, newest first: of all roles or one, all or the failed ones."""
        view = self.view()
        rows = [r for r in reversed(view.trials()) if not is_ours(r) and r.status is not Status.BASELINE]
        rows = [r for r in rows if role in ("", r.role) and (r.status in FAILED or not failed)]
        lines = [trial_line(self.config.spec, row, LINE, view.quoted) for row in rows[: _few(limit)]]
        more = [f"({len(rows) - len(lines)} older)"] if len(rows) > len(lines) else []
        return "\n".join([*lines, *more]) or "no trial yet"

    def tried_now(self) -> str:
        """Trials under way with their stages and hypotheses, and clients' proposals that wait for one."""
        view, lines = self.view(), list[str]()
        for row in view.open_trials():
            raw = get_result(self.store, self.config.id, row.trial or "", "propose")
            idea = Proposal.model_validate_json(raw).hypothesis if raw is not None else "(no proposal yet)"
            stage = stage_of(self.store, self.config.id, row.trial or "")
            lines.append(f"{row.trial} [{row.role}] {stage}: {for_prompt(idea, 300)}")
        for found in self._waiting(view):
            idea = for_prompt(found.proposal.hypothesis, 300)
            lines.append(f"{found.id} [{found.proposal.role}] waits for a trial, by {found.client}: {idea}")
        return "\n".join(lines) or "nothing is under way"

    def surface(self, role: str) -> str:
        """The environment, what the role may change, and its brief."""
        lineage = sees_lineage(self.config.settings.arm)
        _, parts = render_system(self.config.spec, self._role(role), lineage)
        return "\n\n".join(parts[name] for name in ("environment", "surface", "role"))

    def source(self, path: str = "", trial: str = "") -> str:
        """A file of a trial (default: what leads now); without a path all files, by size and definitions."""
        view = self.view()
        name = find_trial(view, trial).trial if trial else self._parent(view)
        files = self.files_of(view, name or "")
        if path:
            if path not in files:
                raise UnknownName("file", path, files, f"in the source of {name}")
            return f"{path} of {name}\n{files[path].decode('utf-8', 'replace')}"
        listed = [
            f"{known}: {len(data)} bytes"
            + (f"\n{outline(data.decode('utf-8', 'replace'))}" if known.endswith(".py") else "")
            for known, data in sorted(files.items())
        ]
        return f"source of {name}\n" + "\n".join(listed)

    def knowledge(self, path: str = "", first: int = 1) -> str:
        """A page of the notes that came with the environment; without a path what there is. And the lessons, where there are any."""
        files, lessons = self.knowledge_files(), lessons_of(self.store, self.config)
        if path and path not in files:
            raise UnknownName("knowledge file", path, files, f"in {self.config.id}")
        if path:
            return page(files, path, first)
        parts = (contents(files, "give a path to read one", 8_000), lessons_section(lessons, 12_000))
        return "\n\n".join(filter(None, parts)) or "no knowledge came with this environment"

    def knowledge_files(self) -> Files:
        sha = self.config.spec.knowledge_sha256
        return get_tree(self.store, sha) if sha else {}

    def figures(self) -> dict[str, Any]:
        """The report's figures, without those of the sealed split."""
        view, spec = self.view(), self.config.spec
        d = digest(view, spec)
        return {
            "campaign": d.campaign,
            "trials": d.trials,
            "under_way": d.open_trials,
            "valid": d.valid,
            "keeps": d.keeps,
            "confirmed": d.confirmed,
            "statuses": dict(d.statuses),
            "unit": spec.score.unit,
            "baseline": d.baseline.score if d.baseline else None,
            "noise_sd": d.noise_sd,
            "leader": [d.leader.trial, view.quoted(d.leader.trial or "")] if d.leader else None,
            "confirmed_best": [d.incumbent.trial, view.quoted(d.incumbent.trial or "")]
            if d.incumbent
            else None,
            "failures": [
                {"status": f.status, "cause": f.cause, "n": f.n, "example": f.example.trial}
                for f in d.failures
            ],
            "roles": {
                r.key: {"n": r.n, "keeps": r.keeps, "confirmed": r.confirmed, "usd": r.usd} for r in d.roles
            },
            "proposers": _by_proposer(view),
            "spent": {"usd": d.spent.usd, "tokens": d.spent.tokens, "cpu_s": d.spent.cpu_s},
            "ended": end_of(view),
        }

    # ---- acting --------------------------------------------------------------------------------

    def check(self, draft: Draft) -> str:
        """The preflight of a draft: surface, duplicates, parse, sizes. Nothing is handed in."""
        return self._use(self._edited(self.view(), draft), "check")

    def submit(self, client: str, draft: Draft) -> str:
        """Hand a draft in as a proposal, once it passes the preflight; gives the proposal's id."""
        self._may_submit()
        view = self.view()
        scratch = self._edited(view, draft)
        if not draft.hypothesis.strip():
            raise UsageError("'hypothesis' is empty; one sentence: what changes and why it should help")
        if not scratch.changed:
            raise UsageError("the edit changes nothing; give `edits` or `files` that differ from the parent")
        text = hand_in(scratch, draft.hypothesis, draft.expected_delta, draft.notes, draft.edit_kind)
        proposal = Proposal(
            role=draft.role,
            proposer=client_proposals.NAME,
            parent=scratch.parent,
            hypothesis=text.hypothesis,
            expected_delta=text.expected_delta,
            edits=text.edits,
            edit_kind=text.edit_kind,
            operator="client",
            notes=text.notes,
            model=client,
        )
        # what was handed in before is no duplicate of itself: a client that did not get the id asks again
        if known := client_proposals.earlier(self.store, self.config.id, proposal, client):
            return known.id
        if fault := faults(scratch) or self._failed(scratch.now):
            raise UsageError(f"not handed in. {for_terminal(fault)[:2000]}")
        taken = client_proposals.taken_by(view)
        return client_proposals.hand_in(self.store, self.config.id, proposal, client, taken).id

    def outcome(self, proposal: str) -> dict[str, Any]:
        """How far a proposal is: waiting, under way, done (with the trial's facts) or not taken."""
        if client_proposals.read_one(self.store, self.config.id, proposal) is None:
            raise UsageError(
                f"no proposal {proposal!r} in {self.config.id}; give the id that submit returned"
            )
        view = self.view()
        trial = client_proposals.taken_by(view).get(proposal)
        said = {"proposal": proposal, "trial": trial}
        row = view.trial(trial) if trial else None
        if row is not None:
            return {
                **said,
                "state": "done",
                "status": str(row.status),
                "cause": row.cause,
                "score": row.score,
                "facts": self.trial(trial or ""),
            }
        running = holder_of(self.root, self.config.id) is not None
        again = f"`bakeoff resume {self.root}` continues it"
        if trial:
            stage = stage_of(self.store, self.config.id, trial)
            return {
                **said,
                "state": "under way",
                "stage": stage,
                "note": "" if running else f"no process of this machine runs the campaign; {again}",
            }
        ended = end_of(view)
        if ended and not running:
            return {**said, "state": "not taken", "note": f"the campaign has ended: {ended}; {again}"}
        note = "paused; unpause it" if paused(view) else ""
        return {
            **said,
            "state": "waiting",
            "note": note or ("" if running else f"nobody runs it here; {again}"),
        }

    def steer(self, client: str, note: str) -> str:
        self._may_act()
        intervene(self.store, self.config, "steer", note, client=client)
        return "the next prompts carry this note" if note else "the next prompts carry no note"

    def pause(self, client: str, why: str, on: bool) -> str:
        self._may_act()
        intervene(self.store, self.config, "pause" if on else "unpause", why, client=client)
        return "paused: no new trial starts, those under way end" if on else "new trials start again"

    def veto(self, client: str, trial: str, why: str) -> str:
        self._may_act()
        row = veto(self.store, self.config, find_trial(self.view(), trial), why, client)
        return f"{row.trial} cannot lead any more"

    # ---- parts ---------------------------------------------------------------------------------

    def request(self, view: View, role: Role) -> ProposalRequest:
        """The request that a proposer of the role would get now."""
        return ProposalRequest(
            spec=self.config.spec,
            role=role,
            view=view,
            files_of=lambda trial: self.files_of(view, trial),
            seed=0,
            in_flight=self._open_programs(view),
            steering=steering_note(self.config, view),
            knowledge=self.knowledge_files(),
            lessons=lessons_of(self.store, self.config),
            check=lambda files: static_checks(self.config.spec, files),
            arm=self.config.settings.arm,
        )

    def files_of(self, view: View, trial: str) -> Files:
        row = view.trial(trial)
        sha = row.source_sha256 if row is not None else self.config.start_sha256
        if not sha:
            raise UsageError(f"{trial} has no source: it never became a program")
        return get_tree(self.store, sha)

    def _role(self, name: str) -> Role:
        known = {role.name: role for role in self.config.roles}
        if name not in known:
            raise UnknownName("role", name, known, f"in {self.config.id}")
        return known[name]

    def _parent(self, view: View) -> str:
        row, _ = parent_choice(view)
        return (row.trial or "") if row is not None else "t0000"

    def _scratch(self, view: View, role: Role, parent: str = "") -> Scratch:
        return open_scratch(self.request(view, role), parent or self._parent(view))

    def _edited(self, view: View, draft: Draft) -> Scratch:
        role = self._role(draft.role)
        parent = find_trial(view, draft.parent) if draft.parent else None
        if draft.edit_kind and draft.edit_kind not in EDIT_KINDS:
            raise UnknownName("edit_kind", draft.edit_kind, EDIT_KINDS)
        if parent is not None and parent.trial in view.ranking.vetoed:
            raise UsageError(f"{parent.trial} is vetoed; start from another trial")
        scratch = self._scratch(view, role, (parent.trial or "") if parent is not None else "")
        for edit in draft.edits:
            self._use(scratch, "replace", **edit.model_dump())
        for path, text in draft.files.items():
            old = scratch.now.get(path, b"")
            whole = Edit(path=path, search=text_of(path, old) if old else "", replace=text)
            if whole.search != text or path not in scratch.now:
                scratch.now = apply_edit(scratch.now, whole)
        return scratch

    def _use(self, scratch: Scratch, name: str, **given: Any) -> str:
        """A tool of a proposing session; its error messages are raised."""
        text, failed = use(scratch, name, given)
        if failed:
            raise ToolError(text)
        return text

    def _failed(self, files: Files) -> str:
        failed = [c for c in static_checks(self.config.spec, files) if not c.passed]
        return "; ".join(f"{c.name}: {c.detail or dict(c.numbers)}" for c in failed)

    def _waiting(self, view: View) -> list[client_proposals.ClientProposal]:
        return client_proposals.waiting(self.store, self.config.id, client_proposals.taken_by(view))

    def _open_programs(self, view: View) -> frozenset[str]:
        found = (
            get_result(self.store, self.config.id, row.trial or "", "patch") for row in view.open_trials()
        )
        return frozenset(Patched.model_validate_json(raw).ast_sha256 for raw in found if raw is not None)

    def _may_act(self) -> None:
        if not self.config.start_sha256:
            raise UsageError(
                f"{self.config.id} is an imported record: it can be read, nothing can be done in it"
            )

    def _may_submit(self) -> None:
        self._may_act()
        arm = self.config.settings.arm
        if arm in ("no_lineage", "random"):
            raise UsageError(
                f"{self.config.id} is of the arm {arm}, whose proposers do not read the record, as a client does; "
                "submit to a campaign of another arm"
            )
        if self.view().baseline() is None:
            raise UsageError("the start is not measured yet; submit once t0000 has its outcome")


EXPECTED = (BakeoffError, ToolError, EditRefused, ValueError)


def open_access(root: str, campaign: str | None) -> CampaignAccess:
    """Open for reading and handing in. Raises UsageError where there is no such campaign."""
    config = only_campaign(root, campaign, imported=True)
    store = open_store(root)
    return CampaignAccess(root, store, config, Lineage(store, config.id, config.spec.score.direction))


def _few(limit: int) -> int:
    return max(1, min(limit, MOST_ROWS))


def _by_proposer(view: View) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for row in view.trials():
        if row.status is Status.BASELINE:
            continue
        one = found.setdefault(
            " ".join(filter(None, (row.proposer, row.model))) or "unknown", {"n": 0, "keeps": 0}
        )
        one["n"] += 1
        one["keeps"] += _kept(row)
    return found


def _kept(row: Row) -> int:
    return int(row.status is Status.KEEP)
