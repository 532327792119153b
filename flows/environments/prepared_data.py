"""Prepared data on this machine: run an environment's `prepare.py`, and check its output.

`prepare.py` is a trusted program run by a person; it is never given to a candidate.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from evaluators.judge import judge_hashes
from flows.environments.loading import Environment
from flows.environments.repository_data import prepare_in_place
from flows.machine.folders import data_root
from lineage.errors import DataMissing, UsageError


def prepare(environment: Environment, arguments: Sequence[str] = (), quiet: bool = False) -> Path:
    """Run `recipes/NAME/prepare.py --out DIR` and move the result into place only when it is whole.

    Raises DataMissing with the program's own last line when it fails, UsageError for a variant's data without
    the argument that they need.
    """
    if environment.arguments and environment.arguments.split()[0] not in arguments:
        raise UsageError(
            f"{environment.spec.name} has data of its own; run: bakeoff prepare {environment.called} -- "
            f"{environment.arguments}"
        )
    program = environment.folder / "prepare.py"
    in_place = environment.spec.task.kind == "script" and not program.is_file()
    if not in_place and not program.is_file():
        raise DataMissing(
            f"{program}: no such program, so the data of {environment.spec.name} cannot be prepared"
        )
    target = environment.data
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    if in_place:
        prepare_in_place(environment.spec.name, environment.spec.task, environment.folder / "source", staging)
    else:
        _run_program(environment, program, staging, arguments, quiet)
    check_data(environment, staging)
    old = target.with_name(f".{target.name}.old.{os.getpid()}")
    if target.exists():
        target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return target


def _run_program(
    environment: Environment, program: Path, staging: Path, arguments: Sequence[str], quiet: bool
) -> None:
    """Raises DataMissing when prepare.py fails."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [
        environment.spec.runtime.python or sys.executable,
        str(program),
        "--out",
        str(staging),
        *arguments,
    ]
    done = subprocess.run(
        command,
        env=env,
        stdout=sys.stderr if not quiet else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        shutil.rmtree(staging, ignore_errors=True)
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataMissing(f"preparing {environment.spec.name} failed: {last}")


def of_record(environment: Environment, words: Mapping[str, Any], environment_sha256: str) -> Environment:
    """The environment with the data of a recorded campaign, wherever on this machine they are.

    Its own folder comes first; then any of the same name, that of an earlier Bakeoff too, whose contents give the
    recorded hash. Without one it stays as it is. `words`: the specification as the record has it.
    """
    spec = environment.spec
    name = spec.data or spec.name
    for folder in (environment.data, data_root() / name, *sorted(data_root().glob(f"{name}-*"))):
        if not (folder / "manifest.json").is_file():
            continue
        try:
            found = judge_hashes.sha256_of_words(words, folder)
        except (DataMissing, KeyError, TypeError):
            continue
        if found == environment_sha256:
            return replace(environment, found_data=folder)
    return environment


def check_data(environment: Environment, folder: Path | None = None) -> Path:
    """Check that every file of manifest.json is there with its size and hash; return the folder.

    Raises DataMissing naming the first file that is not what the manifest says.
    """
    folder = folder or environment.data
    name = environment.called
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        more = f" -- {environment.arguments}" if environment.arguments else ""
        raise DataMissing(
            f"no prepared data for {name} in {folder}; run: bakeoff prepare {environment.called}{more}"
        )
    try:
        files = json.loads(manifest.read_text("utf-8"))["files"]
    except (ValueError, KeyError) as error:
        raise DataMissing(f"{manifest}: not readable ({error!r}); run: bakeoff prepare {name}") from None
    for relative, facts in files.items():
        path = folder / relative
        if not path.is_file():
            raise DataMissing(f"{path}: listed in the manifest but absent; run: bakeoff prepare {name}")
        if path.stat().st_size != facts["bytes"]:
            raise DataMissing(
                f"{path}: {path.stat().st_size} bytes where the manifest says {facts['bytes']}; run: bakeoff prepare {name}"
            )
        if _hash(path) != facts["sha256"]:
            raise DataMissing(
                f"{path}: contents differ from the manifest's hash; run: bakeoff prepare {name}"
            )
    return folder


def _hash(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
