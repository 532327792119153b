"""Small environments whose judge is their own judge.py, for tests: gradient boosting, a CartPole policy, spelling out numbers.

Use: `regression(folder)`, `cartpole(folder)`, `text(folder)` write an environment under `folder` and return it; `script(...)`
writes proposals for the scripted proposer. The data are made by each environment's prepare.py; runs take under a second.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lineage.records import Edit, Proposal

SETTINGS = """
schema_version = 1
name = "{name}"
title = "{name}"
description = "made by the tests"
packages = {packages}
[score]
metric = "{metric}"
direction = "{direction}"
unit = ""
{task}
[budget]
train_cpu_s = 20
train_wall_s = 120
predict_cpu_s = 20
predict_wall_s = 120
start_cpu_s = 30
smoke_wall_s = 120
memory_mb = 1024
artifact_bytes = 2_000_000
tmp_mb = 32
processes = 16
[evaluation]
runs = 2
confirm_runs = 2
max_confirm_runs = 3
calibrate_runs = 3
[[surfaces]]
name = "all"
title = "everything that is tuned"
units = {{ "settings.py" = ["*"] }}
"""
ROLE = '+++\nsurfaces = ["all"]\nmax_changed_lines = 20\n+++\n# Tuner\n\nYou own `settings.py`.\n'
PREPARE = """
import argparse, hashlib, json
from pathlib import Path
import numpy as np

def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, value, allow_pickle=False)
    else:
        path.write_text(json.dumps(value))

{make}
parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, required=True)
out = parser.parse_args().out
for name, value in splits().items():
    save(out / name, value)
files = {{
    p.relative_to(out).as_posix(): {{"sha256": hashlib.sha256(p.read_bytes()).hexdigest(), "bytes": p.stat().st_size}}
    for p in sorted(out.rglob("*")) if p.is_file()
}}
(out / "manifest.json").write_text(json.dumps({{"environment": "{name}", "version": "1", "files": files}}))
"""


def write(
    folder: Path,
    name: str,
    metric: str,
    direction: str,
    make: str,
    source: Mapping[str, str],
    *,
    judge: str = "",
    task: str = '[task]\nkind = "judge"\nbatch = 50\n',
    packages: str = '["numpy"]',
) -> Path:
    target = folder / name
    (target / "source").mkdir(parents=True)
    (target / "roles").mkdir()
    settings = SETTINGS.format(name=name, metric=metric, direction=direction, task=task, packages=packages)
    (target / "environment.toml").write_text(settings)
    (target / "prepare.py").write_text(PREPARE.format(make=make, name=name))
    (target / "roles" / "tuner.md").write_text(ROLE)
    for path, text in source.items():
        (target / "source" / path).write_text(text)
    if judge:
        (target / "judge.py").write_text(judge)
    return target


# Friedman 1991: y = 10 sin(pi x1 x2) + 20 (x3 - 0.5)^2 + 10 x4 + 5 x5 + noise of sd 1
FRIEDMAN = """
def splits():
    rng = np.random.default_rng(4)
    def rows(count):
        x = rng.random((count, 10))
        y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
        return x.astype(np.float32), y + rng.standard_normal(count)
    made = {}
    for split, count in (("train", 300), ("fake", 300), ("public", 200), ("sealed", 200)):
        x, y = rows(count)
        if split == "fake":
            y = rng.permutation(y)
        made[f"{split}/inputs.npy"], made[f"{split}/targets.npy"] = x, y
    return made
"""
BOOSTING = {
    "settings.py": "TREES = 15\nRATE = 0.1\nSHARE = 0.8\n",
    "train.py": """
import pickle
import numpy as np
from sklearn.ensemble import GradientBoostingRegressor
import settings

def train(data, out, seed):
    x, y = np.load(data / "inputs.npy"), np.load(data / "targets.npy")
    model = GradientBoostingRegressor(
        n_estimators=settings.TREES, learning_rate=settings.RATE, subsample=settings.SHARE, random_state=seed % 2**31
    )
    (out / "model.pickle").write_bytes(pickle.dumps(model.fit(x, y)))
""",
    "predict.py": """
import pickle
import numpy as np
import sklearn.ensemble

def load(artifact):
    return pickle.loads((artifact / "model.pickle").read_bytes())

def predict(model, inputs):
    return model.predict(inputs).astype(np.float32)[:, None]
""",
}
RMSE = """
import numpy as np

def judge(ask, split, seed):
    x, y = np.load(split / "inputs.npy"), np.load(split / "targets.npy")
    predicted = ask(x, shape=(1,))
    error = (predicted[:, 0] - y) ** 2
    return {"rmse": float(np.sqrt(error.mean())), "mse": error}
"""


def regression(folder: Path, name: str = "friedman", metric: str = "mse") -> Path:
    return write(
        folder, name, metric, "min", FRIEDMAN, BOOSTING, judge=RMSE, packages='["numpy", "scikit-learn"]'
    )


# Cross-entropy method over linear policies, Rubinstein 1999; the simulator of training is the recipe's own.
CARTPOLE = {
    "settings.py": "ROUNDS = 1\nPOPULATION = 6\nELITE = 2\nSPREAD = 1.0\n",
    "train.py": '''
import math
import numpy as np
import settings

def episode(weights, rng, most=200):
    """Barto, Sutton and Anderson 1983, constants as in gymnasium's CartPole-v1."""
    x, v, a, w = rng.uniform(-0.05, 0.05, 4)
    for step in range(most):
        force = 10.0 if weights @ np.array([x, v, a, w]) > 0 else -10.0
        cos, sin = math.cos(a), math.sin(a)
        push = (force + 0.05 * w * w * sin) / 1.1
        turn = (9.8 * sin - cos * push) / (0.5 * (4.0 / 3.0 - 0.1 * cos * cos / 1.1))
        x, v, a, w = x + 0.02 * v, v + 0.02 * (push - 0.05 * turn * cos / 1.1), a + 0.02 * w, w + 0.02 * turn
        if abs(x) > 2.4 or abs(a) > 0.2095:
            return step + 1
    return most

def train(data, out, seed):
    rng = np.random.default_rng(seed)
    mean, spread = np.zeros(4), np.full(4, settings.SPREAD)
    for _ in range(settings.ROUNDS):
        tried = mean + spread * rng.standard_normal((settings.POPULATION, 4))
        reward = [episode(weights, rng) for weights in tried]
        best = tried[np.argsort(reward)[-settings.ELITE:]]
        mean, spread = best.mean(axis=0), best.std(axis=0) + 0.05
    np.save(out / "weights.npy", mean)
''',
    "predict.py": """
import numpy as np

def load(artifact):
    return np.load(artifact / "weights.npy")

def predict(weights, observations):
    return (observations @ weights > 0).astype(np.int64)
""",
}
EPISODES = """
import gymnasium
import numpy as np

def judge(ask, split, seed):
    worlds = [gymnasium.make("CartPole-v1", max_episode_steps=200) for _ in range(8)]
    starts = np.load(split / "starts.npy")
    seen = [world.reset(seed=int(start))[0] for world, start in zip(worlds, starts)]
    rewards, alive = np.zeros(len(worlds)), list(range(len(worlds)))
    while alive:
        actions = ask(np.stack([seen[one] for one in alive]), (), dtype="int64")
        if not np.isin(actions, (0, 1)).all():
            ask.refuse(f"an action is 0 or 1, got {actions.min()} to {actions.max()}")
        for one, action in zip(list(alive), actions):
            seen[one], reward, ended, cut, _ = worlds[one].step(int(action))
            rewards[one] += reward
            if ended or cut:
                alive.remove(one)
    return {"episode_reward": rewards}
"""


def cartpole(folder: Path) -> Path:
    make = (
        "def splits():\n    rng = np.random.default_rng()\n"
        '    made = {f"{split}/starts.npy": rng.integers(0, 2**31, 8) for split in ("public", "sealed")}\n'
        '    return {**made, "train/none.npy": np.zeros(1), "fake/none.npy": np.zeros(1)}\n'
    )
    return write(folder, "cartpole", "episode_reward", "max", make, CARTPOLE, judge=EPISODES)


# "12" -> "one two": a table of digits learnt from pairs, with a share of the digits left out
DIGITS = """
WORDS = "zero one two three four five six seven eight nine".split()

def splits():
    rng = np.random.default_rng(9)
    made = {}
    for split, count in (("train", 60), ("fake", 60), ("public", 40), ("sealed", 40)):
        numbers = [str(n) for n in rng.integers(10, 10**6, count)]
        said = [" ".join(WORDS[int(digit)] for digit in number) for number in numbers]
        made[f"{split}/inputs.json"] = numbers
        made[f"{split}/references.json"] = said if split != "fake" else said[::-1]
    return made
"""
SPELLER = {
    "settings.py": "PAIRS = 3\n",
    "train.py": """
import json, random
import settings

def train(data, out, seed):
    pairs = list(zip(*(json.loads((data / f"{name}.json").read_text()) for name in ("inputs", "references"))))
    random.Random(seed).shuffle(pairs)
    table = {}
    for number, words in pairs[: settings.PAIRS]:
        table.update(zip(number, words.split()))
    (out / "table.json").write_text(json.dumps(table))
""",
    "predict.py": """
import json

def load(artifact):
    return json.loads((artifact / "table.json").read_text())

def predict(table, texts):
    return [" ".join(table.get(letter, "?") for letter in text) for text in texts]
""",
}
WORD_ERRORS = """
import json
import numpy as np

def distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]

def judge(ask, split, seed):
    inputs, references = (json.loads((split / f"{n}.json").read_text()) for n in ("inputs", "references"))
    said = ask.text(inputs, max_bytes=100)
    words = np.array([len(r.split()) for r in references], dtype=float)
    errors = np.array([distance(r.split(), s.split()) for r, s in zip(references, said)])
    return {"wer": (errors / words, words)}
"""


def text(folder: Path, name: str = "spelling", *, own: bool = True) -> Path:
    if own:
        return write(folder, name, "wer", "min", DIGITS, SPELLER, judge=WORD_ERRORS)
    task = '[task]\nkind = "text"\nbatch = 16\ntext_bytes = 100\n'
    return write(folder, name, "word_error_rate", "min", DIGITS, SPELLER, task=task)


def script(folder: Path, *edits: tuple[str, str]) -> Path:
    """A campaign file whose trials make these edits of settings.py, in order."""
    told = [
        Proposal(
            role="tuner", proposer="", parent="t0000", hypothesis=f"{after} instead of {before}",
            edits=(Edit(path="settings.py", search=before, replace=after),),
        ).model_dump()
        for before, after in edits
    ]  # fmt: skip
    (folder / "script.json").write_text(json.dumps(told))
    (folder / "run.toml").write_text('[campaign]\nproposer = "scripted"\nscript = "script.json"\n')
    return folder / "run.toml"
