"""A node: takes the pods that were scheduled to it and really runs their program, as a process of this machine.

It talks to the API server over HTTP as a kubelet does, with its own rights; volumes and images are make-believe. Each
pod has a loopback address of its own and, in a headless Service that there is, a name.
"""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from marsam.launch.kubernetes.profiles import quantity
from tests.fakes.kubernetes.store import Object, now

_IMAGE = re.compile(r"[a-z0-9./_:@-]+")
_ADDRESSES = itertools.count(1)
_GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


class Container:
    """One running program and what its pod said of it."""

    def __init__(self, pod: Object, process: subprocess.Popen[bytes], log: Path) -> None:
        self.pod, self.process, self.log = pod, process, log
        self.started = now()
        self.doomed: str | None = None
        """The kubelet's own reason for the end to come: OOMKilled, Evicted …"""
        self.terminating = threading.Event()


class Kubelet:
    """One node called `name`. `unpullable` images cannot be had; `base_env` is what an image brings along; `services`
    are the headless Services that there are, whose pods' names all nodes write to one file `names`.
    """

    def __init__(
        self, url: str, token: str, namespace: str, folder: Path, *, name: str = "node-1", gpus: Mapping[str, int] = {},
        labels: Mapping[str, str] = {}, base_env: Mapping[str, str], names: Path, services: Collection[str] = (),
    ) -> None:  # fmt: skip
        self._url, self._token, self._namespace = url, token, namespace
        self._folder = folder
        self.name = name
        self._gpus, self._labels = dict(gpus), dict(labels)
        self._base_env = dict(base_env)
        self._names, self._services = names, services
        self.unpullable: set[str] = set()
        self.secrets: dict[str, dict[str, str]] = {}
        self.containers: dict[str, Container] = {}
        self._handled: set[str] = set()
        self._dead = threading.Event()
        self._waiters: list[threading.Thread] = []
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Register the node and take pods from now on."""
        amounts = {"cpu": "8", "memory": "32Gi", **{name: str(n) for name, n in self._gpus.items()}}
        self._ask("POST", "/api/v1/nodes", {
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name, "labels": self._labels},
            "spec": {"taints": [_GPU_TAINT] if self._gpus else []},
            "status": {"allocatable": amounts, "conditions": [{"type": "Ready", "status": "True"}]},
        })  # fmt: skip
        threading.Thread(target=self._work, daemon=True, name=self.name).start()

    def stop(self) -> None:
        """Power off: every process dies and nobody hears of it."""
        self._dead.set()
        for container in list(self.containers.values()):
            _kill(container.process)
        for thread in self._waiters:
            thread.join(10)

    def log(self, pod: str) -> bytes | None:
        path = self._folder / f"{pod}.log"
        return path.read_bytes() if path.exists() else None

    def evict(self, pod: str, message: str) -> None:
        """The container used more than its own limits of storage: no disruption, its own fault."""
        self.containers[pod].doomed = message
        _kill(self.containers[pod].process)

    def _work(self) -> None:
        while not self._dead.is_set():
            with contextlib.suppress(OSError, ValueError):
                listed = self._ask("GET", f"{self._pods}?fieldSelector=spec.nodeName={self.name}")
                for pod in listed["items"]:
                    self._see(pod)
                self._follow(listed["metadata"]["resourceVersion"])
            self._dead.wait(0.05)

    def _follow(self, version: str) -> None:
        query = f"watch=true&resourceVersion={version}&timeoutSeconds=5&fieldSelector=spec.nodeName={self.name}"
        with self._open("GET", f"{self._pods}?{query}") as stream:
            for line in stream:
                event = json.loads(line)
                if self._dead.is_set() or event["type"] == "ERROR":
                    return
                if event["type"] in ("ADDED", "MODIFIED"):
                    self._see(event["object"])

    def _see(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        if pod["metadata"].get("deletionTimestamp"):
            if name in self.containers:
                container = self.containers[name]
                if not container.terminating.is_set():
                    container.terminating.set()
                    self._go(self._terminate, container, int(pod["metadata"].get("deletionGracePeriodSeconds") or 0))
            elif pod["metadata"].get("deletionGracePeriodSeconds"):
                self._report(name, {"phase": "Failed"})
                self._finish(name)
            return
        if name not in self._handled and pod["status"].get("phase") == "Pending":
            self._handled.add(name)
            self._begin(pod)

    def _begin(self, pod: Object) -> None:
        name, spec = pod["metadata"]["name"], pod["spec"]["containers"][0]
        address = self._address(pod)
        self._report(name, {"podIP": address})
        if not _IMAGE.fullmatch(spec["image"]):
            said = f'Failed to apply default image tag "{spec["image"]}": couldn\'t parse image name: invalid reference'
            self._report(name, _waits(spec, "InvalidImageName", said))
            return
        if spec["image"] in self.unpullable:
            self._report(name, _waits(spec, "ErrImagePull", f'failed to pull image "{spec["image"]}": not found'))
            self._report(name, _waits(spec, "ImagePullBackOff", f'Back-off pulling image "{spec["image"]}"'))
            return
        try:
            env = self._environment(spec, address)
        except LookupError as error:
            self._report(name, _waits(spec, "CreateContainerConfigError", str(error.args[0])))
            return
        log = self._folder / f"{name}.log"
        try:
            with open(log, "ab") as out:
                process = subprocess.Popen(
                    spec["command"], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env,
                    cwd=spec.get("workingDir"), start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            said = (
                f'exec: "{spec["command"][0]}": {"executable file not found in $PATH" if error.errno == 2 else error}'
            )
            self._report(name, _status(spec, "Failed", {"terminated": {
                "exitCode": 128, "reason": "StartError", "message": said, "finishedAt": now(),
            }}))  # fmt: skip
            return
        container = self.containers[name] = Container(pod, process, log)
        if self._dead.is_set():
            _kill(process)
            return
        self._report(name, _status(spec, "Running", {"running": {"startedAt": container.started}}))
        self._waiters.append(self._go(self._wait, container))
        if limit := spec.get("resources", {}).get("limits", {}).get("memory"):
            self._go(self._guard_memory, container, quantity(limit, field="memory"))
        if "livenessProbe" in spec:
            self._go(self._probe, container, spec["livenessProbe"], env)

    def _address(self, pod: Object) -> str:
        """An address of the pod's own, published under its name before it is ready."""
        number = next(_ADDRESSES)
        address = f"127.{1 + os.getpid() % 250}.{number // 250}.{1 + number % 250}"
        if pod["spec"].get("subdomain") in self._services:
            with self._names.open("a") as file:
                file.write(f"{pod['spec']['hostname']}.{pod['spec']['subdomain']} {address}\n")
        return address

    def _environment(self, spec: Object, address: str) -> dict[str, str]:
        env = {**self._base_env, "FAKE_CLUSTER_NAMES": str(self._names)}
        for entry in spec.get("env", ()):
            source = entry.get("valueFrom", {})
            if "secretKeyRef" in source:
                ref = source["secretKeyRef"]
                if ref["name"] not in self.secrets:
                    raise LookupError(f'secret "{ref["name"]}" not found')
                env[entry["name"]] = self.secrets[ref["name"]][ref["key"]]
            elif "fieldRef" in source:
                env[entry["name"]] = address
            else:
                env[entry["name"]] = entry["value"]
        return env

    def _wait(self, container: Container) -> None:
        """Report the end of a program, unless the whole node is dead."""
        pod, spec = container.pod, container.pod["spec"]["containers"][0]
        name = pod["metadata"]["name"]
        os.waitid(os.P_PID, container.process.pid, os.WEXITED | os.WNOWAIT)
        _kill(container.process)
        code = container.process.wait()
        if self._dead.is_set():
            return
        code = 128 - code if code < 0 else code
        state: dict[str, Any] = {
            "exitCode": code, "reason": "Completed" if code == 0 else "Error", "startedAt": container.started,
            "finishedAt": now(), "message": "" if code == 0 else _tail(container.log),
        }  # fmt: skip
        extra: dict[str, Any] = {}
        if container.doomed == "OOMKilled":
            state["reason"] = "OOMKilled"
        elif container.doomed is not None:
            extra = {"reason": "Evicted", "message": container.doomed}
        status = _status(spec, "Succeeded" if code == 0 else "Failed", {"terminated": state})
        self._report(name, status | extra)
        self.containers.pop(name, None)
        if container.terminating.is_set():
            self._finish(name)

    def _terminate(self, container: Container, grace: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(container.process.pid, signal.SIGTERM)
        end = time.monotonic() + grace
        while container.process.returncode is None and time.monotonic() < end and not self._dead.is_set():
            time.sleep(0.02)
        if container.process.returncode is None:
            _kill(container.process)

    def _guard_memory(self, container: Container, limit: float) -> None:
        """End a container whose program is over its limit, as the kernel does."""
        while container.process.returncode is None and not self._dead.wait(0.1):
            if _resident(container.process.pid) > limit:
                container.doomed = "OOMKilled"
                _kill(container.process)
                return

    def _probe(self, container: Container, probe: Object, env: dict[str, str]) -> None:
        """An exec probe; too many failures end the container."""
        failures = 0
        self._dead.wait(float(probe.get("initialDelaySeconds", 0)))
        while container.process.returncode is None and not self._dead.is_set():
            done = subprocess.run(probe["exec"]["command"], env=env, capture_output=True, check=False)
            failures = 0 if done.returncode == 0 else failures + 1
            if failures >= int(probe.get("failureThreshold", 3)):
                _kill(container.process)
                return
            self._dead.wait(float(probe.get("periodSeconds", 10)))

    @property
    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self._namespace}/pods"

    def _report(self, pod: str, status: Object) -> None:
        with contextlib.suppress(urllib.error.HTTPError):  # deleted meanwhile
            self._ask("PATCH", f"{self._pods}/{pod}/status", {"status": status})

    def _finish(self, pod: str) -> None:
        with contextlib.suppress(urllib.error.HTTPError):
            self._ask("DELETE", f"{self._pods}/{pod}", {"gracePeriodSeconds": 0})

    def _ask(self, method: str, path: str, body: Object | None = None) -> Object:
        with self._open(method, path, body) as answer:
            return dict(json.load(answer))

    def _open(self, method: str, path: str, body: Object | None = None) -> Any:
        request = urllib.request.Request(
            self._url + path, method=method, data=None if body is None else json.dumps(body).encode()
        )
        request.add_header("Authorization", f"Bearer {self._token}")
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        request.add_header("Content-Type", kind)
        return urllib.request.urlopen(request, timeout=30)

    def _go(self, work: Any, *args: Any) -> threading.Thread:
        thread = threading.Thread(target=work, args=args, daemon=True, name=f"{self.name} {work.__name__}")
        thread.start()
        return thread


def _waits(spec: Object, reason: str, message: str) -> Object:
    return _status(spec, "Pending", {"waiting": {"reason": reason, "message": message}})


def _status(spec: Object, phase: str, state: Object) -> Object:
    # A merge patch does not go into lists: the whole list is said each time, as the kubelet does.
    entry = {
        "name": spec["name"],
        "image": spec["image"],
        "ready": "running" in state,
        "restartCount": 0,
        "state": state,
    }
    return {"phase": phase, "containerStatuses": [entry]}


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024
    return 0


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the program and all that it started: what is left of a container when it ends."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _tail(log: Path) -> str:
    return "\n".join(log.read_bytes()[-2048:].decode(errors="replace").splitlines()[-80:])
