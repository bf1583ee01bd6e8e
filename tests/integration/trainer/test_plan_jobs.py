"""A plan's Job that nobody waits for any more."""

import asyncio
import threading
from pathlib import Path

import pytest
from marsam_trainer.ground import Ground
from marsam_trainer.plan_jobs import ask_elsewhere
from marsam_trainer.settings import TrainerSettings

from marsam.catalog.runs import RunSpec
from marsam.launch.kubernetes.cluster import connect
from marsam.launch.kubernetes.launcher import KubernetesLauncher
from tests.contract.launch.places import cluster_file
from tests.fakes.kubernetes.cluster import NAMESPACE, FakeCluster
from tests.fakes.kubernetes.server import Handler

SPEC = RunSpec(
    name="projects/p/runs/01arz3ndektsv4rrffq69g5fav", base="projects/p/models/base",
    base_digest="sha256:" + "0" * 64, dataset_version="projects/p/datasets/d/versions/v1",
    dataset_digest="sha256:" + "1" * 64, method="lora", output_model_id="m", steps=1, batch_size=1,
    learning_rate=1e-3, resolution=32, seed=0,
)  # fmt: skip


async def test_a_plan_that_is_called_off_while_its_job_is_made_leaves_none(tmp_path: Path) -> None:
    """As when the trainer stops: the request is on its way, and the server carries it out all the same."""
    asked, let = threading.Event(), threading.Event()

    def slow(handler: Handler) -> bool:
        asked.set()
        let.wait(20)
        return False

    with FakeCluster(tmp_path / "cluster") as cluster:
        file = cluster_file(NAMESPACE, "marsam/run:test")
        async with KubernetesLauncher(connect(NAMESPACE, cluster.kubeconfig), file) as launcher:
            ground = Ground(
                launcher=launcher, owner="o", slots=1, stops=False, command=("sleep",), cache=str(tmp_path),
                metrics=lambda: ("", 0), elsewhere=True,
            )  # fmt: skip
            settings = TrainerSettings(store=str(tmp_path / "store"), cache=tmp_path / "cache")
            cluster.server.trouble("POST", "/jobs", slow)
            plan = asyncio.create_task(ask_elsewhere(ground, settings, SPEC, command="plan", limit_s=60))
            assert await asyncio.to_thread(asked.wait, 20)
            plan.cancel()
            await asyncio.sleep(0)
            let.set()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(plan, 30)
            made = [path for method, path, _ in cluster.server.seen if method == "POST" and path.endswith("/jobs")]
            assert len(made) == 1
            assert cluster.jobs == []
