"""What a Job, its pods and its events say: how the program ended, or what it waits for. Pure rules."""

import json
import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from marsam.core.records import from_plain
from marsam.launch.kubernetes.manifest import CONTAINER, EXIT, QUEUE, RANKS, STOPPED
from marsam.launch.launcher import ECHO, Cause, Exit, Waiting
from marsam.launch.word import named

Object = Mapping[str, Any]

_IMAGE = {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable"}
_CONFIG = {"CreateContainerConfigError", "CreateContainerError"}
UNSETTLED = ("status unknown for quota", "not yet ready to handle request")
"""What a server calls forbidden that has only not made up its mind: a quota just made, itself just started."""

_UNSTARTABLE = {"StartError", "ContainerCannotRun"}

_URGENCY = ("IMAGE_NAME_INVALID", "CONTAINER_CONFIG", "IMAGE_PULL", "UNSCHEDULABLE", "STARTING")

# Reasons of the pod condition DisruptionTarget, in our words.
_DISRUPTIONS = {
    "PreemptionByScheduler": ("PREEMPTED", "the scheduler gave its place to a pod of higher priority"),
    "EvictionByEvictionAPI": ("DRAINED", "its node was drained"),
    "DeletionByTaintManager": ("NODE_TAINTED", "its node was tainted or became unreachable"),
    "DeletionByPodGC": ("NODE_LOST", "its node is gone"),
    "TerminationByKubelet": ("EVICTED", "its node ran out of a resource or was shut down"),
}
_EXIT_CODE = re.compile(r"failed with exit code (\d+)")


def final(job: Object) -> bool:
    """Say whether the Job itself says that it is over."""
    return _condition(job, "Complete") is not None or _condition(job, "Failed") is not None


def nodes(job: Object) -> int:
    """Of how many pods the Job is."""
    return int(job["spec"].get("completions") or 1)


def ended_pod(job: Object, pods: Iterable[Object]) -> Object | None:
    """Return the pod whose end is the program's; None while it goes on. Once the first node has done the work, it is
    that one, whatever becomes of the others; a pod that failed ends the program otherwise.
    """
    pods = list(pods)
    done = [pod for pod in pods if pod.get("status", {}).get("phase") == "Succeeded"]
    failed = [pod for pod in pods if pod.get("status", {}).get("phase") == "Failed"]
    first = next((pod for pod in done if index(pod) == 0), None)
    return first or min(failed, key=_telling, default=None)


def _telling(pod: Object) -> tuple[int, bool, str, int]:
    """Sorts pods by how near their end is to what went wrong: others end because of it, or are ended."""
    terminated = _container(pod).get("state", {}).get("terminated", {})
    code = int(terminated.get("exitCode") or 0)
    if _condition(pod, "DisruptionTarget") is not None:
        nearness = 0
    elif terminated.get("reason") == "OOMKilled":
        nearness = 1
    else:
        nearness = 4 if code == ECHO else 3 if pod["metadata"].get("deletionTimestamp") else 2
    return nearness, code <= 128, str(terminated.get("finishedAt", "")), index(pod)


def index(pod: Object) -> int:
    """Which node of its program a pod is, from 0."""
    return int(pod["metadata"].get("labels", {}).get("batch.kubernetes.io/job-completion-index", 0))


def begun(pod: Object) -> bool:
    """Say whether the program of `pod` runs or has run."""
    state = _container(pod).get("state", {})
    return "running" in state or "terminated" in state or bool(_container(pod).get("lastState"))


def remembered(job: Object) -> Exit | None:
    """Return the end that a launcher wrote down at the Job itself."""
    text = job["metadata"].get("annotations", {}).get(EXIT)
    return from_plain(Exit, json.loads(text), what=EXIT) if text else None


def conclude(job: Object, pod: Object | None) -> Exit:
    """Say how a Job ended, from what it says of itself and from its ended pod, if there is one."""
    failed = _condition(job, "Failed") or _condition(job, "FailureTarget")
    why = str(failed.get("reason", "")) if failed is not None else ""
    stopped = STOPPED in job["metadata"].get("annotations", {})
    if why == "DeadlineExceeded" and not stopped:
        return Exit(cause=Cause.OVERDUE, reason="DEADLINE", message="it ran for longer than its profile allows")
    if pod is not None:
        return _named(job, pod, _of_pod(pod))
    if _condition(job, "Complete") is not None:
        return Exit(cause=Cause.DONE, code=0)
    message = str(failed.get("message", "")) if failed is not None else ""
    if why == "PodFailurePolicy" and "DisruptionTarget" in message:
        return Exit(cause=Cause.DISRUPTED, reason="DISRUPTED", message=f"the platform took it away ({message})")
    if why == "PodFailurePolicy" and (code := _EXIT_CODE.search(message)):
        return _of_code(int(code[1]))
    if stopped:
        return Exit(cause=Cause.SIGNALLED, signal=signal.SIGTERM, reason="STOPPED")
    said = f": {message}" if message else ""
    return Exit(cause=Cause.LOST, reason="POD_GONE", message=f"its pod is gone and left no exit code{said}")


def _named(job: Object, pod: Object, exit_: Exit) -> Exit:
    """`exit_` with the rank that it is of, or else the node, where there are several."""
    if RANKS not in job["metadata"].get("annotations", {}) or exit_.cause is Cause.DONE:
        return exit_
    node, several = pod["spec"].get("nodeName", ""), nodes(job) > 1
    said = last_words(pod).decode().splitlines()[-1:]
    told = named(exit_, said[0] if said else "", where=f" on node {node}" if several else "")
    if told is not exit_ and exit_.cause in (Cause.FAILED, Cause.SIGNALLED):
        return told
    return replace(exit_, message=f"node {index(pod) + 1} of {nodes(job)}, {node}: {exit_}") if several else exit_


def _of_pod(pod: Object) -> Exit:
    status = pod["status"]
    terminated = _container(pod).get("state", {}).get("terminated", {})
    code = terminated.get("exitCode")
    if status.get("phase") == "Succeeded" or (code == 0 and terminated.get("reason") == "Completed"):
        return Exit(cause=Cause.DONE, code=0)
    disruption = _condition(pod, "DisruptionTarget")
    if disruption is not None:
        return _disrupted(disruption, code)
    if terminated.get("reason") == "OOMKilled":
        return Exit(cause=Cause.OUT_OF_MEMORY, signal=signal.SIGKILL, reason="OOM_KILLED")
    if terminated.get("reason") in _UNSTARTABLE:
        why = str(terminated.get("message") or "the container could not be started")
        return Exit(cause=Cause.NOT_STARTED, reason="PROGRAM_NOT_FOUND", message=f"it could not be started: {why}")
    said = str(status.get("message") or status.get("reason") or "")
    if status.get("reason") == "Evicted":  # without a disruption: it used more than its own limits allow
        return Exit(
            cause=Cause.SIGNALLED, signal=signal.SIGKILL, reason="OVER_LIMIT", message=f"it was evicted: {said}"
        )
    if code is not None:
        return _of_code(int(code))
    if status.get("reason"):
        return Exit(cause=Cause.NOT_STARTED, reason="NODE_REFUSED", message=f"the node refused it: {said}")
    return Exit(cause=Cause.LOST, reason="POD_GONE", message="its pod failed and left no exit code")


def _disrupted(condition: Object, code: int | None) -> Exit:
    word = str(condition.get("reason", ""))
    reason, words = _DISRUPTIONS.get(word, ("DISRUPTED", "the platform took it away"))
    said = str(condition.get("message") or word)
    kept = {} if code is None or code > 128 else {"code": int(code)}
    return Exit(cause=Cause.DISRUPTED, reason=reason, message=f"{words} ({said})", **kept)


def _of_code(code: int) -> Exit:
    number = code - 128
    if code > 128 and number in {int(known) for known in signal.Signals}:
        return Exit(cause=Cause.SIGNALLED, signal=number)
    return Exit(cause=Cause.DONE if code == 0 else Cause.FAILED, code=code)


def waiting(job: Object, pods: Iterable[Object], events: Iterable[Object]) -> Waiting | None:
    """Say what a Job that has not ended waits for: of several pods, the one that waits for most; None when it runs.

    `events` are the Job's own.
    """
    if job["spec"].get("suspend"):
        queue = job["metadata"].get("labels", {}).get(QUEUE, "")
        return Waiting(reason="QUEUED", message=f"waits to be admitted by queue '{queue}'" if queue else "is suspended")
    pods, count = list(pods), nodes(job)
    waits = [(pod, wait) for pod in pods if (wait := _pod_waits(pod)) is not None]
    if waits:
        pod, wait = min(waits, key=lambda each: _URGENCY.index(each[1].reason))
        if count == 1 or not wait.message:
            return wait
        return replace(wait, message=f"node {index(pod) + 1} of {count}: {wait.message}")
    if len(pods) >= count:
        return None
    for event in reversed(list(events)):
        if event.get("reason") == "FailedCreate":
            return _refused(str(event.get("message", "")))
    return Waiting(reason="CREATING")


def _refused(said: str) -> Waiting:
    """What it means that no pod was made; the Job's controller tries again by itself."""
    if "exceeded quota" in said:
        return Waiting(reason="QUOTA_EXCEEDED", message=f"waits for quota: {said}")
    if any(words in said for words in UNSETTLED):
        return Waiting(reason="CREATE_FAILED", message=f"its pod cannot be made yet: {said}")
    if "violates PodSecurity" in said or "denied the request" in said or "is forbidden" in said:
        return Waiting(reason="ADMISSION_REFUSED", message=f"the cluster refuses its pod: {said}")
    return Waiting(reason="CREATE_FAILED", message=f"its pod cannot be made: {said}")


def _pod_waits(pod: Object) -> Waiting | None:
    if begun(pod):
        return None
    stuck = _container(pod).get("state", {}).get("waiting", {})
    word, said = str(stuck.get("reason", "")), str(stuck.get("message", ""))
    if word == "InvalidImageName":
        return Waiting(reason="IMAGE_NAME_INVALID", message=f"its image has no valid name: {said}")
    if word in _IMAGE:
        return Waiting(reason="IMAGE_PULL", message=f"its image cannot be had: {said or word}")
    if word in _CONFIG:
        return Waiting(reason="CONTAINER_CONFIG", message=f"its container cannot be made: {said or word}")
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return Waiting(reason="UNSCHEDULABLE", message=f"no node for it: {condition.get('message', '')}")
    return Waiting(reason="STARTING")


def _condition(thing: Object, name: str) -> Object | None:
    for condition in thing.get("status", {}).get("conditions") or ():
        if condition["type"] == name and condition["status"] == "True":
            return dict(condition)
    return None


def _container(pod: Object) -> Object:
    for status in pod.get("status", {}).get("containerStatuses") or ():
        if status["name"] == CONTAINER:
            return dict(status)
    return {}


def last_words(pod: Object) -> bytes:
    """The last lines of a program's output, kept with its pod when it failed."""
    terminated = _container(pod).get("state", {}).get("terminated", {})
    return str(terminated.get("message") or "").encode()
