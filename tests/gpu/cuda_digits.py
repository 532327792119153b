"""A small environment on real data that trains on a GPU, and a script of edits whose outcomes are known.

Use: `make(recipes, device)` writes environment `cuda_digits` (the 1,797 digits of `airbench_mini`, split as there),
`script(path)` its proposals. `device="cpu"` is the same environment without a GPU, by which the tests that use it are
tested themselves. Limits: made for outcomes that do not depend on the machine's speed: the good edit saves three
quarters of the steps.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import quick

from lineage.records import Edit, Proposal

NAME = "cuda_digits"
EPOCHS, FEWER = 320, 80
HELD_MIB = 1024  # what the process that is left behind takes of the device's memory

ENVIRONMENT = """schema_version = 1
name = "cuda_digits"
title = "Digits to 90 % in as little time as possible"
description = "Test environment: a small net on 450 real 8x8 digits; the score is the time of a whole run."
data = "cuda_digits"
hardware = "{hardware}"
packages = ["torch", "numpy"]
masked_packages = ["sklearn"]
audits = ["batch_invariance", "order_invariance"]

[score]
metric = "{metric}"
direction = "min"
unit = "s"
digits = 3

[task]
kind = "classification"
outputs = 10
batch = 300

[[gates]]
quantity = "accuracy"
at_least = 0.90
on = "mean"

[budget]
train_cpu_s = 300
train_wall_s = 120
predict_cpu_s = 60
predict_wall_s = 60
start_cpu_s = 120
smoke_wall_s = 120
memory_mb = {memory_mb}
artifact_bytes = 4_000_000
source_bytes = 60_000
tmp_mb = 64
processes = 128
threads = 1
gpus = {gpus}
distributed = true
shm_mb = 512

[evaluation]
runs = 1
confirm_runs = 3
max_confirm_runs = 8
calibrate_runs = 3
alpha = 0.05
min_gain = 0.02

[[surfaces]]
name = "fit"
title = "The training loop"
units = {{ "fit.py" = ["*"] }}
allow_new = ["*"]
imports = ["*"]
"""

BRIEF = """+++
surfaces = ["fit"]
max_changed_lines = 80
+++
# Fit

You own the training loop, `fit.py`. Fewer steps are a faster run, as long as the gate holds.
"""

FIT = f'''"""The training loop."""

import torch

EPOCHS = {EPOCHS}
BATCH = 64


def extra(device):
    """Nothing; the tests put their deeds here."""


def fit(net, images, labels, epochs=EPOCHS):
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels), device=labels.device).split(BATCH):
            loss = torch.nn.functional.cross_entropy(net(images[chosen]), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return net
'''

NET = '''"""The network, and the device that it lives on."""

import torch

DEVICE = "{device}"


def make():
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 10)
    ).to(DEVICE)


def images(array):
    return (torch.tensor(array, device=DEVICE).float() - 4.9) / 6.1
'''

TRAIN = '''"""Entry point of training."""

import numpy as np
import torch

import fit
import net


def read(folder):
    labels = torch.from_numpy(np.load(folder / "labels.npy")).to(net.DEVICE)
    return net.images(np.load(folder / "images.npy")), labels


def write(model, out):
    torch.save({name: value.cpu() for name, value in model.state_dict().items()}, out / "weights.pt")


def warm_up(fake):
    torch.manual_seed(0)
    fit.fit(net.make(), *read(fake), epochs=1)


def rehearse(fake, out):
    write(fit.fit(net.make(), *read(fake), epochs=1), out)


def train(data, out, seed):
    torch.manual_seed(seed)
    model = fit.fit(net.make(), *read(data))
    fit.extra(net.DEVICE)
    write(model, out)
'''

PREDICT = '''"""Entry point of prediction."""

import torch

import net


def warm_up(fake):
    net.make()(torch.zeros((8, 8, 8), device=net.DEVICE)).cpu()


def load(artifact):
    model = net.make()
    model.load_state_dict(torch.load(artifact / "weights.pt", weights_only=True))
    return model.eval()


@torch.inference_mode()
def predict(model, inputs):
    return model(net.images(inputs)).float().cpu().numpy()
'''

# What `extra` does in each trial, by the trial's hypothesis.
OUT_OF_MEMORY = '''    """Take memory until there is none."""
    held = []
    while True:
        held.append(torch.ones(2**28, device=device))
'''
ASSERTION = '''    """An index that does not exist, found by the device itself."""
    print(torch.zeros(4, device=device)[torch.tensor([9], device=device)])
'''
LEFT_BEHIND = f'''    """Leave a process that keeps memory of the device and never ends."""
    context = torch.multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    context.Process(target=hold, args=(device, theirs)).start()
    if not ours.poll(60):
        raise RuntimeError("the process that is to be left behind did not start")


def hold(device, ready):
    import time

    kept = torch.ones(({HELD_MIB} if device == "cuda" else 16) * 2**18, device=device)
    ready.send(float(kept.sum()))
    time.sleep(10_000)
'''
TWO_RANKS = '''    """Two processes of one rank each that add up what they computed; one alone over NCCL where there is a GPU."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(rank, args=(device, folder), nprocs=2)


def rank(number, device, folder):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    mine = (torch.ones(1000, device=device) * (number + 1)).sum().cpu()
    dist.all_reduce(mine)
    if mine.item() != 3000.0:
        raise RuntimeError(f"rank {number}: the sum over both is {mine.item()}")
    dist.destroy_process_group()
    if device == "cuda":
        dist.init_process_group("nccl", init_method=f"file://{folder}/own{number}", rank=0, world_size=1)
        alone = torch.ones(1000, device=device)
        dist.all_reduce(alone)
        if alone.sum().item() != 1000.0:
            raise RuntimeError(f"rank {number}: NCCL gave {alone.sum().item()}")
        dist.destroy_process_group()
'''
NOTHING = '    """Nothing; the tests put their deeds here."""\n'
DEEDS = {
    "device memory runs out": OUT_OF_MEMORY,
    "an assertion on the device": ASSERTION,
    "a process is left behind": LEFT_BEHIND,
    "two ranks": TWO_RANKS,
}
GOOD = "fewer epochs"


def make(recipes: Path, device: str = "cuda", *, gpus: int | None = None, epochs: int = EPOCHS) -> Path:
    """Write the environment beside `_common`; its folder. `device`: what the recipe computes on."""
    folder = recipes / NAME
    cuda = device == "cuda"
    (folder / "source").mkdir(parents=True)
    (folder / "roles").mkdir()
    if not (recipes / "_common").is_dir():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(quick.ROOT / "recipes" / "_common", recipes / "_common", ignore=ignored)
    prepare = (quick.ROOT / "recipes" / "airbench_mini" / "prepare.py").read_text("utf-8")
    (folder / "prepare.py").write_text(prepare.replace('"airbench_mini"', f'"{NAME}"'), "utf-8")
    spec = ENVIRONMENT.format(
        # beside neighbours the clock says little of a run on a CPU
        metric="wall_seconds" if cuda else "cpu_seconds",
        hardware="cuda" if cuda else "cpu",
        gpus=(1 if cuda else 0) if gpus is None else gpus,
        memory_mb=32_000 if cuda else 1_500,
    )
    (folder / "environment.toml").write_text(spec, "utf-8")
    (folder / "roles" / "fit.md").write_text(BRIEF, "utf-8")
    sources = {"fit.py": FIT.replace(f"EPOCHS = {EPOCHS}", f"EPOCHS = {epochs}"), "train.py": TRAIN}
    sources |= {"net.py": NET.replace("{device}", device), "predict.py": PREDICT}
    for name, text in sources.items():
        (folder / "source" / name).write_text(text, "utf-8")
    return folder


def script(path: Path, deeds: tuple[str, ...] = tuple(DEEDS)) -> int:
    """Write proposals for the scripted proposer: the good edit, then the deeds, all on the start; how many."""
    edits = {GOOD: Edit(path="fit.py", search=f"EPOCHS = {EPOCHS}", replace=f"EPOCHS = {FEWER}")}
    edits |= {title: Edit(path="fit.py", search=NOTHING, replace=DEEDS[title]) for title in deeds}
    proposals = [
        Proposal(role="fit", proposer="", parent="t0000", hypothesis=title, edits=(edit,))
        for title, edit in edits.items()
    ]
    path.write_text(json.dumps([proposal.model_dump() for proposal in proposals]), "utf-8")
    return len(proposals)
