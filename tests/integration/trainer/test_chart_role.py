"""The Role and the cluster file that the chart renders, put to use: the fake API server enforces the one, the trainer
reads the other, and runs are made, followed, cancelled and tried again with them.
"""

from pathlib import Path

import pytest

from marsam.api.trainer.v1 import trainer_pb2
from tests.fakes.kubernetes.cluster import NAMESPACE, FakeCluster
from tests.helm.rendering import of_kind, rendered, runs_file
from tests.integration.trainer.cluster import JobService
from tests.integration.trainer.harness import PROGRAM, state

pytestmark = pytest.mark.slow
CASES = ("minimal", "gpu", "kueue")


@pytest.mark.parametrize("case", CASES)
async def test_the_rendered_role_is_enough_for_a_runs_whole_life(tmp_path: Path, case: str) -> None:
    found = rendered(case)
    (role,) = (role for name, role in of_kind(found, "Role").items() if name.endswith("-trainer"))
    with FakeCluster(tmp_path / "cluster", role=role["rules"]) as cluster:
        service = JobService(tmp_path, cluster)
        # As the chart says it, but for what a make-believe node cannot give: the image's own command and file system.
        file = dict(runs_file(found))
        service.said = file | {
            "namespace": NAMESPACE,
            "command": ["python3", str(PROGRAM)],
            "cache": str(tmp_path / "run-cache"),
            "secrets": {},
            "profiles": {name: {**profile, "graceSeconds": 5} for name, profile in file["profiles"].items()},
        }
        limits = [p.get("resources", {}).get("limits", {}) for p in file["profiles"].values()]
        gpus = {name: 4 for limit in limits for name in limit if name.startswith("nvidia.com/")}
        labels = {k: v for p in file["profiles"].values() for k, v in p.get("nodeSelector", {}).items()}
        if gpus:
            cluster.add_node("gpu", gpus=gpus, labels=labels)
        await service.furnish()
        async with service:
            run = await service.create()
            if file["profiles"][service.said["default"]].get("kueueQueue"):
                while state(waiting := await service.get(run.name)) != "STARTING" or waiting.reason != "QUEUED":
                    assert state(waiting) != "FAILED", waiting.message
                name = service.job(run.name)["metadata"]["name"]
                cluster.objects.update("jobs", name, lambda j: j["spec"].update(suspend=False))
                done = await service.until(run.name, "SUCCEEDED", "FAILED")
                assert state(done) == "SUCCEEDED", done.message
                return
            done = await service.until(run.name, "SUCCEEDED", "FAILED")
            assert state(done) == "SUCCEEDED", done.message
            second = await service.create(labels={"hold": "3"})
            await service.until(second.name, "RUNNING")
            await service.trainer.CancelRun(trainer_pb2.CancelRunRequest(name=second.name))
            await service.until(second.name, "CANCELLED")
            with cluster.refusing("violates PodSecurity"):
                refused = await service.create()
                assert (await service.until(refused.name, "FAILED")).reason == "ADMISSION_REFUSED"
