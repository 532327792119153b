"""Entry point of training: one process per GPU, the loop, export by the first of them.

Use: the supervisor calls `warm_up(fake)` before it releases the data and `train(data, out, seed)` after.
Limits: on no surface; runs on the CPU too, for tests of the path, at no useful speed.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import batches
import fixed
import loss
import net as network
import optim
import packing
import regularise

LEAST_STEPS = 3  # compilation may take all of the time that a warm-up is given


def rank_count() -> int:
    return min(fixed.RANKS, max(1, torch.cuda.device_count()))


def run_rank(rank: int, ranks: int, data: str, out: str, seed: int, seconds: float, meet: str) -> None:
    """The work of one rank; rank 0 writes the artifact when `out` is not empty."""
    began = time.monotonic()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if ranks > 1:
        backend = "nccl" if cuda else "gloo"
        dist.init_process_group(backend, init_method=f"file://{meet}", rank=rank, world_size=ranks)
    torch.manual_seed(seed)
    raw = network.make_net(device)
    model = torch.compile(raw, dynamic=False) if cuda else raw
    if ranks > 1:
        model = DistributedDataParallel(model, device_ids=[rank] if cuda else None)
    loop(model, raw, batches.Batches(Path(data), rank, ranks, device), ranks, device, began + seconds)
    if rank == 0 and out:
        (Path(out) / "model.bin").write_bytes(packing.pack(raw.state_dict()))
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


def loop(
    model: torch.nn.Module,
    raw: torch.nn.Module,
    source: batches.Batches,
    ranks: int,
    device: torch.device,
    deadline: float,
) -> None:
    optimizers = optim.make_optimizers(raw)
    micro = batches.micro_steps(ranks)
    began, step = time.monotonic(), 0
    limit = deadline - began
    while step < LEAST_STEPS or not out_of_time(deadline, ranks, device):
        for number in range(micro):
            if ranks > 1:
                model.require_backward_grad_sync = number == micro - 1
            inputs, targets = source.next(fixed.MICRO_ROWS)
            with torch.autocast(device.type, torch.bfloat16):
                value = loss.criterion(model(inputs), targets)
            (value / micro).backward()
        elapsed = time.monotonic() - began
        optim.set_rates(optimizers, step, elapsed, limit)
        regularise.limit(raw)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        regularise.decay(raw, optim.share(step, elapsed, limit))
        step += 1


def out_of_time(deadline: float, ranks: int, device: torch.device) -> bool:
    """All ranks stop at the same step: when the first of them is late."""
    late = time.monotonic() >= deadline
    if ranks == 1:
        return late
    flag = torch.tensor(float(late), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def run(data: Path, out: str, seed: int, seconds: float) -> None:
    ranks = rank_count()
    with tempfile.TemporaryDirectory() as folder:
        meet = f"{folder}/meet"
        if ranks == 1:
            run_rank(0, 1, str(data), out, seed, seconds, meet)
        else:
            arguments = (ranks, str(data), out, seed, seconds, meet)
            torch.multiprocessing.spawn(run_rank, args=arguments, nprocs=ranks)


def warm_up(fake: Path) -> None:
    """A second of training on random tokens: compiled kernels are cached before the clock starts."""
    run(fake, "", 0, 1.0)


def rehearse(fake: Path, out: Path) -> None:
    """The path of `train` in five seconds of training: what a first check runs."""
    run(fake, str(out), 0, 5.0)


def train(data: Path, out: Path, seed: int) -> None:
    run(data, str(out), seed, fixed.TRAIN_SECONDS)
