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
"""How long a Job that has ended waits for its pods' ends to be seen; they know more of how."""

# How long each kind of waiting may last, as a profile's field; the others are not for us to end.
_AT_ONCE = {"ADMISSION_REFUSED", "IMAGE_NAME_INVALID"}
_IMAGE = {"IMAGE_PULL", "CONTAINER_CONFIG"}
_PLACE = {"UNSCHEDULABLE", "QUOTA_EXCEEDED", "CREATE_FAILED"}


@dataclass
class Case:
    """What is remembered of one Job. `turn` is held while it is judged, `ended` once it has been.

    `begun` says that one of its pods has run, `ran` that all have.
    """

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    ended: Exit | None = None
    begun: bool = False
    ran: bool = False
    events: list[dict[str, Any]] = field(default_factory=list)
    asked_at: float = float("-inf")
    _ended_at: float | None = None
    _going_at: float | None = None
    _waits: str = ""
    _since: float = 0.0

    def verdict(self, job: Object, pods: Sequence[Object], now: float) -> Exit | None:
        """Say how the Job ended, None while it has not or it is too early to say."""
        begun = sum(reasons.begun(pod) for pod in pods)
        self.begun, self.ran = self.begun or begun > 0, self.ran or begun >= reasons.nodes(job)
        suspended = bool(job["spec"].get("suspend"))
        pod, live = reasons.ended_pod(job, pods), [pod for pod in pods if _is_live(pod)]
        if suspended and self.begun and not live:
            done = pod is not None and pod["status"]["phase"] == "Succeeded"
            return reasons.conclude(job, pod) if done else _suspended()
        if pod is not None or reasons.final(job):
            self._ended_at = self._ended_at or now
            if now - self._ended_at < _patience(job, pod, live):
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


def _patience(job: Object, pod: Object | None, live: Sequence[Object]) -> float:
    """How long to wait for more than the end of `pod`, or than that of the Job alone."""
    if pod is None:
        return _POD_LATE_S
    if reasons.final(job):
        return _POD_LATE_S if live else 0.0
    if pod["status"]["phase"] == "Succeeded":
        return LOST_S if live else _SETTLE_S
    # Two attempts must not run side by side: the other nodes' pods get the time that they were promised.
    return max((_grace_of(other) + LOST_S for other in live), default=_SETTLE_S)


def _grace_of(pod: Object) -> float:
    return float(pod["spec"].get("terminationGracePeriodSeconds") or 0)


def node_lost(message: str) -> Exit:
    """The end of a program whose node says nothing any more."""
    return Exit(cause=Cause.LOST, reason="NODE_LOST", message=message)


def _suspended() -> Exit:
    """A Job that was suspended while it ran: the queue wants its place, and the attempt is over."""
    return Exit(cause=Cause.DISRUPTED, reason="SUSPENDED", message="its queue suspended it to make room for others")


def _is_live(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
