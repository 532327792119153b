"""What only a GPU can show: `make test-gpu`, in 6 minutes on one data-centre GPU, without network.

Everything goes through `bakeoff doctor` or through the engine with its sandbox and judge. Each outcome is read from
the record or from the driver. Skipped, with the reason, where there is no GPU; the same campaigns run on a CPU in
`test_gpu_harness.py`, which is how these tests are tested.
"""

from __future__ import annotations

import json
from typing import Any

import cuda_digits
import cuda_flows
import full_size_small
import pytest
from cuda_lab import CudaLab, until, used_bytes
from gpu_record import Record

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

LEFT_BYTES = 300 * 2**20  # a driver keeps some of its own
FREE_S = 15.0


@pytest.fixture(scope="module")
def idle_bytes(device: Any) -> int:
    """Memory in use before any test touched the device."""
    return used_bytes(device)


@pytest.fixture(scope="module")
def campaign(device: Any, idle_bytes: int, lab: CudaLab, record: Record) -> cuda_flows.Seen:
    """A whole campaign: a good edit, one of each deed, a confirmation."""
    seen = cuda_flows.campaign(lab, "cuda")
    record.note("campaign", **seen.figures())
    return seen


def test_doctor_proves_the_device_in_the_sandbox(device: Any, lab: CudaLab, record: Record) -> None:
    """It lists the device, and by its proof an assigned one computes and gives its memory back."""
    report = json.loads(lab.bakeoff("doctor", "--json", check=False).stdout)
    listed = report["accelerators"]
    record.note("doctor", level=report["level"], layers=report["layers"], accelerators=listed)
    assert device.uuid in json.dumps(listed), listed
    assert device.name in json.dumps(listed), listed
    assert all(one["computes"] is True and one["memory_given_back"] is True for one in listed), listed
    failed = [key for key, value in cuda_flows.flat(listed) if value is False]
    assert not failed, f"doctor did not prove {failed}: {listed}"


def test_a_campaign_keeps_and_confirms(campaign: cuda_flows.Seen, device: Any) -> None:
    assert campaign.ended == 0, campaign.output
    assert campaign.status["the recipe as it is"] == ("baseline", None), campaign.told()
    assert campaign.status[cuda_digits.GOOD] == ("keep", None), campaign.told()
    assert len(campaign.status) == 2 + len(cuda_digits.DEEDS)
    assert list(campaign.verdicts.values()) == ["confirmed"], campaign.told()
    assert campaign.devices == {device.uuid}, "the record names the device of every run"


def test_running_out_of_device_memory_is_oom(campaign: cuda_flows.Seen, device: Any) -> None:
    assert campaign.status["device memory runs out"] == ("crash", "oom"), campaign.told()
    numbers = campaign.numbers["device memory runs out"]
    assert numbers["total_bytes"] > device.memory_bytes // 2 and numbers["asked_bytes"] == 2**30, numbers


def test_an_assertion_on_the_device_is_the_candidate_s_crash(campaign: cuda_flows.Seen) -> None:
    assert campaign.status["an assertion on the device"] == ("crash", "crash"), campaign.told()


def test_a_process_left_behind_is_killed_and_the_memory_free(
    campaign: cuda_flows.Seen, device: Any, idle_bytes: int
) -> None:
    """The trial itself is honest and slow; what it left held a GiB, seen in the run's own peak."""
    title = "a process is left behind"
    assert campaign.status[title] == ("discard", None), campaign.told()
    assert campaign.peaks[title] > cuda_digits.HELD_MIB * 2**20, campaign.peaks
    assert campaign.left == []
    until(lambda: used_bytes(device) < idle_bytes + LEFT_BYTES, FREE_S, "the device's memory is not free")


def test_two_ranks_talk_over_gloo_and_one_over_nccl(campaign: cuda_flows.Seen) -> None:
    assert campaign.status["two ranks"] == ("discard", None), campaign.told()


def test_the_record_verifies(campaign: cuda_flows.Seen, lab: CudaLab) -> None:
    verified = lab.bakeoff("verify", str(campaign.run), check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.parametrize("name", full_size_small.NAMES)
def test_a_full_size_environment_runs_a_trial(name: str, device: Any, lab: CudaLab, record: Record) -> None:
    if name == "airbench96":
        pytest.importorskip(
            "torchvision", reason="airbench96 needs torchvision, which this Python does not have"
        )
    seen = cuda_flows.one_trial(lab, name, "cuda")
    record.note(name, **seen.figures)
    assert seen.row.status == "baseline", (
        seen.row.status,
        seen.row.cause,
        seen.row.numbers_json,
        seen.excerpt,
    )
    assert seen.uuids == {device.uuid}


def test_a_killed_campaign_leaves_the_device_free(
    device: Any, idle_bytes: int, lab: CudaLab, record: Record
) -> None:
    """SIGKILL to the engine alone, while the candidate computes; the kernel and the sandbox end the rest."""
    busy = cuda_flows.busy_campaign(lab, "cuda")
    try:
        needed = idle_bytes + 100 * 2**20
        until(
            lambda: used_bytes(device) > needed and busy.training() and busy.candidates(),
            120,
            "no training came",
            busy.told,
        )
        record.note("killed", used_bytes=used_bytes(device) - idle_bytes)
        busy.kill()
        took = until(
            lambda: busy.free_after(used_bytes(device) < idle_bytes + LEFT_BYTES),
            FREE_S,
            "not free",
            busy.told,
        )
        record.note("killed", free_after_s=round(took, 2))
    finally:
        busy.clean_up()


def test_the_whole_target_stays_within_its_time(device: Any, record: Record) -> None:
    """Last by its place in this file. Six minutes; what is over it is said with the slowest checks."""
    took = record.line()["seconds"]
    slow = sorted(record.checks.items(), key=lambda item: -item[1]["seconds"])[:4]
    assert took < 360, f"{took:.0f} s; slowest: {slow}"
