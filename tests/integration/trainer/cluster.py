"""A trainer whose runs are Jobs of a fake cluster that really runs them."""

import os
from pathlib import Path
from typing import Any

import yaml

from marsam.store.open import open_store
from tests.fakes.kubernetes.cluster import NAMESPACE, SERVICE, FakeCluster
from tests.fakes.kubernetes.store import Object
from tests.integration.trainer.harness import PROGRAM, Service, place_base, place_version

PROFILES: dict[str, Any] = {
    "cpu": {"description": "two cores", "graceSeconds": 5},
    "gpu-24g": {
        "description": "one small GPU",
        "graceSeconds": 5,
        "nodeSelector": {"pool": "small"},
        "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "16Gi"}},
    },
    "mig": {"graceSeconds": 5, "resources": {"limits": {"nvidia.com/mig-1g.12gb": 1}}},
    "broken-image": {"image": "marsam/run:gone", "imageSeconds": 1, "graceSeconds": 1},
    "never": {"nodeSelector": {"pool": "none"}, "pendingSeconds": 2, "graceSeconds": 1},
    "tight": {"resources": {"limits": {"memory": "200Mi"}}, "shm": "64Mi", "graceSeconds": 1},
    "short": {"deadlineSeconds": 2, "graceSeconds": 2},
    "queued": {"kueueQueue": "team-a", "graceSeconds": 5},
}


class JobService(Service):
    """A trainer process with the launcher `kubernetes`, and the cluster that it launches at."""

    def __init__(self, folder: Path, cluster: FakeCluster, **settings: object) -> None:
        self.cluster = cluster
        self.file = folder / "kubernetes.yaml"
        self.said: dict[str, Any] = {
            "namespace": NAMESPACE,
            "image": "marsam/run:test",
            "command": ["python3", str(PROGRAM)],
            "service": SERVICE,
            "cache": str(folder / "run-cache"),
            "default": "cpu",
            "profiles": PROFILES,
        }
        super().__init__(folder, launcher="kubernetes", kubernetes_file=self.file, **settings)

    async def start(self) -> None:
        self.file.write_text(yaml.safe_dump(self.said))
        Path(self.said["cache"]).mkdir(exist_ok=True)
        # The way to the cluster is the process' own, as in a pod.
        os.environ["KUBECONFIG"] = str(self.cluster.kubeconfig)
        try:
            await super().start()
        finally:
            del os.environ["KUBECONFIG"]

    async def furnish(self) -> None:
        """Put a base and a dataset version into the store."""
        blobs = open_store(str(self.store))
        await place_base(blobs)
        await place_version(blobs)

    def go(self, run: str) -> None:
        """Let a run go on that holds (its label `hold`: at which step)."""
        (Path(self.said["cache"]) / f"go-{run.split('/')[-1]}").touch()

    def attempts(self, run: str) -> list[str]:
        """Of which attempts of a run there is a Job."""
        return [t["metadata"]["labels"]["marsam.dev/attempt"] for t in self._own(self.cluster.jobs, run)]

    def pods(self, run: str) -> list[Object]:
        """All pods of a run."""
        return self._own(self.cluster.pods, run)

    def job(self, run: str) -> Object:
        """The Job of a run's newest attempt."""
        return self._newest(self.cluster.jobs, run)

    def pod(self, run: str) -> str:
        """The name of the pod of a run's newest attempt."""
        return str(self._newest(self.cluster.pods, run)["metadata"]["name"])

    def _newest(self, things: list[Object], run: str) -> Object:
        return max(self._own(things, run), key=lambda t: int(t["metadata"]["labels"]["marsam.dev/attempt"]))

    def _own(self, things: list[Object], run: str) -> list[Object]:
        return [t for t in things if t["metadata"]["labels"].get("marsam.dev/run") == run.split("/")[-1]]
