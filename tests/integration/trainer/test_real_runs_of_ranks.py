"""The real run program as two processes, on this machine and on two nodes. In each place the first attempt is cut off,
by a killed process or a drained node, and the second goes on: both publish the same model, bit for bit.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load

from marsam.api.model.v1 import model_pb2
from marsam.api.trainer.v1 import trainer_pb2
from marsam.launch.keeper import start_time
from marsam.store.content import read_blob
from tests.contract.families.bases import build_sd1
from tests.fakes.kubernetes.cluster import FakeCluster
from tests.integration.run.store import Shelf, make
from tests.integration.trainer.cluster import JobService
from tests.integration.trainer.harness import Service, state

pytestmark = pytest.mark.slow
PARENT = "projects/hayy"
OURS = {"adapter_model.safetensors", "unet"}
SHORT = Path(__file__).with_name("short_of_memory.py")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return asyncio.run(make(tmp_path / "store", build_sd1(tmp_path / "base", prediction="epsilon")))


async def begun(service: Service, shelf: Shelf, name: str, **how: Any) -> Any:
    spec = trainer_pb2.RunSpec(
        base=shelf.base.name, dataset_version=shelf.version.name, method="lora", steps=400, batch_size=2, resolution=32,
        checkpoint_every=40, learning_rate=1e-3, seed=7, output_model_id=name, processes=2, **how,
    )  # fmt: skip
    spec.method_params.update({"rank": 2, "alpha": 4})
    request = trainer_pb2.CreateRunRequest(parent=PARENT, spec=spec, request_id=name)
    return (await service.trainer.CreateRun(request)).run


async def cut_up(service: Service, shelf: Shelf, name: str, *, previews: bool) -> Any:
    """A run whose model two processes hold in parts, with previews or without."""
    spec = trainer_pb2.RunSpec(
        base=shelf.base.name, dataset_version=shelf.version.name, method="full", sharding="sharded", processes=2,
        steps=6, batch_size=2, resolution=32, checkpoint_every=2, learning_rate=1e-3, ema_decay=0.5, seed=7,
        output_model_id=name,
    )  # fmt: skip
    if previews:
        spec.preview.prompts.append("a kite")
        spec.preview.every = 3
    request = trainer_pb2.CreateRunRequest(parent=PARENT, spec=spec, request_id=name)
    return (await service.trainer.CreateRun(request)).run


async def weights(service: Service, shelf: Shelf, run: Any, *, attempt: int) -> dict[str, bytes]:
    """Every number that `run` published, and that it took `attempt` attempts. Its files' heads name the run."""
    done = await service.until(run.name, "SUCCEEDED", "FAILED", timeout_s=240)
    assert (state(done), done.attempt) == ("SUCCEEDED", attempt), done
    model = (await service.models.GetModel(model_pb2.GetModelRequest(name=done.model))).model
    (file,) = (file for file in model.files if file.path.endswith(".safetensors") and file.path.split("/")[0] in OURS)
    tensors = load(await read_blob(shelf.blobs, "hayy", file.digest))
    return {name: value.tobytes() for name, value in tensors.items()}


def ranks_of(run: Any) -> dict[int, int]:
    """Process numbers of a run's processes by their rank."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            told = dict(line.split(b"=", 1) for line in (folder / "environ").read_bytes().split(b"\0") if b"=" in line)
        except (OSError, ValueError):
            continue
        if run.name.encode() in words and b"RANK" in told:
            found[int(told[b"RANK"])] = int(folder.name)
    return found


async def test_processes_and_nodes_train_the_same_model(shelf: Shelf, tmp_path: Path) -> None:
    async with Service(tmp_path, run_command="", stop_grace_s=60) as service:
        run = await begun(service, shelf, "here")
        async with asyncio.timeout(120):
            while (await service.get(run.name)).progress.step < 60:
                await asyncio.sleep(0.1)
        pids = ranks_of(run)
        assert sorted(pids) == [0, 1]
        os.kill(pids[1], signal.SIGKILL)
        here = await weights(service, shelf, run, attempt=2)
        retry = next(e.message for e in (await service.get(run.name)).history if e.reason == "RETRY")
        assert retry.startswith("rank 1 of 2 was ended by SIGKILL")
        assert not any(start_time(pid) for pid in pids.values())
    with FakeCluster(tmp_path / "cluster") as cluster:
        for number in (1, 2):
            cluster.add_node(f"gpu-{number}", gpus={"nvidia.com/gpu": 1})
        jobs = JobService(tmp_path, cluster, run_command="")
        # A GPU that nobody has decides where a pod goes; what computes is the processor.
        place = {"resources": {"limits": {"nvidia.com/gpu": 1}}, "graceSeconds": 60, "env": {"OMP_NUM_THREADS": "1"}}
        jobs.said |= {"command": [], "profiles": {"cpu": place}}
        async with jobs:
            run = await begun(jobs, shelf, "there")
            async with asyncio.timeout(120):
                while (await jobs.get(run.name)).progress.step < 60:
                    await asyncio.sleep(0.1)
            assert sorted(pod["spec"]["nodeName"] for pod in jobs.pods(run.name)) == ["gpu-1", "gpu-2"]
            lost = next(pod for pod in jobs.pods(run.name) if pod["spec"]["nodeName"] == "gpu-2")
            cluster.disrupt(lost["metadata"]["name"], "EvictionByEvictionAPI", "Eviction API: evicting")
            assert await weights(jobs, shelf, run, attempt=2) == here
            retry = next(e for e in (await jobs.get(run.name)).history if e.reason == "RETRY")
            assert "gpu-2: its node was drained" in retry.message


async def test_a_preview_that_one_process_has_no_memory_for_is_left_out_of_the_next_attempt(
    shelf: Shelf, tmp_path: Path
) -> None:
    """At step 3, on rank 1, between two words of the ranks: the other still waits for it there."""
    async with Service(tmp_path, run_command="", stop_grace_s=60) as service:
        drawn = await cut_up(service, shelf, "drawn", previews=True)
        wanted = await weights(service, shelf, drawn, attempt=1)
    async with Service(tmp_path, run_command=f"{sys.executable},{SHORT}", stop_grace_s=60, max_attempts=1) as service:
        run = await cut_up(service, shelf, "short", previews=True)
        assert await weights(service, shelf, run, attempt=2) == wanted
    job_id = run.name.split("/")[-1]
    (retry,) = (entry for entry in await shelf.jobs.history(job_id) if entry.reason == "RETRY")
    assert (retry.detail["cause"], retry.detail["failures"]) == ("PREVIEW_OUT_OF_MEMORY", 0)
    assert "no room for a picture" in retry.message
    told = await shelf.events(job_id, 2)
    lines = [event["message"] for event in told if event["kind"] == "log"]
    assert any("(PREVIEW_OUT_OF_MEMORY): this one draws none, and no samples" in line for line in lines), lines
    assert "the preview at step 3 was skipped" in lines
    assert not any(event["kind"] == "preview" for event in told)
