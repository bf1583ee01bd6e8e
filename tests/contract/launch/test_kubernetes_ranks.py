"""Ranks on several nodes of a cluster, and what a cluster does to them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from marsam.launch.kubernetes.launcher import KubernetesLauncher
from marsam.launch.kubernetes.manifest import job_name
from marsam.launch.launcher import Cause, Exit, Handle, Waiting
from marsam.launch.process import read_tail
from tests.contract.launch.places import JobPlace
from tests.contract.launch.test_launcher_behaviour import until
from tests.contract.launch.test_ranks_behaviour import SAY, WAIT, ended, started

pytestmark = pytest.mark.slow


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[JobPlace]:
    """One node for ranks that need two."""
    made = JobPlace(tmp_path, local=True, nodes=1, gpus=1)
    try:
        yield made
    finally:
        await made.close()


def second_node(place: JobPlace) -> None:
    place.fake.add_node("gpu-2", gpus={"nvidia.com/gpu": 1})


async def waits(launcher: KubernetesLauncher, handle: Handle, reason: str) -> Waiting:
    async with asyncio.timeout(20):
        while (found := await launcher.waiting(handle)) is None or found.reason != reason:
            await asyncio.sleep(0.02)
    return found


async def test_no_rank_begins_before_there_is_a_node_for_each(place: JobPlace) -> None:
    beat = place.fake.kubeconfig.with_name("beat")
    program = replace(place.program(SAY, ranks=2), beat_path=beat)
    launcher = await place.open()
    handle = await launcher.start(program, key="a")
    found = await waits(launcher, handle, "UNSCHEDULABLE")
    assert "of 2: no node for it: 0/2 nodes are available" in found.message
    await until(lambda: [pod["status"].get("phase") for pod in place.pods(job_name("a"))].count("Running") == 1)
    await until(beat.exists)  # the one that is there is well, and waits
    assert "RANK" not in place.said(program)
    second_node(place)
    async with asyncio.timeout(30):
        assert (await launcher.follow(handle)).cause is Cause.DONE
    assert read_tail(program.log_path, limit=1 << 16).count('"WORLD_SIZE": 2') == 2


async def test_a_place_that_does_not_come_ends_them_all(place: JobPlace) -> None:
    """After the profile's pendingSeconds, with the reason; the node that waited is free again."""
    end = await ended(place, place.program(SAY, ranks=2))
    assert (end.cause, end.reason) == (Cause.NOT_STARTED, "UNSCHEDULABLE")
    assert "of 2: no node for it" in str(end)
    await until(lambda: not any(pod["status"].get("phase") == "Running" for pod in place.pods(job_name("a"))))


async def test_nodes_that_do_not_find_each_other_say_so_when_they_are_stopped(place: JobPlace) -> None:
    """Without the Service, say, or with a policy between them: whoever loses patience finds in the log why."""
    second_node(place)
    place.file = replace(place.file, service="no-such-service")
    program = place.program(SAY, ranks=2)
    launcher = await place.open()
    handle = await launcher.start(program, key="a")
    await until(lambda: [pod["status"].get("phase") for pod in place.pods(job_name("a"))].count("Running") == 2)
    await asyncio.sleep(1.5)
    await launcher.stop(handle, grace_s=5)
    said = read_tail(program.log_path, limit=1 << 16)
    where = f"{job_name('a')}-0.no-such-service:29400"
    assert f"stopped before it began: {where} does not answer (Name or service not known)" in said
    assert f"stopped before it began: node 1 of 2 has not come to {where}" in said
    assert "RANK" not in said


async def running(place: JobPlace) -> tuple[KubernetesLauncher, Handle]:
    second_node(place)
    launcher, handle = await started(place, place.program(WAIT, ranks=2))
    assert isinstance(launcher, KubernetesLauncher)
    return launcher, handle


async def follow(launcher: KubernetesLauncher, handle: Handle) -> Exit:
    async with asyncio.timeout(60):
        return await launcher.follow(handle)


def pod_on(place: JobPlace, node: str) -> str:
    (pod,) = [pod for pod in place.pods(job_name("a")) if pod["spec"]["nodeName"] == node]
    return str(pod["metadata"]["name"])


async def test_a_node_that_is_drained_is_named_and_no_fault(place: JobPlace) -> None:
    launcher, handle = await running(place)
    place.fake.disrupt(pod_on(place, "gpu-2"), "EvictionByEvictionAPI", "Eviction API: evicting")
    end = await follow(launcher, handle)
    assert (end.cause, end.reason, end.code) == (Cause.DISRUPTED, "DRAINED", 75)
    assert "gpu-2: its node was drained" in str(end)
    assert not [pod for pod in place.pods(job_name("a")) if pod["status"]["phase"] == "Running"]


async def test_a_node_that_is_lost_ends_them_all(place: JobPlace) -> None:
    launcher, handle = await running(place)
    (node,) = [node for node in place.fake.nodes if node.name == "gpu-2"]
    place.fake.lose(node)
    place.fake.collect(node)
    end = await follow(launcher, handle)
    assert (end.cause, end.reason) == (Cause.DISRUPTED, "NODE_LOST")
    assert "gpu-2: its node is gone" in str(end)


async def test_ranks_of_one_node_that_ran_out_of_memory_are_said(place: JobPlace) -> None:
    launcher, handle = await running(place)
    (node,) = [node for node in place.fake.nodes if node.name == "gpu-2"]
    name = pod_on(place, "gpu-2")
    node.containers[name].doomed = "OOMKilled"
    node.containers[name].process.kill()
    end = await follow(launcher, handle)
    assert (end.cause, end.reason) == (Cause.OUT_OF_MEMORY, "OOM_KILLED")
    assert "gpu-2: killed by the kernel" in str(end)
