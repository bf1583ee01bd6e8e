"""The real run program as a Job: it trains Hayy's base on its pictures, is preempted, saves, goes on, and publishes."""

import asyncio
import io
import urllib.request
from pathlib import Path
from random import Random

import pytest
from hayy.corpus import training_caption
from hayy.painter import draw
from hayy.world import sample
from marsam_trainer.environment import free_port

from marsam.api.model.v1 import model_pb2
from marsam.api.trainer.v1 import trainer_pb2
from marsam.catalog.datasets import Caption
from marsam.jobs.progress import read_events
from marsam.jobs.store import JobStore
from marsam.store.open import open_store
from tests.fakes.kubernetes.cluster import FakeCluster
from tests.integration.run.store import Picture, make
from tests.integration.trainer.cluster import JobService
from tests.integration.trainer.harness import CLOCK, state

pytestmark = pytest.mark.slow
PARENT = "projects/hayy"
STEPS = 120
SIDE = 128
HAYY = Path(__file__).resolve().parents[3] / "examples/hayy/base"


async def test_a_job_trains_is_preempted_and_commits_a_model(tmp_path: Path) -> None:
    shelf = await make(tmp_path / "store", HAYY, pictures=[person(number) for number in range(6)])
    with FakeCluster(tmp_path / "cluster") as cluster:
        service = JobService(tmp_path, cluster, run_command="", run_metrics="true")
        service.said |= {
            "command": [],
            "metricsPort": free_port(),
            "profiles": {"cpu": {"graceSeconds": 60, "env": {"OMP_NUM_THREADS": "1"}}},
        }
        async with service:
            spec = trainer_pb2.RunSpec(
                base=shelf.base.name, dataset_version=shelf.version.name, method="lora", steps=STEPS, batch_size=2,
                resolution=SIDE, checkpoint_every=STEPS, learning_rate=5e-4, output_model_id="tuned",
            )  # fmt: skip
            spec.method_params.update({"rank": 2, "alpha": 4})
            asked = trainer_pb2.ValidateRunRequest(parent=PARENT, spec=spec)
            found = await service.trainer.ValidateRun(asked, timeout=120)
            assert list(found.faults) == []
            assert found.plan.fits
            assert "optimiser" in {term.term for term in found.plan.memory}
            request = trainer_pb2.CreateRunRequest(parent=PARENT, spec=spec, request_id="one")
            run = (await service.trainer.CreateRun(request)).run
            async with asyncio.timeout(120):
                while (await service.get(run.name)).progress.step < 3:
                    await asyncio.sleep(0.1)
            assert "marsam_training_steps_total" in await asyncio.to_thread(scraped, service.said["metricsPort"])
            cluster.disrupt(service.pod(run.name), "PreemptionByScheduler", "for a pod of higher priority")
            done = await service.until(run.name, "SUCCEEDED", "FAILED", timeout_s=240)
            assert (state(done), done.attempt) == ("SUCCEEDED", 2), done
            retry = next(entry for entry in done.history if entry.reason == "RETRY")
            assert "pod of higher priority" in retry.message
            checkpoints = (
                await service.trainer.ListCheckpoints(trainer_pb2.ListCheckpointsRequest(name=run.name))
            ).checkpoints
            saved = [c.step for c in checkpoints if c.attempt == 1]
            model = (await service.models.GetModel(model_pb2.GetModelRequest(name=done.model))).model
            assert model.lineage.run == run.name
    jobs = JobStore(open_store(str(service.store)), "hayy", "runs", CLOCK)
    run_id = run.name.split("/")[-1]
    record = next(t for t in await jobs.history(run_id) if t.reason == "RETRY")
    assert record.detail["cause"] == "PREEMPTED"
    assert record.detail["exit_code"] == 75  # it was let finish its step and write its checkpoint
    events, _ = await read_events(jobs, run_id, 2)
    # Its own words: what is left of the steps may take less than the second between two tellings.
    said = [event["message"] for event in events if event.get("kind") == "log"]
    assert saved[-1] >= 3
    assert f"resumed at step {saved[-1]} of attempt 1" in said


def person(number: int) -> Picture:
    """One of Hayy's people, as the balanced set shows them."""
    chance = Random(number)
    one = sample(chance, "balanced")
    out = io.BytesIO()
    draw(one, seed=number, size=SIDE).save(out, format="PNG")
    captions = tuple(
        Caption(language=language, text=training_caption(one, chance, language=language, world="balanced"))
        for language in ("en", "ar")
    )
    return Picture(data=out.getvalue(), width=SIDE, height=SIDE, captions=captions)


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())
