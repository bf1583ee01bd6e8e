"""What a Job, its pods and time say: every way that a program may end or wait, from recorded answers of the API."""

import signal
from typing import Any

import pytest

from marsam.launch.kubernetes import reasons
from marsam.launch.kubernetes.case import Case
from marsam.launch.kubernetes.manifest import EXIT, QUEUE, STOPPED
from marsam.launch.kubernetes.profiles import Profile
from marsam.launch.launcher import Cause, Exit, Waiting

Object = dict[str, Any]


def a_job(*conditions: tuple[str, str, str], suspend: bool = False, **annotations: str) -> Object:
    return {
        "metadata": {"name": "j", "annotations": annotations, "labels": {QUEUE: "team-a"} if suspend else {}},
        "spec": {"suspend": suspend},
        "status": {"conditions": [{"type": t, "status": "True", "reason": r, "message": m} for t, r, m in conditions]},
    }


def a_pod(
    phase: str = "Running", *conditions: tuple[str, str, str], meta: Object | None = None, **state: Any
) -> Object:
    status: Object = {"phase": phase, "conditions": []}
    status["conditions"] = [{"type": t, "status": "True", "reason": r, "message": m} for t, r, m in conditions]
    for extra in ("reason", "message"):
        if f"pod_{extra}" in state:
            status[extra] = state.pop(f"pod_{extra}")
    if state:
        status["containerStatuses"] = [{"name": "run", "state": state}]
    return {"metadata": {"name": "p", **(meta or {})}, "spec": {}, "status": status}


def ended(code: int, reason: str = "Error", message: str = "") -> Object:
    return {"exitCode": code, "reason": reason, "message": message}


FAILED = ("Failed", "PodFailurePolicy", "")
TAKEN = "DisruptionTarget"


@pytest.mark.parametrize(
    ("job", "pod", "expected"),
    [
        (a_job(), a_pod("Succeeded", terminated=ended(0, "Completed")), Exit(cause=Cause.DONE, code=0)),
        (a_job(("Complete", "CompletionsReached", "")), None, Exit(cause=Cause.DONE, code=0)),
        (a_job(FAILED), a_pod("Failed", terminated=ended(64)), Exit(cause=Cause.FAILED, code=64)),
        (a_job(FAILED), a_pod("Failed", terminated=ended(75)), Exit(cause=Cause.FAILED, code=75)),
        (a_job(FAILED), a_pod("Failed", terminated=ended(143)), Exit(cause=Cause.SIGNALLED, signal=15)),
        (a_job(FAILED), a_pod("Failed", terminated=ended(200)), Exit(cause=Cause.FAILED, code=200)),
        (
            a_job(FAILED),
            a_pod("Failed", terminated=ended(137, "OOMKilled")),
            Exit(cause=Cause.OUT_OF_MEMORY, signal=9, reason="OOM_KILLED"),
        ),
        (
            a_job(FAILED),
            a_pod("Failed", (TAKEN, "PreemptionByScheduler", "default-scheduler: preempting"), terminated=ended(75)),
            Exit(
                cause=Cause.DISRUPTED,
                code=75,
                reason="PREEMPTED",
                message="the scheduler gave its place to a pod of higher priority (default-scheduler: preempting)",
            ),
        ),
        (
            a_job(FAILED),
            a_pod("Failed", (TAKEN, "TerminationByKubelet", "low on resource: memory"), pod_reason="Evicted"),
            Exit(
                cause=Cause.DISRUPTED,
                reason="EVICTED",
                message="its node ran out of a resource or was shut down (low on resource: memory)",
            ),
        ),
        (
            a_job(FAILED),
            a_pod("Failed", terminated=ended(137), pod_reason="Evicted", pod_message="exceeded its local storage"),
            Exit(
                cause=Cause.SIGNALLED,
                signal=9,
                reason="OVER_LIMIT",
                message="it was evicted: exceeded its local storage",
            ),
        ),
        (
            a_job(FAILED),
            a_pod("Failed", terminated=ended(128, "StartError", 'exec: "x": not found')),
            Exit(
                cause=Cause.NOT_STARTED,
                reason="PROGRAM_NOT_FOUND",
                message='it could not be started: exec: "x": not found',
            ),
        ),
        (
            a_job(FAILED),
            a_pod("Failed", pod_reason="UnexpectedAdmissionError", pod_message="no healthy devices present"),
            Exit(
                cause=Cause.NOT_STARTED,
                reason="NODE_REFUSED",
                message="the node refused it: no healthy devices present",
            ),
        ),
        (
            a_job(
                ("Failed", "PodFailurePolicy", "Container run for pod a/b failed with exit code 71 matching FailJob")
            ),
            None,
            Exit(cause=Cause.FAILED, code=71),
        ),
        (
            a_job(("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")),
            a_pod("Failed", terminated=ended(75)),
            Exit(cause=Cause.OVERDUE, reason="DEADLINE", message="it ran for longer than its profile allows"),
        ),
        (
            a_job(("Failed", "DeadlineExceeded", ""), **{STOPPED: "2026-11-25T00:00:00Z"}),
            a_pod("Failed", terminated=ended(75)),
            Exit(cause=Cause.FAILED, code=75),
        ),
        (
            a_job(("Failed", "DeadlineExceeded", ""), **{STOPPED: "2026-11-25T00:00:00Z"}),
            None,
            Exit(cause=Cause.SIGNALLED, signal=signal.SIGTERM, reason="STOPPED"),
        ),
        (
            a_job(("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")),
            None,
            Exit(
                cause=Cause.LOST,
                reason="POD_GONE",
                message="its pod is gone and left no exit code: Job has reached the specified backoff limit",
            ),
        ),
    ],
)
def test_how_a_program_ended(job: Object, pod: Object | None, expected: Exit) -> None:
    assert reasons.conclude(job, pod) == expected


def test_an_end_that_was_written_down_is_read_back() -> None:
    job = a_job(**{EXIT: '{"cause":"NOT_STARTED","reason":"IMAGE_PULL","message":"no","peak_rss":0}'})
    assert reasons.remembered(job) == Exit(cause=Cause.NOT_STARTED, reason="IMAGE_PULL", message="no")
    assert reasons.remembered(a_job()) is None


def event(message: str) -> Object:
    return {"reason": "FailedCreate", "message": message}


@pytest.mark.parametrize(
    ("job", "pod", "events", "expected"),
    [
        (a_job(), a_pod(running={}), [], None),
        (a_job(), None, [], ("CREATING", "")),
        (a_job(suspend=True), None, [], ("QUEUED", "waits to be admitted by queue 'team-a'")),
        (a_job(), None, [event('pods "x" is forbidden: violates PodSecurity')], ("ADMISSION_REFUSED", "PodSecurity")),
        (a_job(), None, [event('admission webhook "w" denied the request: no')], ("ADMISSION_REFUSED", "webhook")),
        (a_job(), None, [event('pods "x" is forbidden: exceeded quota: gpus')], ("QUOTA_EXCEEDED", "gpus")),
        (a_job(), None, [event('failed calling webhook "w": connection refused')], ("CREATE_FAILED", "refused")),
        (a_job(), None, [event('pods "x" is forbidden: status unknown for quota: q')], ("CREATE_FAILED", "unknown")),
        (a_job(), None, [event("exceeded quota"), event("denied the request")], ("ADMISSION_REFUSED", "denied")),
        (a_job(), a_pod("Pending", waiting={"reason": "ContainerCreating"}), [], ("STARTING", "")),
        (a_job(), a_pod("Pending", waiting={"reason": "ErrImagePull", "message": "404"}), [], ("IMAGE_PULL", "404")),
        (a_job(), a_pod("Pending", waiting={"reason": "ImagePullBackOff"}), [], ("IMAGE_PULL", "ImagePullBackOff")),
        (
            a_job(),
            a_pod("Pending", waiting={"reason": "InvalidImageName"}),
            [],
            ("IMAGE_NAME_INVALID", "no valid name"),
        ),
        (
            a_job(),
            a_pod("Pending", waiting={"reason": "CreateContainerConfigError", "message": 'secret "s" not found'}),
            [],
            ("CONTAINER_CONFIG", 'secret "s" not found'),
        ),
    ],
)
def test_what_a_program_waits_for(
    job: Object, pod: Object | None, events: list[Object], expected: tuple[str, str] | None
) -> None:
    waits = reasons.waiting(job, [pod] if pod else [], events)
    if expected is None:
        assert waits is None
    else:
        assert waits is not None
        assert waits.reason == expected[0]
        assert expected[1] in waits.message
        assert bool(expected[1]) == bool(waits.message)


def test_the_schedulers_words_are_passed_on() -> None:
    pod = a_pod("Pending")
    said = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    pod["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}
    ]
    assert reasons.waiting(a_job(), [pod], []) == Waiting(reason="UNSCHEDULABLE", message=f"no node for it: {said}")


def test_a_pod_and_its_job_are_waited_for_in_turn() -> None:
    case, pod = Case(), a_pod("Failed", terminated=ended(75))
    assert case.verdict(a_job(), [pod], 100.0) is None
    assert case.verdict(a_job(), [pod], 109.0) is None
    assert case.verdict(a_job(), [pod], 111.0) == Exit(cause=Cause.FAILED, code=75)
    late = Case()
    assert late.verdict(a_job(("Complete", "", "")), [], 100.0) is None
    assert late.verdict(a_job(("Complete", "", "")), [], 102.0) == Exit(cause=Cause.DONE, code=0)
    assert Case().verdict(a_job(FAILED), [pod], 100.0) == Exit(cause=Cause.FAILED, code=75)


@pytest.mark.parametrize("job", [a_job(suspend=True), a_job(FAILED, suspend=True)])
def test_a_job_that_was_suspended_while_it_ran_is_over(job: Object) -> None:
    """Whether the cluster counts the pod that it ended as a failure or not."""
    case = Case()
    assert case.verdict(a_job(suspend=True), [], 0.0) is None
    assert case.verdict(a_job(), [a_pod(running={})], 10.0) is None
    over = [a_pod("Failed", terminated=ended(75))] if reasons.final(job) else []
    verdict = case.verdict(job, over, 20.0)
    assert verdict is not None
    assert (verdict.cause, verdict.reason) == (Cause.DISRUPTED, "SUSPENDED")


def test_a_program_that_was_done_when_it_was_suspended_is_done() -> None:
    case, pod = Case(), a_pod("Succeeded", terminated=ended(0, "Completed"))
    assert case.verdict(a_job(suspend=True), [pod], 0.0) == Exit(cause=Cause.DONE, code=0)


def test_a_pod_that_never_ends_is_on_a_node_that_is_gone() -> None:
    case = Case()
    pod = a_pod(running={}, meta={"deletionTimestamp": "x", "deletionGracePeriodSeconds": 60})
    assert case.verdict(a_job(), [pod], 1000.0) is None
    assert case.verdict(a_job(), [pod], 1089.0) is None
    verdict = case.verdict(a_job(), [pod], 1091.0)
    assert verdict is not None
    assert (verdict.cause, verdict.reason) == (Cause.LOST, "NODE_LOST")


def test_patience_is_the_profiles_and_begins_anew_with_each_reason() -> None:
    case, profile = Case(), Profile(imageSeconds=10, pendingSeconds=100)
    image, place = Waiting(reason="IMAGE_PULL"), Waiting(reason="UNSCHEDULABLE")
    assert not case.impatient(place, profile, 0)
    assert not case.impatient(place, profile, 99)
    assert not case.impatient(image, profile, 101)
    assert not case.impatient(image, profile, 110)
    assert case.impatient(image, profile, 111)
    assert not case.impatient(None, profile, 500)
    assert not case.impatient(place, profile, 501)
    assert case.impatient(place, profile, 601)
    assert case.impatient(Waiting(reason="ADMISSION_REFUSED"), profile, 602)
    assert not case.impatient(Waiting(reason="QUEUED"), profile, 10**9)
