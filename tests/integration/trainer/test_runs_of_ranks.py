"""Runs of two processes, here and on two nodes: carried on, adopted, stopped; the one that failed is named."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from marsam.api.trainer.v1 import trainer_pb2
from marsam.rpc.wire import error_of
from tests.fakes.kubernetes.cluster import FakeCluster
from tests.integration.trainer.cluster import JobService
from tests.integration.trainer.harness import Service, state
from tests.integration.trainer.program import alive, rank_file

pytestmark = pytest.mark.slow

HOLDS = {"hold": "3"}


@pytest.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[JobService]:
    with FakeCluster(tmp_path / "cluster") as cluster:
        for number in (1, 2):
            cluster.add_node(f"gpu-{number}", gpus={"nvidia.com/gpu": 1}, labels={"pool": "small"})
        made = JobService(tmp_path, cluster)
        await made.furnish()
        async with made:
            yield made


async def running(service: Service, cache: Path, **how: Any) -> tuple[Any, int]:
    """(a run whose ranks are both there and which holds at step 3, the process number of rank 1)"""
    run = await service.create(labels=HOLDS, **{"steps": 15, "processes": 2, **how})
    return run, await ranks(service, cache, run, attempt=1)


async def ranks(service: Service, cache: Path, run: Any, *, attempt: int) -> int:
    second = rank_file(cache, run.name.split("/")[-1], attempt, 1)
    async with asyncio.timeout(60):
        while not second.exists() or not second.read_text() or (await service.get(run.name)).progress.step < 3:
            await asyncio.sleep(0.05)
    await service.until(run.name, "RUNNING", attempt=attempt)
    return int(second.read_text())


def go(cache: Path, run: Any) -> None:
    (cache / f"go-{run.name.split('/')[-1]}").touch()


async def ended(service: Service, run: Any) -> Any:
    return await service.until(run.name, "SUCCEEDED", "FAILED", "CANCELLED", timeout_s=90)


def retries(run: Any) -> list[str]:
    return [entry.message for entry in run.history if entry.reason == "RETRY"]


async def test_a_killed_rank_costs_an_attempt_that_names_it(service: Service) -> None:
    run, pid = await running(service, service.cache)
    os.kill(pid, signal.SIGKILL)
    second = await ranks(service, service.cache, run, attempt=2)
    assert alive(str(second))
    go(service.cache, run)
    done = await ended(service, run)
    assert (state(done), done.attempt) == ("SUCCEEDED", 2)
    assert retries(done) == ["rank 1 of 2 was ended by SIGKILL"]


async def test_both_ranks_outlive_the_service_and_are_adopted(service: Service) -> None:
    run, pid = await running(service, service.cache)
    await service.stop(signal.SIGKILL)
    await service.start()
    assert alive(str(pid))
    go(service.cache, run)
    done = await ended(service, run)
    assert (state(done), done.attempt) == ("SUCCEEDED", 1)


async def test_a_cancelled_run_saves_and_leaves_no_rank(service: Service) -> None:
    run, pid = await running(service, service.cache)
    await service.trainer.CancelRun(trainer_pb2.CancelRunRequest(name=run.name))
    assert state(await ended(service, run)) == "CANCELLED"
    assert not alive(str(pid))
    listed = await service.trainer.ListCheckpoints(trainer_pb2.ListCheckpointsRequest(name=run.name))
    assert listed.checkpoints[-1].step >= 3


async def test_two_nodes_carry_one_attempt(jobs: JobService) -> None:
    cache = Path(jobs.said["cache"])
    run, pid = await running(jobs, cache, profile="gpu-24g")
    job = jobs.job(run.name)
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (2, 2)
    nodes = {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in jobs.pods(run.name)}
    assert sorted(nodes.values()) == ["gpu-1", "gpu-2"]
    lost = next(name for name, node in nodes.items() if node == "gpu-2")
    jobs.cluster.disrupt(lost, "EvictionByEvictionAPI", "Eviction API: evicting")
    again = await ranks(jobs, cache, run, attempt=2)
    assert not alive(str(pid))
    os.kill(again, signal.SIGKILL)
    await ranks(jobs, cache, run, attempt=3)
    go(cache, run)
    done = await ended(jobs, run)
    assert (state(done), done.attempt) == ("SUCCEEDED", 3)
    drained, killed = retries(done)
    assert "gpu-2: its node was drained" in drained
    assert killed.startswith("rank 1 of 2 on node gpu-")
    assert killed.endswith("was ended by SIGKILL")


async def test_processes_that_fill_no_nodes_are_a_fault(jobs: JobService) -> None:
    jobs.said["profiles"] = {**jobs.said["profiles"], "pair": {"resources": {"limits": {"nvidia.com/gpu": 2}}}}
    await jobs.stop()
    await jobs.start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await jobs.create(profile="pair", processes=3)
    error = error_of(caught.value)
    assert (error.reason, error.field) == ("PROCESSES_UNSUPPORTED", "spec.processes")
    assert "3 processes do not fill nodes of 2 GPUs, as profile 'pair' asks for them" in error.message
    assert "2 or 4 processes" in error.remedy
