"""The engine's read-only program inside the sandbox: locks itself, then runs the candidate's code.

Use: `python -I -S entry.py CONFIG` (marshal, in hex) with fds 3 (orders in), 4 (reports out), 5 (artifact
out, or requests in) and 6 (answers out); in mode `prepare` it is the fork server of `fork_server.py` first. After the locks it shares its process with the candidate, so
nothing it says is believed: reports are advice or only hurt the one who forges them. Limits: no
site hooks run (-S), hence no .pth files and no editable installs; standard library until the locks hold.
"""

# os.path: starts faster, and every run waits for it
# ruff: noqa: PTH114, PTH118
from __future__ import annotations

import marshal
import os
import sys
import time
from importlib import import_module
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

ORDERS, REPORTS, DATA_IN, ARTIFACT, ANSWERS = 3, 4, 5, 5, 6
FIELD = "\x1f"
AXES = 6
REQUEST_BYTES = 8 + 8 + 8 + 8 * AXES  # dtype name, payload bytes, rank, sizes of the axes
WANTED_BYTES = (
    REQUEST_BYTES  # of a judge that asks: dtype name or "text", parts, rank, axes of one row's answer
)
SETUP_FAILED = 121
MOST_NAMES = 24
_write = os.write  # the candidate may patch os; its own loss, but honest code keeps working


class Refused(Exception):
    """An honest candidate broke a rule of the protocol; `rule` names it."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def say(word: str, *fields: object) -> None:
    parts = [word, *(str(field).replace("\n", " ").replace(FIELD, " ")[:600] for field in fields)]
    try:
        _write(REPORTS, (FIELD.join(parts) + "\n").encode("utf-8", "replace"))
    except BrokenPipeError:
        pass  # the supervisor is ending this run


def _module(name: str, path: str) -> Any:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _lock(config: dict[str, Any]) -> None:
    """Where bubblewrap has set the filter already there may be nothing left to do but limits."""
    if any(config["locks"].values()):
        _module("bakeoff_kernel", config["kernel"]).lock(config["locks"])


def _offer_packages(config: dict[str, Any]) -> None:
    """Only the environment's packages exist; interpreters that are started from here find the same."""
    _module("bakeoff_packages", os.path.join(config["inside"], "sitecustomize.py")).limit(config["packages"])
    sys.path.append(config["inside"])


def _forked(config: dict[str, Any]) -> dict[str, Any]:
    """Be the fork server. Returns in the process of each run, which is locked in already, with its configuration."""
    before = set(sys.modules)
    _offer_packages(config)
    kernel = _module("bakeoff_kernel", config["kernel"])
    serve = _module("bakeoff_fork_server", config["server"]).serve
    served: dict[str, Any] = serve(config, kernel, before)
    sys.path[sys.path.index(config["inside"])] = served["inside"]
    return served


def _looker(config: dict[str, Any]) -> Callable[..., None]:
    """`look(stage, seed)` reports which definitions are not what their files define; see definitions.py."""
    table = _module("bakeoff_definitions", config["definitions"]).Definitions(config["recipe"])
    table.follow(config["libraries"])
    tell, most = say, MOST_NAMES

    def look(stage: str, seed: int | None = None) -> None:
        try:
            names = table.differences() + (table.reseeded(seed) if stage == "trained" else [])
        except Exception as error:  # an object of the candidate in a table that is compared
            names = [f"bakeoff.report ({type(error).__name__})"]
        for start in range(0, len(names[:most]), 6):
            tell("effects", stage, *(name[:200] for name in names[start : min(start + 6, most)]))
        tell("effects", stage)

    return look


def _read_order() -> tuple[Path, int]:
    """Where the released data are, and the seed."""
    text = bytearray()
    while not text.endswith(b"\n"):
        byte = os.read(ORDERS, 1)
        if not byte:
            os._exit(0)  # the supervisor is gone
        text += byte
    place, seed = text.decode().rstrip("\n").split(FIELD)
    return Path(place), int(seed)


def _read_exactly(fd: int, size: int) -> bytearray:
    data = bytearray(size)
    view, have = memoryview(data), 0
    while have < size:
        count = os.readv(fd, [view[have:]])
        if count == 0:
            return data[:have]
        have += count
    return data


def _write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data).cast("B")
    while view:
        view = view[_write(fd, view[: 1 << 20]) :]


def reporter() -> Callable[[int, float], None]:
    """`report(step, value)`: the training curve, at most 5 times a second; advice, never a score."""
    last = [0.0]

    def report(step: int, value: float) -> None:
        now = time.monotonic()
        number = float(value)
        if now - last[0] >= 0.2 and number - number == 0:  # neither NaN nor infinite
            last[0] = now
            say("progress", int(step), number)

    return report


def _load(name: str, config: dict[str, Any], look: Callable[..., None] | None = None) -> ModuleType:
    module = import_module(name)
    say("imported")
    if look is not None:
        look("imported")
    warm_up = getattr(module, "warm_up", None)
    if warm_up is not None:
        warm_up(Path(config["fake"]))
    return module


def _call_train(module: ModuleType, data: Path, out: Path, seed: int) -> None:
    code = getattr(module.train, "__code__", None)  # wrapped or callable objects get no reporter
    if code is not None and "report" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        module.train(data, out, seed, report=reporter())
    else:
        module.train(data, out, seed)


def export(root: Path) -> None:
    """Send every file under `root`, sorted by path; anything that is not a plain file is refused."""
    import stat

    count = 0
    for folder, folders, names in os.walk(root, followlinks=False):
        folders.sort()
        for name in sorted(names + [d for d in folders if os.path.islink(os.path.join(folder, d))]):
            path = os.path.join(folder, name)
            facts = os.lstat(path)
            if not stat.S_ISREG(facts.st_mode):
                kind = "link" if stat.S_ISLNK(facts.st_mode) else "special"
                raise Refused(f"artifact_{kind}", f"{name!r} in the output folder is not a regular file")
            if facts.st_nlink != 1:
                raise Refused("artifact_link", f"{name!r} in the output folder has {facts.st_nlink} names")
            if _has_hole(path, facts.st_size):
                raise Refused("artifact_sparse", f"{name!r} in the output folder has holes")
            _send(path, os.path.relpath(path, root))
            count += 1
    _write_all(ARTIFACT, b"E" + count.to_bytes(4, "little"))


def _has_hole(path: str, size: int) -> bool:
    handle = os.open(path, os.O_RDONLY)
    try:
        return size > 0 and os.lseek(handle, 0, os.SEEK_HOLE) < size
    finally:
        os.close(handle)


def _send(path: str, name: str) -> None:
    raw = name.encode("utf-8", "surrogateescape")
    with open(path, "rb") as handle:
        size = os.fstat(handle.fileno()).st_size
        _write_all(ARTIFACT, b"F" + len(raw).to_bytes(2, "little") + size.to_bytes(8, "little") + raw)
        while chunk := handle.read(1 << 20):
            _write_all(ARTIFACT, chunk)


def run_train(config: dict[str, Any]) -> None:
    look = _looker(config)
    module = _load("train", config)
    say("ready")
    data, seed = _read_order()
    _call_train(module, data, Path(config["out"]), seed)
    sys.stdout.flush()
    say("trained")
    look("trained", seed)
    export(Path(config["out"]))


class Wanted:
    """What one request must be answered with: an array of this shape and dtype, or so many texts."""

    def __init__(self, count: int, shape: tuple[int, ...], dtype: str = "float32", most: int = 0) -> None:
        self.count, self.shape, self.dtype, self.most = count, shape, dtype, most


def _answer(predict: Callable[..., Any], model: object, request: Any, wanted: Wanted) -> bytes:
    answer = predict(model, request)
    return _texts(answer, wanted) if wanted.dtype == "text" else _array(answer, wanted)


def _array(answer: Any, wanted: Wanted) -> bytes:
    import numpy as np

    if not isinstance(answer, np.ndarray):
        raise Refused("answer_type", f"predict returned {type(answer).__name__}, need numpy.ndarray")
    if answer.dtype != wanted.dtype or answer.dtype.byteorder == ">":
        raise Refused("answer_dtype", f"predict returned {answer.dtype}, need {wanted.dtype}")
    if answer.shape != wanted.shape:
        raise Refused("answer_shape", f"predict returned shape {answer.shape}, need {wanted.shape}")
    return np.ascontiguousarray(answer).tobytes()


def _texts(answer: Any, wanted: Wanted) -> bytes:
    """The byte lengths of all texts, then the texts."""
    if not isinstance(answer, list) or not all(isinstance(text, str) for text in answer):
        raise Refused("answer_type", f"predict returned {type(answer).__name__}, need a list of str")
    if len(answer) != wanted.count:
        raise Refused("answer_shape", f"predict returned {len(answer)} texts, need {wanted.count}")
    try:
        parts = [text.encode("utf-8") for text in answer]
    except UnicodeEncodeError as error:
        raise Refused("answer_text", f"predict returned a text that is not Unicode: {error}") from None
    longest = max(map(len, parts))
    if longest > wanted.most:
        raise Refused("answer_size", f"predict returned a text of {longest} bytes, at most {wanted.most}")
    return b"".join([*(len(part).to_bytes(8, "little") for part in parts), *parts])


def _request(source: int = DATA_IN) -> Any:
    """The next array to answer, or None at the end of the requests."""
    import numpy as np

    head = _read_exactly(source, REQUEST_BYTES)
    if len(head) < REQUEST_BYTES:
        return None
    name = bytes(head[:8]).rstrip(b"\0").decode()
    size, rank, *axes = (int.from_bytes(head[at : at + 8], "little") for at in range(8, REQUEST_BYTES, 8))
    payload = _read_exactly(source, size)
    if len(payload) < size:
        return None
    return np.frombuffer(payload, dtype=name).reshape(axes[:rank])


def _asked(config: dict[str, Any], source: int = DATA_IN) -> tuple[Any, Wanted] | None:
    """The next request and what it must be answered with, or None at the end of the requests."""
    if not config["asks"]:
        request = _request(source)
        return None if request is None else (request, _usual(config, request))
    head = _read_exactly(source, WANTED_BYTES)
    if len(head) < WANTED_BYTES:
        return None
    dtype = bytes(head[:8]).rstrip(b"\0").decode()
    count, rank, *axes = (int.from_bytes(head[at : at + 8], "little") for at in range(8, WANTED_BYTES, 8))
    parts = [_request(source) for _ in range(count)]
    if any(part is None for part in parts):
        return None
    rows = len(parts[0])
    if dtype == "text":
        return _unpacked(*parts), Wanted(rows, (), "text", axes[0])
    return parts[0] if count == 1 else tuple(parts), Wanted(rows, (rows, *axes[:rank]), dtype)


def _unpacked(lengths: Any, data: Any) -> list[str]:
    """Texts from their byte lengths and their bytes."""
    texts, raw, at = [], data.tobytes(), 0
    for length in lengths.tolist():
        texts.append(raw[at : at + length].decode("utf-8"))
        at += length
    return texts


def _usual(config: dict[str, Any], request: Any) -> Wanted:
    axes = [config["context"]] if config["context"] else []
    return Wanted(len(request), (len(request), *axes, config["outputs"]))


def run_predict(config: dict[str, Any]) -> None:
    import numpy  # noqa: F401 - before the clock starts and before the candidate can shadow it

    sys.path.insert(0, config["recipe"])
    module = _load("predict", config)
    say("ready")
    model = module.load(_read_order()[0])
    while (asked := _asked(config)) is not None:
        _write_all(ANSWERS, _answer(module.predict, model, *asked))
    sys.stdout.flush()


def run_smoke(config: dict[str, Any]) -> None:
    """The whole path once on fake data, in one process; the folder is thrown away."""
    look = _looker(config)
    module = _load("train", config, look)
    say("ready")
    data, seed = _read_order()
    if hasattr(module, "rehearse"):
        module.rehearse(data, Path(config["out"]))
    else:
        _call_train(module, data, Path(config["out"]), seed)
    say("trained")
    look("trained", seed)
    import numpy as np

    predictor = _load("predict", config)
    say("load")
    model = predictor.load(Path(config["out"]))
    say("predict")
    if config["asks"]:
        asked = _asked(config, os.open(config["fake_request"], os.O_RDONLY))
        assert asked is not None, "the engine's own file"
    else:
        request = np.load(Path(config["fake_request"]))
        asked = request, _usual(config, request)
    _answer(predictor.predict, model, *asked)
    look("predicted")
    say("export")
    export(Path(config["out"]))


def _workplace(config: dict[str, Any], data: Path) -> Path:
    """A copy of the recipe that the script may write into, with the released data linked into their places."""
    import shutil

    work = Path(config["work"])
    shutil.copytree(config["recipe"], work, copy_function=shutil.copyfile, dirs_exist_ok=True)
    for name in config["links"]:
        root = data / name
        for folder, _, files in os.walk(root):
            place = work / os.path.relpath(folder, root)
            place.mkdir(parents=True, exist_ok=True)
            for file in files:
                (place / file).symlink_to(os.path.join(folder, file))
    os.chdir(work)
    return work


def _run_python(words: list[str], work: Path) -> None:
    """`python FILE ...` or `python -m NAME ...` in this process, as the interpreter's own start would do it."""
    import runpy

    rest = words[1:]
    while rest[0] in ("-u", "-B", "-O"):
        rest.pop(0)
    if rest[0] == "-m":
        sys.argv = rest[1:]
        sys.path.insert(0, str(work))
        runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = rest
        path = work / rest[0]
        sys.path.insert(0, str(path.parent))
        runpy.run_path(str(path), run_name="__main__")


def _run_program(words: list[str], config: dict[str, Any]) -> int:
    """Another program, as a process of its own; `python` means this interpreter."""
    import subprocess

    tools = Path(config["tmp"]) / "bin"
    tools.mkdir(parents=True)
    for name in ("python", "python3"):
        (tools / name).symlink_to(sys.executable)
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    try:
        return subprocess.run(words, env=env, check=False).returncode
    except FileNotFoundError:
        raise Refused(
            "no_program", f"{words[0]!r} is not in the sandbox; scripts there start with python"
        ) from None
    except (PermissionError, BlockingIOError) as error:
        raise Refused(
            "no_processes",
            f"{words[0]!r} cannot be started here ({error}); scripts that start with python can",
        ) from None


def _end_as_python_does() -> None:
    """What the interpreter does behind the last line: end pools of threads, wait for threads, call what atexit has."""
    import atexit
    import threading

    threading._shutdown()  # type: ignore[attr-defined]  # a plain join waits for a pool's idle threads for ever
    atexit._run_exitfuncs()
    sys.stdout.flush()


def run_script(config: dict[str, Any]) -> None:
    """A script as it is, from its start to its end; then the files of its output folder leave through the pipe."""
    say("imported")
    say("ready")
    data, _ = _read_order()
    work, words = _workplace(config, data), config["command"]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    code = 0
    if config["in_process"]:
        try:
            _run_python(words, work)
        except SystemExit as error:
            if error.code is not None and not isinstance(error.code, int):
                print(error.code, file=sys.stderr)
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        _end_as_python_does()
    else:
        code = _run_program(words, config)
    if code:
        raise SystemExit(code)
    say("trained")
    if config["collects"]:
        export(Path(config["out"]))


def _explain(error: BaseException, config: dict[str, Any]) -> tuple[str, str, str]:
    """What and where, for the record and the next prompt; untrusted by everyone who reads it."""
    root, place = config.get("work", config["recipe"]) + "/", ""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        place = f"{name[len(root) :]}:{trace.tb_lineno}" if name.startswith(root) else place
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and (error.filename or "").startswith(root):
        place = f"{(error.filename or '')[len(root) :]}:{error.lineno}"
    return type(error).__name__, str(error), place


def _is_full(folder: str) -> bool:
    """A folder of a size of its own, in which nothing can be written any more; libraries say that in their own ways."""
    try:
        facts = os.statvfs(folder)
    except OSError:
        return False
    return os.path.ismount(folder) and facts.f_blocks > 0 and facts.f_bavail * 20 < facts.f_blocks


def main() -> None:
    config: dict[str, Any] = marshal.loads(bytes.fromhex(sys.argv[1]))
    is_forked = config["mode"] == "prepare"
    if is_forked:
        config = _forked(config)
    try:
        if not is_forked:
            _lock(config)
    except Exception as error:
        print(f"sandbox set-up failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(SETUP_FAILED)
    say("up")
    if not is_forked:
        _offer_packages(config)
    if config["mode"] not in ("predict", "script"):
        sys.path.insert(0, config["recipe"])
    mode = {
        "train": run_train,
        "predict": run_predict,
        "smoke": run_smoke,
        "script": run_script,
    }[config["mode"]]
    code = 0
    try:
        mode(config)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except Refused as error:
        say("refused", error.rule, error)
        print(f"refused: {error}", file=sys.stderr)
        code = 3
    except BaseException as error:
        if _is_full(config["out"]):
            say(
                "refused",
                "oversize",
                "the output folder is full: the artifact is over its cap, and over twice it",
            )
        say("error", *_explain(error, config))
        sys.__excepthook__(type(error), error, error.__traceback__)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            continue
    os._exit(code & 0xFF)


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # a process that multiprocessing has spawned
    _offer_packages(marshal.loads(bytes.fromhex(sys.argv[1])))
