"""How one coding agent is called: a TOML file in `presets/`, or the user's own command line.

`load_preset("claude")` reads a shipped preset, `own_command([...])` makes one of a command line. In `command` an item
`{prompt}` is the task; without one the task goes to standard input. `model` is appended when a model is asked for
(`{model}`), `budget` when dollars are capped (`{usd}`), `at_address` when the user names an endpoint (`{address}`). `Report` says where its output has the cost and last words.
"""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from lineage.errors import SpecInvalid, UnknownName, UsageError
from lineage.records import Record

PROMPT = "{prompt}"
PORTS = {"http": 80, "https": 443}


class ReportRule(Record):
    """Which JSON objects of the output it reads (`match`: path to value), and the path of each figure in them.

    A path is names with dots; `*` is every value of a table, and what is found there is added up, as is what several
    paths with ` + ` between them give. `once` is the path of
    an id: a second object with the same id is not counted again.
    """

    match: dict[str, str | bool] = {}
    once: str = ""
    message: str = ""
    usd: str = ""
    tokens_in: str = ""
    tokens_out: str = ""
    tokens_cache_read: str = ""
    tokens_cache_write: str = ""
    turns: str = ""
    model: str = ""
    error: str = ""


class Report(Record):
    """What an agent says of its own run. Rules in `each` add up; one in `final` that matches replaces their sums.

    `cached_in_input`: its count of input tokens includes those that were read from a cache.
    """

    format: Literal["text", "json", "lines"] = "text"
    each: tuple[ReportRule, ...] = ()
    final: tuple[ReportRule, ...] = ()
    cached_in_input: bool = False


class AgentPreset(Record):
    """One agent. `variables` are passed on from the user's environment, `settings` are set for it alone.

    `hosts`: what its network passes (`name` or `name:port`; `*.` in front for subdomains). `address`: the variable with
    another address of its model endpoint. `keys`: any one of these variables, or of `logins` (files of the user's home,
    copied into the agent's own), means that it is logged in. `files` are written into its home where a key is used. `folders`: read-only beside its own program.
    """

    name: str
    title: str = ""
    command: tuple[str, ...] = Field(min_length=1)
    version: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    budget: tuple[str, ...] = ()
    at_address: tuple[str, ...] = ()
    install: str = ""
    variables: tuple[str, ...] = ()
    settings: dict[str, str] = {}
    hosts: tuple[str, ...] = ()
    address: str = ""
    keys: tuple[str, ...] = ()
    logins: tuple[str, ...] = ()
    files: dict[str, str] = {}
    folders: tuple[str, ...] = ()
    report: Report = Report()
    outage: tuple[str, ...] = ()

    def argv(self, prompt: str, model: str = "", usd: float | None = None, address: str = "") -> list[str]:
        """The command line of one run."""
        given = [part.replace(PROMPT, prompt) for part in self.command]
        if address:
            given += [part.replace("{address}", address) for part in self.at_address]
        if model:
            given += [part.replace("{model}", model) for part in self.model]
        if usd is not None:
            given += [part.replace("{usd}", f"{usd:.4f}") for part in self.budget]
        return given

    @property
    def reads_stdin(self) -> bool:
        return not any(PROMPT in part for part in self.command)


def preset_names() -> list[str]:
    folder = files("agents.command").joinpath("presets")
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def load_preset(name: str) -> AgentPreset:
    """A shipped preset by name, or the user's own by the path of its file. Raises UnknownName, SpecInvalid."""
    if name.endswith(".toml"):
        return _own_preset(Path(name))
    known = preset_names()
    if name not in known:
        raise UnknownName("agent", name, known, hint="or give your own with [proposer] command = [...]")
    text = files("agents.command").joinpath("presets", f"{name}.toml").read_text("utf-8")
    return _preset(name, text, f"preset {name}")


def _own_preset(path: Path) -> AgentPreset:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise SpecInvalid(f"agent {str(path)!r}: the preset cannot be read ({why}); check the path") from None
    return _preset(re.sub(r"[^A-Za-z0-9._-]", "", path.stem)[:40] or "agent", text, str(path))


def _preset(name: str, text: str, where: str) -> AgentPreset:
    try:
        return AgentPreset.model_validate({"name": name, **tomllib.loads(text)})
    except tomllib.TOMLDecodeError as error:
        raise SpecInvalid(f"{where}: not valid TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise SpecInvalid(f"{where}: {key}: {first['msg']}; agents/README.md has the keys") from None


def own_command(command: Sequence[str]) -> AgentPreset:
    """The user's own program as an agent that reports nothing: dollars and tokens unknown, time capped."""
    name = re.sub(r"[^A-Za-z0-9._-]", "", Path(command[0]).name)[:40] or "command"
    return AgentPreset(name=name, title=name, command=tuple(command))


def find_program(preset: AgentPreset) -> str:
    """The path of the agent's program. Raises UsageError that says how to install it."""
    wanted = preset.command[0]
    found = shutil.which(os.path.expanduser(wanted))  # noqa: PTH111 - the command is text
    if found is None:
        how = (
            f"install it with: {preset.install}"
            if preset.install
            else "give the path of a program that can run"
        )
        raise UsageError(f"agent {preset.name}: no program {wanted!r} on this machine's PATH; {how}")
    return str(Path(found).absolute())


def require_login(
    preset: AgentPreset, environ: Mapping[str, str], home: Path, variables: Sequence[str] = ()
) -> None:
    """Raise UsageError when neither a key nor a login of the agent is there, nor one of the user's `variables`."""
    if not preset.keys and not preset.logins:
        return
    if any(environ.get(key) for key in (*preset.keys, *variables)) or any(
        (home / path).is_file() for path in preset.logins
    ):
        return
    wanted = " or ".join([*preset.keys, *(f"~/{path}" for path in preset.logins)])
    raise UsageError(
        f"agent {preset.name}: it is not logged in: found none of {wanted}; set one, log in with "
        f"`{preset.command[0]}` once, or name the variable of another way with --agent-variable"
    )


def endpoint_of(preset: AgentPreset, environ: Mapping[str, str]) -> tuple[str, int] | None:
    """Host and port of the model endpoint that the user's environment names; None for the agent's own."""
    address = environ.get(preset.address, "") if preset.address else ""
    if not address:
        return None
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        port = parts.port or PORTS.get(parts.scheme, 443)
    except ValueError:
        port = 0
    if not parts.hostname or not port:
        raise UsageError(f"{preset.address} = {address!r} is no address; write it as https://host[:port]")
    return parts.hostname, port


def upstream_of(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """The user's own HTTP proxy, from HTTPS_PROXY; None without one, or for one that needs a password."""
    address = environ.get("HTTPS_PROXY") or environ.get("https_proxy") or ""
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        port = parts.port or PORTS["http"]
    except ValueError:
        return None
    return (
        (parts.hostname, port)
        if parts.hostname and parts.scheme in ("", "http") and not parts.username
        else None
    )


def host_and_port(text: str) -> tuple[str, int]:
    """`name` or `name:port` as a pair; the port of TLS when none is given. Raises UsageError."""
    name, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        name, port = text, "443"
    name = name.strip("[]").lower()
    if not re.fullmatch(r"(\*\.)?[a-z0-9._:-]+", name) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(
            f"host {text!r} of the agent's network is not a name or name:port, such as example.org"
        )
    return name, int(port)
