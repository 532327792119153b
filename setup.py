"""What pyproject.toml cannot say: recipes are programs, not packages, so a wheel has them as data files; no build/ is left."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

from setuptools import setup

build = tempfile.mkdtemp(prefix="bakeoff-build-")
atexit.register(shutil.rmtree, build, ignore_errors=True)
files: dict[str, list[str]] = defaultdict(list)
for path in sorted(Path("recipes").rglob("*")):
    if path.is_file() and "__pycache__" not in path.parts:
        files[f"share/bakeoff/{path.parent.as_posix()}"].append(path.as_posix())
setup(data_files=sorted(files.items()), options={"build": {"build_base": build}})
