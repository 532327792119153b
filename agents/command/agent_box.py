"""The box of a coding agent: bubblewrap with an allow-list of mounts, an own home, and a network without a way out.

`AgentBox` is what a machine offers (made and proven by `flows.machine.agent_box`); `box_command` gives the command line
of one run. Inside are the system's programs, the agent's own, its home and its workspace; no data, store, key file,
other home or process of the host. Limits: Linux with bubblewrap. What is readable under /usr/lib and /usr/share of the
host is readable inside.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lineage.errors import UsageError

HERE = Path(__file__).resolve().parent
WORKSPACE, HOME, SOCKETS, TOOLS = "/workspace", "/home/agent", "/run/bakeoff", "/opt/bakeoff"
TMP_BYTES = 512 << 20
PROXY_PORT = 8911
SYSTEM = ("bin", "sbin", "lib", "lib64", "lib32", "libexec", "share", "local/bin", "local/lib")
SETTINGS = (
    *(
        "ld.so.cache",
        "ld.so.conf",
        "ld.so.conf.d",
        "alternatives",
        "ssl",
        "ca-certificates",
        "ca-certificates.conf",
    ),
    *("pki", "crypto-policies", "localtime", "mime.types", "gitconfig.d"),
)
NAMESPACES = (
    *(
        "--unshare-user",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-net",
        "--unshare-uts",
        "--unshare-cgroup-try",
    ),
    *("--uid", "1000", "--gid", "1000", "--cap-drop", "ALL", "--die-with-parent", "--new-session"),
    *("--hostname", "agent"),
)
FILES = ("start_in_box.py", "check_in_box.py", "workspace_files.py")


@dataclass(frozen=True)
class AgentBox:
    """What this machine offers. `bwrap` is empty where the user trusts the agent instead (`holds` is empty then).

    `interpreter` and `folders` run the engine's own programs inside. `proc` are mounts over parts of /proc; `hidden` are
    folders of the engine that are blanked where they lie under a mounted one.
    """

    bwrap: str = ""
    disable_userns: bool = True
    interpreter: str = sys.executable
    folders: tuple[str, ...] = ()
    proc: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    not_held: tuple[str, ...] = ()

    @property
    def trusted(self) -> bool:
        return not self.bwrap


@dataclass(frozen=True)
class Program:
    """An agent's program as it is started inside: what is mounted for it, and what goes in front of PATH."""

    path: str
    mounts: tuple[str, ...]
    search: tuple[str, ...]


def program_of(path: str, folders: Sequence[str] = ()) -> Program:
    """What a program consists of: the whole `node_modules` of an npm package, else its one file; and its interpreter.

    Raises UsageError for a folder that would mount a home or the whole file system.
    """
    real = Path(path).resolve()
    packages = [parent for parent in real.parents if parent.name == "node_modules"]
    mounts = [packages[-1] if packages else real]
    search = []
    node = _interpreter(real)
    if node:
        mounts.append(Path(node).resolve())
        search.append(str(Path(node).resolve().parent))
    for folder in folders:
        extra = Path(folder).expanduser().resolve()
        if not extra.exists():
            raise UsageError(
                f"agent folder {folder!r} does not exist; name a file or folder that the agent may read"
            )
        if (
            extra == Path(extra.anchor)
            or extra == Path.home().resolve()
            or Path.home().resolve().is_relative_to(extra)
        ):
            raise UsageError(
                f"agent folder {folder!r} contains a whole home; name the folder that the agent needs"
            )
        mounts.append(extra)
    return Program(str(real), tuple(dict.fromkeys(str(m) for m in mounts)), tuple(search))


def _interpreter(program: Path) -> str:
    """What `#!/usr/bin/env NAME` means to the user, found beside the program's own shell: node of nvm, for instance."""
    import shutil

    try:
        with program.open("rb") as file:
            first = file.read(200).split(b"\n")[0].decode("utf-8", "replace")
    except OSError:
        return ""
    words = first.removeprefix("#!").split() if first.startswith("#!") else []
    if len(words) >= 2 and words[0].endswith("/env"):
        name = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), "")
        found = shutil.which(name)
        return found if found and not found.startswith("/usr/bin/") else ""
    return words[0] if words and not words[0].startswith(("/usr/", "/bin/")) else ""


@dataclass(frozen=True)
class Session:
    """Folders of one run on the host; each is a folder of its own below `top`."""

    top: Path

    @property
    def workspace(self) -> Path:
        return self.top / "workspace"

    @property
    def home(self) -> Path:
        return self.top / "home"

    @property
    def sockets(self) -> Path:
        return self.top / "sockets"

    @property
    def tools(self) -> Path:
        return self.top / "tools"


def make_session(top: Path, box: AgentBox) -> Session:
    """The empty folders of one run, and the programs of ours that it finds on its PATH."""
    session = Session(top)
    for folder in (session.workspace, session.home, session.sockets, session.tools / "bin"):
        folder.mkdir(parents=True)
    for name in FILES:
        (session.tools / name).write_bytes((HERE / name).read_bytes())
    check = f"{TOOLS}/check_in_box.py" if not box.trusted else session.tools / "check_in_box.py"
    more = "" if not box.trusted else f" '{session.sockets / 'check'}' '{session.workspace}'"
    shim = session.tools / "bin" / "bakeoff-check"
    shim.write_text(f"#!/bin/sh\nexec '{box.interpreter}' -I -S '{check}'{more}\n")
    shim.chmod(0o755)
    return session


def box_arguments(box: AgentBox, session: Session, program: Program) -> list[str]:
    """Mounts of one run. Order matters: a later mount hides an earlier one."""
    given = [*NAMESPACES, *(["--disable-userns"] if box.disable_userns else [])]
    for part in SYSTEM:
        if os.path.isdir(f"/usr/{part}"):  # noqa: PTH112
            given += ["--ro-bind", f"/usr/{part}", f"/usr/{part}"]
    for name in ("bin", "sbin", "lib", "lib64", "lib32"):
        place = Path("/") / name
        if place.is_symlink():
            given += ["--symlink", str(place.readlink()), str(place)]
        elif place.is_dir():
            given += ["--ro-bind", str(place), str(place)]
    for name in SETTINGS:
        given += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for name in ("passwd", "group", "hosts", "nsswitch.conf"):
        given += ["--ro-bind", str(_settings(session) / name), f"/etc/{name}"]
    given += ["--proc", "/proc", *box.proc, "--dev", "/dev", "--size", str(TMP_BYTES), "--tmpfs", "/tmp"]
    for path in (*box.folders, *program.mounts):
        given += ["--ro-bind", path, path]
    mounted = [*(f"/usr/{part}" for part in SYSTEM), *box.folders, *program.mounts]
    for path in box.hidden:
        if os.path.isdir(path) and any(Path(path).is_relative_to(one) for one in mounted):  # noqa: PTH112
            given += ["--size", "4096", "--tmpfs", path]
    given += ["--ro-bind", box.interpreter, box.interpreter]
    given += ["--ro-bind", str(session.tools), TOOLS, "--ro-bind", str(session.sockets), SOCKETS]
    given += ["--bind", str(session.home), HOME, "--bind", str(session.workspace), WORKSPACE]
    return [*given, "--remount-ro", "/", "--chdir", WORKSPACE]


def _settings(session: Session) -> Path:
    """Files of /etc that programs look for: one user, one host name; nothing of the host's."""
    folder = session.top / "etc"
    if not folder.is_dir():
        folder.mkdir()
        (folder / "passwd").write_text(f"agent:x:1000:1000:agent:{HOME}:/bin/sh\n")
        (folder / "group").write_text("agent:x:1000:\n")
        (folder / "hosts").write_text("127.0.0.1 localhost agent\n::1 localhost\n")
        (folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")
    return folder


def environment(program: Program, box: AgentBox, session: Session) -> dict[str, str]:
    """What an agent finds in its environment besides its own variables: nothing of the engine's."""
    tools = f"{TOOLS}/bin" if not box.trusted else str(session.tools / "bin")
    path = [tools, *program.search, "/usr/local/bin", "/usr/bin", "/bin"]
    given = {
        "PATH": ":".join(path),
        "HOME": HOME if not box.trusted else str(session.home),
        "USER": "agent",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "TZ": "UTC",
        "CI": "1",
        "NO_COLOR": "1",
    }
    if box.trusted:
        return given
    proxy = f"http://127.0.0.1:{PROXY_PORT}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy")
    own = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    return {**given, "TMPDIR": "/tmp", **dict.fromkeys(names, proxy), **own, "NODE_USE_ENV_PROXY": "1"}
