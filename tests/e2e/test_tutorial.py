"""The tutorial of the documentation: every command in it, in order, as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import quick

PAGE = quick.ROOT / "docs" / "pages" / "tutorial.md"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_of_the_tutorial(tmp_path: Path) -> None:
    commands = [
        line
        for block in re.findall(r"```bash\n(.*?)```", PAGE.read_text("utf-8"), re.S)
        for line in block.splitlines()
    ]
    assert len(commands) >= 8
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    for command in commands:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert (tmp_path / "runs" / "my_idea" / "reports").is_dir()
