"""The engine's read-only program inside the sandbox: locks itself, then runs the candidate's code.

Use: `python -I -S entry.py CONFIG_JSON` with fds 3 (orders in), 4 (reports out), 5 (artifact out, or
requests in) and 6 (answers out). After the locks it shares its process with the candidate, so
nothing it says is believed: reports are advice or only hurt the one who forges them. Limits: no
site hooks run (-S), hence no .pth files and no editable installs; standard library until the locks hold.
"""

# runs under -S next to the candidate; os.path starts faster
# ruff: noqa: PTH114, PTH118
from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import json
import math
import os
import stat
import struct
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

ORDERS, REPORTS, DATA_IN, ARTIFACT, ANSWERS = 3, 4, 5, 5, 6
REQUEST = struct.Struct("<8sQQ4Q")  # dtype name, payload bytes, rank, sizes of up to four axes
SETUP_FAILED = 121
_write = os.write  # the candidate may patch os; its own loss, but honest code keeps working


class Refused(Exception):
    """An honest candidate broke a rule of the protocol; `rule` names it."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def say(word: str, **more: object) -> None:
    line = json.dumps({"say": word, **more})[:3900] + "\n"
    with contextlib.suppress(BrokenPipeError):
        _write(REPORTS, line.encode("ascii", "replace"))


def _lock(config: dict[str, Any]) -> None:
    spec = importlib.util.spec_from_file_location("bakeoff_kernel", config["kernel"])
    assert spec is not None and spec.loader is not None
    kernel = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernel)
    kernel.lock(config["locks"])


def _read_line() -> dict[str, Any]:
    text = bytearray()
    while not text.endswith(b"\n"):
        byte = os.read(ORDERS, 1)
        if not byte:
            os._exit(0)  # the supervisor is gone
        text += byte
    order: dict[str, Any] = json.loads(text)
    return order


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
        if now - last[0] >= 0.2 and math.isfinite(float(value)):
            last[0] = now
            say("progress", step=int(step), value=float(value))

    return report


def _load(name: str, config: dict[str, Any]) -> ModuleType:
    module = importlib.import_module(name)
    say("imported")
    warm_up = getattr(module, "warm_up", None)
    if warm_up is not None:
        warm_up(Path(config["fake"]))
    return module


def _call_train(module: ModuleType, data: Path, out: Path, seed: int) -> None:
    if "report" in inspect.signature(module.train).parameters:
        module.train(data, out, seed, report=reporter())
    else:
        module.train(data, out, seed)


def export(root: Path) -> None:
    """Send every file under `root`, sorted by path; anything that is not a plain file is refused."""
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
    _write_all(ARTIFACT, struct.pack("<cI", b"E", count))


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
        _write_all(ARTIFACT, struct.pack("<cHQ", b"F", min(len(raw), 65535), size) + raw[:65535])
        while chunk := handle.read(1 << 20):
            _write_all(ARTIFACT, chunk)


def run_train(config: dict[str, Any]) -> None:
    module = _load("train", config)
    say("ready")
    order = _read_line()
    _call_train(module, Path(order["data"]), Path(config["out"]), int(order["seed"]))
    sys.stdout.flush()
    say("trained")
    export(Path(config["out"]))


def _answer(predict: Callable[..., Any], model: object, request: Any, config: dict[str, Any]) -> bytes:
    import numpy as np

    shape = (len(request), *([config["context"]] if config["context"] else []), config["outputs"])
    answer = predict(model, request)
    if not isinstance(answer, np.ndarray):
        raise Refused("answer_type", f"predict returned {type(answer).__name__}, need numpy.ndarray")
    if answer.dtype != np.float32 or answer.dtype.byteorder == ">":
        raise Refused("answer_dtype", f"predict returned {answer.dtype}, need float32")
    if answer.shape != shape:
        raise Refused("answer_shape", f"predict returned shape {answer.shape}, need {shape}")
    return np.ascontiguousarray(answer).tobytes()


def _request() -> Any:
    """The next array to answer, or None at the end of the requests."""
    import numpy as np

    head = _read_exactly(DATA_IN, REQUEST.size)
    if len(head) < REQUEST.size:
        return None
    name, size, rank, *axes = REQUEST.unpack(head)
    payload = _read_exactly(DATA_IN, size)
    if len(payload) < size:
        return None
    return np.frombuffer(payload, dtype=name.rstrip(b"\0").decode()).reshape(axes[:rank])


def run_predict(config: dict[str, Any]) -> None:
    import numpy  # noqa: F401 - before the clock starts and before the candidate can shadow it

    sys.path.insert(0, config["recipe"])
    module = _load("predict", config)
    say("ready")
    order = _read_line()
    model = module.load(Path(order["data"]))
    while (request := _request()) is not None:
        _write_all(ANSWERS, _answer(module.predict, model, request, config))
    sys.stdout.flush()


def run_smoke(config: dict[str, Any]) -> None:
    """The whole path once on fake data, in one process; the folder is thrown away."""
    module = _load("train", config)
    say("ready")
    order = _read_line()
    _call_train(module, Path(order["data"]), Path(config["out"]), int(order["seed"]))
    say("trained")
    import numpy as np

    predictor = _load("predict", config)
    say("stage", name="load")
    model = predictor.load(Path(config["out"]))
    say("stage", name="predict")
    request = np.load(Path(config["fake_request"]))
    _answer(predictor.predict, model, request, config)
    say("stage", name="export")
    export(Path(config["out"]))


def _explain(error: BaseException, config: dict[str, Any]) -> dict[str, Any]:
    """Where and what, for the record and the next prompt; untrusted by everyone who reads it."""
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.startswith(config["recipe"]):
            place = f"{os.path.relpath(frame.filename, config['recipe'])}:{frame.lineno}"
    if isinstance(error, SyntaxError) and error.filename and error.filename.startswith(config["recipe"]):
        place = f"{os.path.relpath(error.filename, config['recipe'])}:{error.lineno}"
    return {"type": type(error).__name__, "message": str(error)[:600], "place": place}


def main() -> None:
    config: dict[str, Any] = json.loads(sys.argv[1])
    try:
        _lock(config)
    except Exception as error:
        print(f"sandbox set-up failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(SETUP_FAILED)
    say("up")
    sys.path += config["site"]
    if config["mode"] != "predict":
        sys.path.insert(0, config["recipe"])
    mode = {"train": run_train, "predict": run_predict, "smoke": run_smoke}[config["mode"]]
    code = 0
    try:
        mode(config)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except Refused as error:
        say("refused", rule=error.rule, message=str(error)[:600])
        print(f"refused: {error}", file=sys.stderr)
        code = 3
    except BaseException as error:
        say("error", **_explain(error, config))
        traceback.print_exc()
        code = 1
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    main()
