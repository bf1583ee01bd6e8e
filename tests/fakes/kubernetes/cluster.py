"""A whole small cluster: API server, controllers, nodes, and the misfortunes that a test may send it."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.fakes.kubernetes.controllers import Controllers, end_pod
from tests.fakes.kubernetes.kubelet import Kubelet
from tests.fakes.kubernetes.server import Rules, Server
from tests.fakes.kubernetes.store import Object, Objects, now

NAMESPACE = "marsam"
SERVICE = "marsam-runs"
"""The headless Service that there is."""

ROLE: Rules = (
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "get", "list", "watch", "patch", "delete"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["get", "list", "watch"]},
)
"""What a trainer may do, and no more."""


class FakeCluster:
    """Use as a context manager. `role` is what the account `trainer` may do; the kubeconfig is that of `token`."""

    def __init__(
        self, folder: Path, *, role: Rules = ROLE, env: Mapping[str, str] | None = None, token: str = "trainer"
    ) -> None:
        self._folder = folder
        self._token = token
        self._env = dict(env) if env is not None else _image_env()
        self.objects = Objects()
        self.server = Server(self.objects, NAMESPACE, {"admin": None, "trainer": role})
        self.controllers = Controllers(self.objects, NAMESPACE)
        self.nodes: list[Kubelet] = []
        self.server.logs = self._log
        self.kubeconfig = folder / "kubeconfig"

    @property
    def url(self) -> str:
        host, port = self.server.server_address[:2]
        return f"http://{host!s}:{port}"

    def __enter__(self) -> "FakeCluster":
        self._folder.mkdir(parents=True, exist_ok=True)
        self.server.start()
        self.controllers.start()
        self.add_node()
        self.kubeconfig.write_text(yaml.safe_dump(kubeconfig(self.url, self._token)))
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.stop()
        self.controllers.stop()
        self.server.stop()

    def add_node(self, name: str = "node-1", **how: Any) -> Kubelet:
        node = Kubelet(
            self.url, "admin", NAMESPACE, self._folder / "nodes" / name, name=name, base_env=self._env,
            names=self._folder / "names", services=(SERVICE,), **how,
        )  # fmt: skip
        self.nodes.append(node)
        node.start()
        return node

    @property
    def jobs(self) -> list[Object]:
        return self.objects.all("jobs")

    @property
    def pods(self) -> list[Object]:
        return self.objects.all("pods")

    @contextlib.contextmanager
    def refusing(self, words: str) -> Iterator[None]:
        """Refuse every pod inside of the block."""
        usual, self.controllers.admission = self.controllers.admission, forbid(words)
        try:
            yield
        finally:
            self.controllers.admission = usual

    def disrupt(self, pod: str, reason: str, message: str) -> None:
        """Take a pod away as the platform does: say so, then end it with its grace."""
        self._condemn(pod, reason, message)
        end_pod(self.objects, self.objects.get("pods", pod))

    def lose(self, node: Kubelet) -> None:
        """The node loses its power. What it ran is dead; the API server goes on saying that it runs."""
        node.stop()
        self.nodes.remove(node)

        def unready(thing: Object) -> None:
            thing["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]

        self.objects.update("nodes", node.name, unready)

    def collect(self, node: Kubelet) -> None:
        """The node's object is gone; the pod collector ends the pods that it had."""
        self.objects.delete("nodes", node.name)
        for pod in self.pods:
            if pod["spec"].get("nodeName") == node.name:
                name = pod["metadata"]["name"]
                self._condemn(name, "DeletionByPodGC", "PodGC: node no longer exists")
                self.objects.update("pods", name, lambda p: p["status"].update(phase="Failed"))
                self.objects.delete("pods", name)

    def _condemn(self, pod: str, reason: str, message: str) -> None:
        entry = {
            "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": now(),
        }  # fmt: skip
        self.objects.update("pods", pod, lambda p: p["status"].setdefault("conditions", []).append(entry))

    def _log(self, pod: str) -> bytes | None:
        for node in self.nodes:
            if (text := node.log(pod)) is not None:
                return text
        return None


def kubeconfig(url: str, token: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {"server": url}}],
        "users": [{"name": "fake", "user": {"token": token}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": NAMESPACE}}],
    }  # fmt: skip


def forbid(words: str) -> Callable[[Object], str | None]:
    """Something that refuses every object."""
    return lambda thing: words


def _image_env() -> dict[str, str]:
    """What the image brings along: a PATH with this Python, and the code under test."""
    path = os.pathsep.join([str(Path(__file__).with_name("dns")), *(p for p in sys.path if p)])
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": path, "LANG": "C.UTF-8"}
