"""Where the launchers of the contract launch: processes, a fake cluster whose nodes run processes, a real cluster."""

import os
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Protocol

from marsam.core.errors import Missing
from marsam.launch.kubernetes.cluster import Object, connect
from marsam.launch.kubernetes.launcher import KubernetesLauncher
from marsam.launch.kubernetes.manifest import CONTAINER, job_name, selector
from marsam.launch.kubernetes.profiles import ClusterFile, Profile, Resources
from marsam.launch.launcher import Launcher, Program
from marsam.launch.process import ProcessLauncher, read_tail
from tests.fakes.kubernetes.cluster import NAMESPACE, SERVICE, FakeCluster

REAL = bool(os.environ.get("MARSAM_TEST_CLUSTER"))
PLACES = ("cluster",) if REAL else ("process", "kubernetes")
SPREADS = ("cluster",) if REAL else ("process", "one node", "two nodes")
"""Where two ranks of one program run. On a real cluster the image must hold Marsam, and a headless Service be named."""

GRACE_S = 2


class Place(Protocol):
    """A place that remembers: each `open` gives another launcher over the same memory, as after a restart."""

    local: bool
    """Whether programs run on this machine, so that files and process numbers are shared with them."""
    python: str
    """How programs there call Python."""

    async def open(self, state: str = "state") -> Launcher: ...

    def program(self, code: str, *, ranks: int = 1, **env: str) -> Program: ...

    def said(self, program: Program, key: str = "a") -> str:
        """What the program has written so far."""
        ...

    def remembered(self) -> list[str]:
        """Everything that a launcher still knows of."""
        ...

    async def close(self) -> None: ...


class ProcessPlace:
    local = True
    python = sys.executable

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def open(self, state: str = "state") -> Launcher:
        return ProcessLauncher(self._folder / state)

    def program(self, code: str, *, ranks: int = 1, **env: str) -> Program:
        log = self._folder / "logs" / "run.log"
        return Program(argv=(self.python, "-c", code), log_path=log, env=env, cwd=self._folder, ranks=ranks)

    def said(self, program: Program, key: str = "a") -> str:
        return read_tail(program.log_path)

    def remembered(self) -> list[str]:
        return [entry.name for entry in (self._folder / "state").iterdir()]

    async def close(self) -> None: ...


class JobPlace:
    """Jobs of a cluster; `local` on the fake one, which may have `nodes` with so many `gpus` each."""

    python = "python3"

    def __init__(self, folder: Path, *, local: bool, token: str = "trainer", nodes: int = 0, gpus: int = 0) -> None:
        self.local = local
        self._folder = folder
        self._stack = ExitStack()
        self._opened = AsyncExitStack()
        if local:
            self.fake = self._stack.enter_context(FakeCluster(folder / "cluster", token=token))
            self._config, namespace, image = self.fake.kubeconfig, NAMESPACE, "marsam/run:test"
            service = SERVICE
            for number in range(1, nodes + 1):
                self.fake.add_node(f"gpu-{number}", gpus={"nvidia.com/gpu": gpus})
        else:
            self._config = Path(os.environ["KUBECONFIG"])
            namespace = os.environ.get("MARSAM_TEST_NAMESPACE", "marsam-test")
            image = os.environ.get("MARSAM_TEST_IMAGE", "python:3.11-slim")
            service = os.environ.get("MARSAM_TEST_SERVICE", "")
        self.cluster = connect(namespace, self._config)
        instance = f"t{os.getpid()}-{abs(hash(folder)) % 10**8}"
        self.file = cluster_file(namespace, image, instance=instance, service=service, gpus=gpus)

    @property
    def _selector(self) -> str:
        return selector(self.file)

    async def open(self, state: str = "") -> KubernetesLauncher:
        return await self.enter(KubernetesLauncher(self.cluster, self.file))

    async def enter(self, launcher: KubernetesLauncher) -> KubernetesLauncher:
        """Open a launcher that is closed with this place."""
        return await self._opened.enter_async_context(launcher)

    def program(self, code: str, *, ranks: int = 1, **env: str) -> Program:
        return Program(
            argv=(self.python, "-c", code),
            log_path=self._folder / "logs" / "run.log",
            env=env,
            cwd=self._folder if self.local else None,
            ranks=ranks,
        )

    def said(self, program: Program, key: str = "a") -> str:
        found = self.pods(job_name(key))
        try:
            return "".join(self.cluster.log(pod["metadata"]["name"], CONTAINER).decode() for pod in found)
        except Missing:
            return ""
        except Exception as error:  # a container that has not begun has no log
            if "waiting to start" in str(error) or "ContainerCreating" in str(error):
                return ""
            raise

    def pods(self, job: str) -> list[Object]:
        """The pods of a Job of that name, but not those that another place's Job of that name may have left."""
        return self.cluster.snapshot("pods", f"{self._selector},batch.kubernetes.io/job-name={job}")[0]

    def remembered(self) -> list[str]:
        return [job["metadata"]["name"] for job in self.cluster.snapshot("jobs", self._selector)[0]]

    async def close(self) -> None:
        await self._opened.aclose()
        for name in self.remembered():
            self.cluster.delete_job(name)
        self._stack.close()


def cluster_file(
    namespace: str, image: str, *, instance: str = "marsam", gpus: int = 0, **fields: object
) -> ClusterFile:
    resources = Resources(limits={"nvidia.com/gpu": gpus} if gpus else {})
    profile = Profile(graceSeconds=GRACE_S, imageSeconds=2, pendingSeconds=3, resources=resources)
    profiles: Mapping[str, Profile] = {"cpu": profile}
    return ClusterFile(namespace=namespace, image=image, instance=instance, **{"profiles": profiles, **fields})  # type: ignore[arg-type]


def place_called(name: str, folder: Path) -> ProcessPlace | JobPlace:
    return ProcessPlace(folder) if name == "process" else JobPlace(folder, local=name == "kubernetes")


def spread_called(name: str, folder: Path) -> ProcessPlace | JobPlace:
    """A place for two ranks of a program."""
    if name in ("process", "cluster"):
        return place_called(name, folder)
    nodes = ("one node", "two nodes").index(name) + 1
    return JobPlace(folder, local=True, nodes=nodes, gpus=2 // nodes)
