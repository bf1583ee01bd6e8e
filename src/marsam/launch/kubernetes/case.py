"""One Job while it is followed: what time adds to what its objects say. Pure rules over our own clock."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from marsam.launch.kubernetes import reasons
from marsam.launch.kubernetes.manifest import STOPPED
from marsam.launch.kubernetes.profiles import Profile
from marsam.launch.kubernetes.reasons import Object
from marsam.launch.launcher import Cause, Exit, Waiting

LOST_S = 30.0
"""A pod that still has not ended this long after its grace is on a node that is gone."""

_SETTLE_S = 10.0
"""How long a pod that has ended waits for its Job to say the same; the Job knows of deadlines, the pod does not."""

_POD_LATE_S = 1.0
"""How long a Job that has ended waits for its pod to be seen; the pod knows more of how."""

# How long each kind of waiting may last, as a profile's field; the others are not for us to end.
_AT_ONCE = {"ADMISSION_REFUSED", "IMAGE_NAME_INVALID"}
_IMAGE = {"IMAGE_PULL", "CONTAINER_CONFIG"}
_PLACE = {"UNSCHEDULABLE", "QUOTA_EXCEEDED", "CREATE_FAILED"}


@dataclass
class Case:
    """What is remembered of one Job. `turn` is held while it is judged, `ended` once it has been."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    ended: Exit | None = None
    ran: bool = False
    events: list[dict[str, Any]] = field(default_factory=list)
    asked_at: float = float("-inf")
    _ended_at: float | None = None
    _going_at: float | None = None
    _waits: str = ""
    _since: float = 0.0

    def verdict(self, job: Object, pods: Sequence[Object], now: float) -> Exit | None:
        """Say how the Job ended, None while it has not or it is too early to say."""
        self.ran = self.ran or any(reasons.begun(pod) for pod in pods)
        suspended = bool(job["spec"].get("suspend"))
        pod = reasons.ended_pod(pods)
        if suspended and self.ran and not any(_is_live(pod) for pod in pods):
            done = pod is not None and pod["status"]["phase"] == "Succeeded"
            return reasons.conclude(job, pod) if done else _suspended()
        if pod is not None or reasons.final(job):
            self._ended_at = self._ended_at or now
            patience = 0.0 if pod is not None and reasons.final(job) else _POD_LATE_S if pod is None else _SETTLE_S
            if now - self._ended_at < patience:
                return None
            return reasons.conclude(job, pod)
        if suspended and STOPPED in job["metadata"].get("annotations", {}):
            return Exit(cause=Cause.NOT_STARTED, reason="STOPPED", message="it was stopped before it began")
        return self._overstays(pods, now)

    def impatient(self, waits: Waiting | None, profile: Profile, now: float) -> bool:
        """Say whether the program has waited for the same thing for longer than its profile allows."""
        reason = waits.reason if waits is not None else ""
        if reason != self._waits:
            self._waits, self._since = reason, now
        limit = float("inf")
        if reason in _AT_ONCE:
            limit = 0.0
        elif reason in _IMAGE:
            limit = profile.imageSeconds
        elif reason in _PLACE:
            limit = profile.pendingSeconds
        return now - self._since >= limit

    def _overstays(self, pods: Sequence[Object], now: float) -> Exit | None:
        """Notice a pod that was told to end long ago and has not: nobody is there to end it."""
        going = [pod for pod in pods if _is_live(pod) and pod["metadata"].get("deletionTimestamp")]
        if not going:
            self._going_at = None
            return None
        self._going_at = self._going_at or now
        grace = float(going[0]["metadata"].get("deletionGracePeriodSeconds") or 0)
        if now - self._going_at < grace + LOST_S:
            return None
        return node_lost("its pod was told to end and never did; its node is gone")


def node_lost(message: str) -> Exit:
    """The end of a program whose node says nothing any more."""
    return Exit(cause=Cause.LOST, reason="NODE_LOST", message=message)


def _suspended() -> Exit:
    """A Job that was suspended while it ran: the queue wants its place, and the attempt is over."""
    return Exit(cause=Cause.DISRUPTED, reason="SUSPENDED", message="its queue suspended it to make room for others")


def _is_live(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
