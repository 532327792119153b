"""The `command` proposer: a coding agent in a box makes one edit of a workspace, which becomes an ordinary proposal.

    proposer = CommandProposer(preset, box, settings, ledger, cancel)
    proposal = proposer.propose(request)

How a run can end: a change (a Proposal; what no edit can contain is named in its `outside`), no change
(ProposerRefused), a failed program (ProposerUnusable), a login, a limit or the network (ProposerOutage: the campaign
waits). Work that was done before time or money ran out is handed in, with a note. Keeps no state beside lineage.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from agents.command.agent_box import AgentBox, Program, Session, make_session, program_of
from agents.command.agent_process import Ended, Start, Watch, copy_logins, run
from agents.command.agent_report import Reader, Said, is_outage
from agents.command.network_relay import Address, Relay, addresses
from agents.command.preset import AgentPreset, endpoint_of, find_program, require_login, upstream_of
from agents.command.workspace import Changes, Note, changes, make_workspace, read_changes, read_note
from agents.llm.ledger import Ledger, TrialCapReached, all_tokens
from agents.llm.model_call import STOPPED_BY_CAMPAIGN
from agents.llm.prompt import WORKSPACE, Prompt, render
from agents.llm.tools import Scratch, ToolError, faults, hand_in, open_scratch, use
from agents.llm.transcript import exchange_json
from agents.protocol import ProposalRequest
from lineage.errors import (
    BudgetSpent,
    NothingLeft,
    ProposerFault,
    ProposerOutage,
    ProposerRefused,
    ProposerUnusable,
)
from lineage.records import AgentFacts, Proposal, Usage
from lineage.safe_text import for_terminal, redact, shortened

TASK = (
    "Read BRIEF.md in this folder and do what it asks: edit the source for one hypothesis, run bakeoff-check, "
    "write PROPOSAL.md, and end."
)
FILES_BUDGET = 4_000  # characters: the files are in the workspace
TRANSCRIPT, ERRORS = 400_000, 20_000
VERSION_S = 30.0
PREFIX = "bakeoff-agent-"  # of a run's folder; the engine's process id follows
LIMITS = {
    "time": "it was ended after {seconds:.0f} s, the time that a proposal may take",
    "budget": "it was ended at the cap on this proposal's cost",
    "disk": "it was ended because it wrote more than a workspace may have",
}


@dataclass(frozen=True)
class AgentSettings:
    """What the user said of the agent: model (by role), time, more hosts, variables and folders."""

    model: str = ""
    models: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 1800.0
    hosts: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


class CommandProposer:
    """Raises UsageError at once when the program, its login, a host or a folder is missing or wrong.

    Setting `cancel` ends every run at once, as a ProposerOutage.
    """

    name = "command"

    def __init__(
        self,
        preset: AgentPreset,
        box: AgentBox,
        settings: AgentSettings | None = None,
        ledger: Ledger | None = None,
        cancel: threading.Event | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.preset, self.box = preset, box
        self.settings = settings or AgentSettings()
        self.ledger = ledger or Ledger()
        self._cancel = cancel or threading.Event()
        self._environ = dict(os.environ if environ is None else environ)
        self._user = Path(self._environ.get("HOME", "~")).expanduser()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._version: str | None = None
        sweep()
        self.program: Program = program_of(find_program(preset), (*preset.folders, *self.settings.folders))
        require_login(preset, self._environ, self._user, self.settings.variables)
        self.endpoint: Address | None = endpoint_of(preset, self._environ)
        self.address = self._environ.get(preset.address, "") if preset.address else ""
        self.upstream: Address | None = upstream_of(self._environ)
        own = () if self.endpoint else addresses(preset.hosts)
        self.hosts: tuple[Address, ...] = addresses(self.settings.hosts)
        self.allowed = (*own, *self.hosts)

    def worst_call(self) -> Usage:
        """One run is one call whose cost nobody knows before it: at a cap, trials are proposed one at a time."""
        return Usage(calls=1)

    def propose(self, request: ProposalRequest) -> Proposal:
        """One run of the agent; see the module docstring for how it can end."""
        prompt = render(request, {"files": FILES_BUDGET}, WORKSPACE)
        key = f"{request.role.name}-{request.seed}-{next(self._numbers)}"
        made = AgentRun(self, request, prompt)
        try:
            with self.ledger.admitted(
                role=request.role.name,
                session=key,
                worst=Usage(),
                deadline=request.deadline,
                allowance=request.allowance,
            ) as bill:
                try:
                    made.work()
                finally:
                    bill(made.usage)
            return made.outcome()
        except (TrialCapReached, BudgetSpent, NothingLeft) as spent:
            kind = ProposerUnusable if isinstance(spent, TrialCapReached) else type(spent)
            raise made.fault(kind, str(spent)) from spent
        finally:
            self.ledger.forget_session(key)

    # ---- what every run needs ------------------------------------------------------------------

    def model_for(self, role: str) -> str:
        return self.settings.models.get(role) or self.settings.model

    @property
    def cancel(self) -> threading.Event:
        return self._cancel

    def variables(self) -> dict[str, str]:
        """The agent's own variables: those that the preset and the user name, as far as they are set."""
        named = (*self.preset.variables, *self.settings.variables)
        return {**self.preset.settings, **{n: self._environ[n] for n in named if n in self._environ}}

    def start(self, session: Session, arguments: list[str], stdin: str = "") -> Start:
        loopback = self.endpoint if self.endpoint and self.endpoint[0] in ("127.0.0.1", "localhost") else None
        return Start(
            box=self.box,
            session=session,
            program=self.program,
            arguments=arguments,
            variables=self.variables(),
            stdin=stdin,
            endpoint_port=loopback[1] if loopback else None,
        )

    def login(self, session: Session) -> list[str]:
        """Write what makes the agent logged in into its home; the secrets in it."""
        if any(self._environ.get(key) for key in self.preset.keys):
            for name, text in self.preset.files.items():
                (session.home / name).parent.mkdir(parents=True, exist_ok=True)
                (session.home / name).write_text(text, "utf-8")
        return copy_logins(session.home, self._user, self.preset.logins)

    def version(self) -> str:
        """What the program says when it is asked for its version, in the box, without network; asked once."""
        with self._lock:
            if self._version is None:
                self._version = self._ask_version() if self.preset.version else ""
            return self._version

    def _ask_version(self) -> str:
        with session_folder(self.box) as session:
            try:
                ended = run(
                    self.start(session, list(self.preset.version[1:])), Watch(VERSION_S, self._cancel)
                )
            except OSError:
                return ""
        line = next((x for x in ended.output.split("\n") if x.strip()), "") if ended.code == 0 else ""
        return for_terminal(line, newlines=False).strip()[:60]


class session_folder:
    """The folders of one run, removed at the end whatever the agent did to their permissions."""

    def __init__(self, box: AgentBox) -> None:
        self._box = box

    def __enter__(self) -> Session:
        self._top = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        return make_session(self._top, self._box)

    def __exit__(self, *exc: object) -> None:
        _remove(self._top)


def _remove(top: Path) -> None:
    for folder, folders, _ in os.walk(top):  # a folder without permissions keeps rmtree out
        for name in folders:
            path = Path(folder) / name
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(top, ignore_errors=True)


def sweep() -> None:
    """Remove what runs of killed engines left behind: a home among it has a copy of the user's login."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        try:
            mine = folder.lstat().st_uid == os.geteuid() and not folder.is_symlink()
        except OSError:
            continue
        if mine and pid.isdecimal() and not psutil.pid_exists(int(pid)):
            _remove(folder)


class AgentRun:
    """One run: the workspace, the agent, what came of it. Used by one thread; `work` once, then `outcome`."""

    def __init__(self, by: CommandProposer, request: ProposalRequest, prompt: Prompt) -> None:
        self.by, self.request, self.prompt = by, request, prompt
        self.scratch: Scratch = open_scratch(request, prompt.parent)
        self.model = by.model_for(request.role.name)
        self.ended = Ended("", 0, 0.0, "", "")
        self.said, self.note = Said(), Note()
        self.changes = Changes(self.scratch.before)
        self.checks = 0
        self.refused: tuple[str, ...] = ()
        self.secrets: dict[str, str] = {}
        self._paid = Usage()

    @property
    def usage(self) -> Usage:
        """What its report says; nothing where it says nothing, so that a waiting agent writes no rows of cost."""
        return self.said.usage if self.said.cost or self.said.tokens else Usage()

    # ---- the run -------------------------------------------------------------------------------

    def work(self) -> None:
        by, seconds = self.by, self.by.settings.seconds
        if self.request.deadline is not None:
            seconds = min(seconds, max(0.0, self.request.deadline - time.monotonic()))
        version = by.version()
        del version  # asked here, so that the first run's clock does not contain it
        reader = Reader(by.preset.report)
        with session_folder(by.box) as session:
            make_workspace(session.workspace, self.request, self.prompt, self.scratch.before)
            self.secrets = {f"AGENT_LOGIN_TOKEN_{n}": text for n, text in enumerate(by.login(session))}
            stdin = TASK if by.preset.reads_stdin else ""
            argv = by.preset.argv(TASK, self.model, self.request.allowance.usd, by.address)
            start = by.start(session, argv[1:], stdin)
            with Relay(session.sockets, by.allowed, by.endpoint, self._check, by.upstream) as relay:
                try:
                    self.ended = run(start, Watch(seconds, by.cancel, lambda line: self._heard(reader, line)))
                except OSError as error:
                    self.ended = Ended("", 127, 0.0, "", f"the agent cannot be started: {error}")
                self.refused = tuple(relay.refused)
            self.said = reader.close(self.ended.output)
            if self.ended.why != "stopped":
                self.changes = read_changes(session.workspace, self.scratch.before)
                self.note = read_note(session.workspace)
        self._pay()

    def _heard(self, reader: Reader, line: str) -> bool:
        """A line of output: account for it; True when the run has cost what it may."""
        if not reader.feed(line):
            return False
        self.said = reader.said
        self._pay()
        allowed, usage = self.request.allowance, self.said.usage
        return (allowed.usd is not None and usage.usd >= allowed.usd) or (
            allowed.tokens is not None and all_tokens(usage) >= allowed.tokens
        )

    def _pay(self) -> None:
        if self.request.paid is not None and self.said.usage != self._paid:
            self._paid = self.said.usage
            self.request.paid(self._paid)

    def _check(self, question: bytes) -> str:
        """The answer to `bakeoff-check`: the same as of the tool `check` of a model's session."""
        try:
            asked = json.loads(question)
            files = {str(k): base64.b64decode(v) for k, v in asked["files"].items()}
            odd = {str(k): str(v)[:200] for k, v in asked["odd"].items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            return "FAILED: the question could not be read"
        self.checks += 1
        seen = changes(self.scratch.before, files, odd)
        if seen.outside:
            return "FAILED outside_surface: " + "; ".join(seen.outside)
        draft = Scratch(self.request, self.scratch.parent, self.scratch.before, seen.now)
        text, failed = use(draft, "check", {})
        return f"FAILED {text}" if failed else text

    # ---- what came of it -----------------------------------------------------------------------

    def outcome(self) -> Proposal:
        """The proposal, or the fault that the run ended in."""
        if self.ended.why == "stopped":
            raise self.fault(ProposerOutage, STOPPED_BY_CAMPAIGN)
        changed = self.changes.now != self.scratch.before or bool(self.changes.outside)
        if not changed:
            raise self._nothing()
        if leaked := self._leaks():
            raise self.fault(
                ProposerUnusable, f"the edit contains a credential ({leaked}); it is not recorded"
            )
        self.scratch.now = self.changes.now
        why = LIMITS.get(self.ended.why, "").format(seconds=self.ended.seconds)
        if not why and self.ended.code != 0:
            why = f"its program ended with status {self.ended.code}"
        if why and (self.changes.outside or faults(self.scratch)):
            raise self.fault(ProposerUnusable, f"agent {self.by.preset.name}: {why}, with no usable edit")
        return self._proposal(f"Handed in by the engine: {why}." if why else "")

    def _nothing(self) -> ProposerFault:
        """Ended without a change."""
        name, ended, said = self.by.preset.name, self.ended, self.said
        if ended.why:
            return self.fault(
                ProposerUnusable,
                f"agent {name}: {LIMITS[ended.why].format(seconds=ended.seconds)}, without a change",
            )
        failed = ended.code != 0 or bool(said.error)
        texts = [said.error, said.message, ended.errors, ended.output]
        if failed and (told := is_outage(texts, self.by.preset.outage)):
            return self.fault(ProposerOutage, f"agent {name} cannot work: {self._clean(told, 300)}")
        if failed:
            words = next(
                (t.strip() for t in (said.error, ended.errors, said.message, ended.output) if t.strip()), ""
            )
            last = self._clean(words.split("\n")[-1], 300)
            return self.fault(
                ProposerUnusable, f"agent {name} ended with status {ended.code} and changed nothing: {last}"
            )
        return self.fault(
            ProposerRefused,
            f"agent {name} ended without a change: {self._clean(said.message, 300) or '(no word)'}",
        )

    def _leaks(self) -> str:
        """What a changed file contains of this process's or the agent's secrets."""
        environ = {**os.environ, **self.secrets}
        for path, data in self.changes.now.items():
            before = self.scratch.before.get(path)
            if data == before:
                continue
            text = data.decode("utf-8", "replace")
            if redact(text, environ) != text and (
                before is None or redact(old := before.decode("utf-8", "replace"), environ) == old
            ):
                return for_terminal(path, newlines=False)[:80]
        return ""

    def _proposal(self, why: str) -> Proposal:
        note = self.note
        hypothesis = note.hypothesis or _first_sentence(self.said.message) or "(none given)"
        notes = "\n\n".join(part for part in (note.notes, why) if part)
        try:
            handed = hand_in(
                self.scratch, self._clean(hypothesis, 2000), note.expected_delta, self._clean(notes, 8000)
            )
        except ToolError as error:
            raise self.fault(ProposerUnusable, f"agent {self.by.preset.name}: {error}") from error
        proposal = Proposal(
            role=self.request.role.name,
            proposer=self.by.name,
            parent=self.scratch.parent,
            hypothesis=handed.hypothesis,
            expected_delta=handed.expected_delta,
            edits=handed.edits,
            edit_kind=note.edit_kind,
            operator=self.by.preset.name,
            notes=handed.notes,
            model=for_terminal(self.said.model or self.model, newlines=False)[:100],
            usage=self.usage,
            prompt=self.prompt.text,
            agent=self.facts(),
            outside=self.changes.outside,
        )
        return proposal.model_copy(update={"exchange": self._exchange(proposal=proposal)})

    def facts(self) -> AgentFacts:
        said, ended = self.said, self.ended
        return AgentFacts(
            name=self.by.preset.name,
            version=self.by.version(),
            box="trusted" if self.by.box.trusted else "proven",
            ended=ended.why or f"status {ended.code}",
            exit_code=ended.code,
            seconds=round(ended.seconds, 3),
            turns=said.turns,
            cost="reported" if said.cost else "unknown",
            tokens="reported" if said.tokens else "unknown",
            checks=self.checks,
            hosts=tuple(f"{host}:{port}" for host, port in self.by.hosts),
            refused_hosts=self.refused,
        )

    def fault(self, kind: type[ProposerFault], message: str) -> ProposerFault:
        raised: ProposerFault = kind(redact(message, {**os.environ, **self.secrets}), usage=self.usage)
        raised.exchange = self._exchange(fault=raised).encode()
        return raised

    def _clean(self, text: str, limit: int) -> str:
        return shortened(redact(for_terminal(text), {**os.environ, **self.secrets}).strip(), limit)

    def _exchange(self, proposal: Proposal | None = None, fault: ProposerFault | None = None) -> str:
        """The record of the run; the output is the agent's own transcript, cut in the middle, without secrets."""
        clean = {**os.environ, **self.secrets}
        host = self.by.endpoint[0] if self.by.endpoint else ""
        return exchange_json(
            proposer=self.by.name,
            host=host,
            model=self.said.model or self.model,
            request=self.request,
            prompt=self.prompt,
            turns=(),
            usage=self.usage,
            proposal=proposal,
            fault=fault,
            agent={
                **self.facts().model_dump(mode="json"),
                # cut before it is searched, which is slow, and again behind the place of that cut
                "output": shortened(redact(shortened(self.ended.output, 4 * TRANSCRIPT), clean), TRANSCRIPT),
                "errors": shortened(redact(self.ended.errors, clean), ERRORS),
            },
        )


def _first_sentence(text: str) -> str:
    flat = " ".join(text.split("```")[0].split())
    return flat.split(". ")[0][:400]
