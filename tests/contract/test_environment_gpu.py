"""The full-size recipes on a real GPU, on synthetic files of the right shape.

Use: `BAKEOFF_REPOS=DIR pytest -m gpu`, DIR holding clones named parameter-golf, nanochat, cifar10-airbench.
Limits: skipped without CUDA or without the clones; a minute or two each, plus compilation.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import environment_stand_ins  # noqa: F401  (puts recipes/ on the path)
import pytest
from bench import full_size

CLONES = {"parameter_golf": "parameter-golf", "nanochat_d12": "nanochat", "airbench96": "cifar10-airbench"}


@pytest.mark.gpu
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(CLONES))
def test_a_full_size_recipe_trains_and_answers(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    repo = Path(os.environ.get("BAKEOFF_REPOS", "")) / CLONES[name]
    if not repo.is_dir():
        pytest.skip(f"no clone at {repo}; set BAKEOFF_REPOS")
    rows = "8" if name == "nanochat_d12" else "64"
    assert full_size.main([name, "--repo", str(repo), "--seconds", "30", "--rows", rows]) == 0
    facts = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert facts["finite"] and facts["shape"][0] == int(rows) and facts["artifact_mb"] > 0
