"""Entry point of training: one process per GPU, the loop, export by the first of them.

Use: the supervisor calls `warm_up(fake)` before it releases the data and `train(data, out, seed)` after.
Limits: on no surface; the fetched optimizer averages gradients over ranks itself. Runs on the CPU too, for
tests of the path, at no useful speed.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist

import batches
import fixed
import rates
import schedule
import shape
import system

WARM_UP_STEPS = 2


def rank_count() -> int:
    return min(fixed.RANKS, max(1, torch.cuda.device_count()))


def run_rank(rank: int, ranks: int, data: str, out: str, seed: int, steps: int, meet: str) -> None:
    """The work of one rank; rank 0 writes the artifact when `out` is not empty. `steps` 0: the schedule's."""
    deadline = time.monotonic() + fixed.TRAIN_SECONDS
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if ranks > 1:
        backend = "nccl" if cuda else "gloo"
        dist.init_process_group(backend, init_method=f"file://{meet}", rank=rank, world_size=ranks)
    system.set_up()
    torch.manual_seed(seed)
    net = shape.make_net(device)
    total = steps or schedule.total_steps(net)
    loop(net, Path(data), rank, ranks, device, total, deadline)
    if rank == 0 and out:
        torch.save(net.state_dict(), Path(out) / "weights.pt")
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


def loop(
    net: torch.nn.Module,
    data: Path,
    rank: int,
    ranks: int,
    device: torch.device,
    total: int,
    deadline: float,
) -> None:
    optimizer = rates.make_optimizer(net, schedule.TOKENS_PER_STEP)
    model = system.prepare(net)
    source = batches.batches(data, rank, ranks, fixed.MICRO_ROWS)
    micro = max(1, schedule.TOKENS_PER_STEP // (ranks * fixed.MICRO_ROWS * fixed.CONTEXT))
    full_decay = rates.WEIGHT_DECAY * rates.batch_scale(schedule.TOKENS_PER_STEP)
    for step in range(total):
        for _ in range(micro):
            inputs, targets = next(source)
            loss = model(inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True))
            (loss / micro).backward()
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * schedule.rate_at(step, total)
            if group["kind"] == "muon":
                group["momentum"] = schedule.momentum_at(step, total)
                group["weight_decay"] = full_decay * schedule.decay_at(step, total)
        optimizer.step()
        model.zero_grad(set_to_none=True)
        if out_of_time(deadline, ranks, device):
            return


def out_of_time(deadline: float, ranks: int, device: torch.device) -> bool:
    """All ranks stop at the same step: when the first of them is late."""
    late = time.monotonic() >= deadline
    if ranks == 1:
        return late
    flag = torch.tensor(float(late), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def run(data: Path, out: str, seed: int, steps: int) -> None:
    ranks = rank_count()
    with tempfile.TemporaryDirectory() as folder:
        meet = f"{folder}/meet"
        if ranks == 1:
            run_rank(0, 1, str(data), out, seed, steps, meet)
        else:
            arguments = (ranks, str(data), out, seed, steps, meet)
            torch.multiprocessing.spawn(run_rank, args=arguments, nprocs=ranks)


def warm_up(fake: Path) -> None:
    """Two steps on random tokens: compiled kernels are cached before the clock starts."""
    run(fake, "", 0, WARM_UP_STEPS)


def rehearse(fake: Path, out: Path) -> None:
    """The path of `train` in two steps: what a first check runs."""
    run(fake, str(out), 0, WARM_UP_STEPS)


def train(data: Path, out: Path, seed: int) -> None:
    run(data, str(out), seed, 0)
