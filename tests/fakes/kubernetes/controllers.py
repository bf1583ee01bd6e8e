"""The control loops behind the fake API server: Jobs make pods, what is over is cleared away."""

import copy
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from tests.fakes.kubernetes.conditions import holds, over
from tests.fakes.kubernetes.rules import restricted
from tests.fakes.kubernetes.scheduler import schedule
from tests.fakes.kubernetes.store import Object, Objects, Refusal, now

TRACKING = "batch.kubernetes.io/job-tracking"
_REACHED = "Reached expected number of succeeded pods"
Admission = Callable[[Object], str | None]
"""Says why a pod is refused, None when it is not."""


class Controllers:
    """The Job controller, the scheduler and the garbage collector, in one thread."""

    def __init__(self, objects: Objects, namespace: str) -> None:
        self._objects = objects
        self._namespace = namespace
        self._ending = threading.Event()
        self._retry_at: dict[str, float] = {}
        self.admission: Admission = lambda pod: restricted(pod["spec"])
        self._thread = threading.Thread(target=self._work, name="controllers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        with self._objects.changed:
            self._objects.changed.notify_all()
        self._thread.join(10)

    def event(self, about: Object, kind: str, reason: str, message: str, *, type_: str = "Warning") -> None:
        meta = about["metadata"]
        self._objects.create("events", {
            "apiVersion": "v1", "kind": "Event", "type": type_, "reason": reason, "message": message,
            "metadata": {"generateName": f"{meta['name']}.", "namespace": self._namespace},
            "involvedObject": {"kind": kind, "name": meta["name"], "uid": meta["uid"], "namespace": self._namespace},
            "firstTimestamp": now(), "lastTimestamp": now(), "count": 1,
        })  # fmt: skip

    def _work(self) -> None:
        seen = -1
        while not self._ending.is_set():
            with self._objects.changed:
                if self._objects.version == seen:
                    self._objects.changed.wait(0.2)
                seen = self._objects.version
                for job in self._objects.all("jobs"):
                    self._sync(job)
                schedule(self._objects)
                self._collect()

    def _sync(self, job: Object) -> None:
        name, spec = job["metadata"]["name"], job["spec"]
        pods = [p for p in self._objects.all("pods") if _owner(p) == job["metadata"]["uid"]]
        for pod in pods:
            if over(pod):
                self._release(pod)
        if holds(job, "Complete") or holds(job, "Failed"):
            self._expire(job)
            return
        status = job["status"]
        live = [p for p in pods if not over(p)]
        active = [p for p in live if not p["metadata"].get("deletionTimestamp")]
        failed = [p for p in pods if p.get("status", {}).get("phase") == "Failed"]
        if spec.get("suspend"):  # what it ends itself, because it was told to wait, has not failed
            failed = [p for p in failed if not p["metadata"].get("deletionTimestamp")]
        done = [p for p in pods if p.get("status", {}).get("phase") == "Succeeded"]
        change: Object = {"failed": len(failed) or None, "succeeded": len(done) or None, "active": len(active) or None}
        verdict = self._failure(job, failed)
        if verdict is None and len({_index(pod) for pod in done}) >= spec.get("completions", 1):
            _set(change, status, "SuccessCriteriaMet", "CompletionsReached", _REACHED)
            if not live:
                _set(change, status, "Complete", "CompletionsReached", _REACHED)
                change["completionTime"] = now()
        elif verdict is not None:
            _set(change, status, "FailureTarget", *verdict)
            self._end(active)
            change["active"] = None
            if not live:
                _set(change, status, "Failed", *verdict)
        elif spec.get("suspend"):
            self._end(active)
            change |= {"active": None, "startTime": None}
            _set(change, status, "Suspended", "JobSuspended", "Job suspended")
        else:
            if holds(job, "Suspended"):
                _set(change, status, "Suspended", "JobResumed", "Job resumed", value="False")
            if not status.get("startTime"):
                change["startTime"] = now()
            if not failed and time.monotonic() >= self._retry_at.get(name, 0):
                for index in sorted(set(range(spec.get("completions", 1))) - {_index(pod) for pod in pods}):
                    self._make_pod(job, index)
        self._objects.update("jobs", name, lambda j: _update_status(j, change))

    def _failure(self, job: Object, failed: list[Object]) -> tuple[str, str] | None:
        """(reason, message) when the Job has failed."""
        spec, started = job["spec"], job["status"].get("startTime")
        if condition := holds(job, "FailureTarget"):
            return condition["reason"], condition["message"]
        limit = spec.get("activeDeadlineSeconds")
        if limit is not None and started and not spec.get("suspend"):
            age = datetime.now(UTC).timestamp() - datetime.fromisoformat(started).timestamp()
            if age >= limit:
                return "DeadlineExceeded", "Job was active longer than specified deadline"
        counted = 0
        for pod in failed:
            action, message = self._policy(job, pod)
            if action == "FailJob":
                return "PodFailurePolicy", message
            counted += action == "Count"
        if counted > spec.get("backoffLimit", 6):
            return "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        return None

    def _policy(self, job: Object, pod: Object) -> tuple[str, str]:
        """(action, message) of the first rule of podFailurePolicy that matches a failed pod."""
        where = f"{self._namespace}/{pod['metadata']['name']}"
        for index, rule in enumerate(job["spec"].get("podFailurePolicy", {}).get("rules", ())):
            action = rule["action"]
            for pattern in rule.get("onPodConditions", ()):
                if holds(pod, pattern["type"]):
                    said = f"Pod {where} has condition {pattern['type']} matching {action} rule at index {index}"
                    return action, said
            codes = rule.get("onExitCodes")
            for status in pod["status"].get("containerStatuses", ()) if codes else ():
                code = status["state"].get("terminated", {}).get("exitCode")
                if code in (None, 0) or codes.get("containerName", status["name"]) != status["name"]:
                    continue
                if (code in codes["values"]) == (codes["operator"] == "In"):
                    said = (
                        f"Container {status['name']} for pod {where} failed with exit code {code} "
                        f"matching {action} rule at index {index}"
                    )
                    return action, said
        return "Count", ""

    def _make_pod(self, job: Object, index: int) -> None:
        meta = job["metadata"]
        template = copy.deepcopy(job["spec"]["template"])
        labels = {
            **(template.get("metadata", {}).get("labels") or {}),
            "batch.kubernetes.io/job-name": meta["name"],
            "batch.kubernetes.io/controller-uid": meta["uid"],
            "batch.kubernetes.io/job-completion-index": str(index),
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "generateName": f"{meta['name']}-{index}-",
                "namespace": self._namespace,
                "labels": labels,
                "annotations": template.get("metadata", {}).get("annotations") or {},
                "finalizers": [TRACKING],
                "ownerReferences": [{"kind": "Job", "name": meta["name"], "uid": meta["uid"], "controller": True}],
            },
            "spec": {**template["spec"], "hostname": f"{meta['name']}-{index}"},
            "status": {"phase": "Pending"},
        }
        for container in pod["spec"]["containers"]:
            container.setdefault("env", []).append({"name": "JOB_COMPLETION_INDEX", "value": str(index)})
        refusal = self.admission(pod)
        if refusal is None:
            self._objects.create("pods", pod)
            return
        self._retry_at[meta["name"]] = time.monotonic() + 1.0
        self.event(
            job, "Job", "FailedCreate", f'Error creating: pods "{meta["name"]}-{index}-x" is forbidden: {refusal}'
        )

    def _end(self, pods: list[Object]) -> None:
        for pod in pods:
            end_pod(self._objects, pod)

    def _release(self, pod: Object) -> None:
        def change(thing: Object) -> None:
            thing["metadata"]["finalizers"] = [f for f in thing["metadata"].get("finalizers", ()) if f != TRACKING]

        self._objects.update("pods", pod["metadata"]["name"], change)

    def _expire(self, job: Object) -> None:
        ttl = job["spec"].get("ttlSecondsAfterFinished")
        ended = (holds(job, "Complete") or holds(job, "Failed") or {})["lastTransitionTime"]
        age = datetime.now(UTC).timestamp() - datetime.fromisoformat(ended).timestamp()
        if ttl is not None and age > ttl:
            self._objects.delete("jobs", job["metadata"]["name"])

    def _collect(self) -> None:
        """Pods whose Job is gone go too."""
        jobs = {job["metadata"]["uid"] for job in self._objects.all("jobs")}
        for pod in self._objects.all("pods"):
            if _owner(pod) in jobs:
                continue
            self._release(pod)
            if not pod["metadata"].get("deletionTimestamp"):
                end_pod(self._objects, pod)


def end_pod(objects: Objects, pod: Object) -> None:
    """Delete a pod as the API does: with its grace where it runs, at once where it does not."""
    placed = pod["spec"].get("nodeName") and not over(pod)
    try:
        objects.delete("pods", pod["metadata"]["name"], grace=_grace(pod) if placed else 0)
        if not placed:
            objects.update("pods", pod["metadata"]["name"], lambda p: p["metadata"].update(finalizers=[]))
    except Refusal:
        pass


def _grace(pod: Object) -> int:
    return int(pod["spec"].get("terminationGracePeriodSeconds", 30))


def _index(pod: Object) -> int:
    return int(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"])


def _owner(pod: Object) -> str:
    return str((pod["metadata"].get("ownerReferences") or [{}])[0].get("uid", ""))


def _set(change: Object, status: Object, kind: str, reason: str, message: str, *, value: str = "True") -> None:
    """Put a condition into `change`, keeping the others, and its time where it holds already."""
    held = change.get("conditions") or copy.deepcopy(status.get("conditions") or [])
    for condition in held:
        if condition["type"] == kind and condition["status"] == value:
            change["conditions"] = held
            return
    entry = {"type": kind, "status": value, "reason": reason, "message": message, "lastTransitionTime": now()}
    change["conditions"] = [c for c in held if c["type"] != kind] + [entry]


def _update_status(job: Object, change: Object) -> None:
    for name, value in change.items():
        if value is None:
            job["status"].pop(name, None)
        else:
            job["status"][name] = value
