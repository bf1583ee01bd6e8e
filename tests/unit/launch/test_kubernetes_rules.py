"""What a Job, its pods and time say: every way that a program may end or wait, from recorded answers of the API."""

import json
import signal
from typing import Any

import pytest

from marsam.launch.kubernetes import reasons
from marsam.launch.kubernetes.case import Case
from marsam.launch.kubernetes.manifest import EXIT, QUEUE, RANKS, STOPPED
from marsam.launch.kubernetes.profiles import Profile
from marsam.launch.launcher import ECHO, Cause, Exit, Waiting

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


def several(*conditions: tuple[str, str, str]) -> Object:
    """A Job of two nodes with a rank each."""
    job = a_job(*conditions, **{RANKS: "2"})
    job["spec"]["completions"] = 2
    return job


def node(number: int, pod: Object, *, at: str = "", deleted: bool = False) -> Object:
    """`pod` as that of the node `number`, its program ended `at` a time."""
    pod["metadata"] |= {"name": f"p{number}", "labels": {"batch.kubernetes.io/job-completion-index": str(number)}}
    pod["metadata"] |= {"deletionTimestamp": "x"} if deleted else {}
    pod["spec"] = {"nodeName": "ab"[number], "terminationGracePeriodSeconds": 60}
    for status in pod["status"].get("containerStatuses", ()):
        status["state"].get("terminated", {})["finishedAt"] = at
    return pod


def crew(number: int, status: int) -> Object:
    """The end of a node's crew, whose last line is its word."""
    word = {"signal": status - 128} if status > 128 else {"code": status}
    said = json.dumps({"event": "crew.failed", "rank": number, "ranks": 2, **word})
    return a_pod("Failed", terminated=ended(status, "Error", f"a line\n{said}"))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # The node where it happened, not the one that was ended or left because of it, whichever was over first.
        (
            node(0, crew(0, ECHO), at="1"),
            node(1, crew(1, 71), at="2"),
            Exit(cause=Cause.FAILED, code=71, message="rank 1 of 2 on node b ended with exit code 71"),
        ),
        (
            node(0, a_pod("Failed", terminated=ended(143)), at="1", deleted=True),
            node(1, crew(1, 137), at="2"),
            Exit(cause=Cause.SIGNALLED, signal=9, message="rank 1 of 2 on node b was ended by SIGKILL"),
        ),
        (
            node(0, crew(0, 74), at="2"),
            node(1, crew(1, 70), at="1"),
            Exit(cause=Cause.FAILED, code=70, message="rank 1 of 2 on node b ended with exit code 70"),
        ),
        (
            node(0, a_pod("Failed", terminated=ended(137, "OOMKilled")), at="2"),
            node(1, crew(1, 70), at="1"),
            Exit(
                cause=Cause.OUT_OF_MEMORY,
                signal=9,
                reason="OOM_KILLED",
                message="node 1 of 2, a: killed by the kernel because memory ran out",
            ),
        ),
        (
            node(0, crew(0, 75), at="1"),
            node(1, a_pod("Failed", (TAKEN, "EvictionByEvictionAPI", "Eviction API"), terminated=ended(75)), at="2"),
            Exit(
                cause=Cause.DISRUPTED,
                code=75,
                reason="DRAINED",
                message="node 2 of 2, b: its node was drained (Eviction API)",
            ),
        ),
        # Rank 0 publishes: with its end the work is done.
        (
            node(0, a_pod("Succeeded", terminated=ended(0, "Completed")), at="1"),
            node(1, crew(1, 70), at="2"),
            Exit(cause=Cause.DONE, code=0),
        ),
    ],
)
def test_of_several_nodes_the_one_where_it_happened_tells(first: Object, second: Object, expected: Exit) -> None:
    job = several(FAILED)
    for pods in ([first, second], [second, first]):
        assert reasons.conclude(job, reasons.ended_pod(job, pods)) == expected


def test_a_second_node_that_is_done_ends_nothing() -> None:
    done = node(1, a_pod("Succeeded", terminated=ended(0, "Completed")))
    assert reasons.ended_pod(several(), [done, node(0, a_pod(running={}))]) is None


def test_several_nodes_wait_for_the_one_that_waits_for_most() -> None:
    missing = node(1, a_pod("Pending"))
    said = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    missing["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "message": said}]
    pulling = node(0, a_pod("Pending", waiting={"reason": "ErrImagePull", "message": "404"}))
    here = node(0, a_pod(running={}))
    lacks_place = Waiting(reason="UNSCHEDULABLE", message=f"node 2 of 2: no node for it: {said}")
    assert reasons.waiting(several(), [here, missing], []) == lacks_place
    assert reasons.waiting(several(), [missing, pulling], []) == Waiting(
        reason="IMAGE_PULL", message="node 1 of 2: its image cannot be had: 404"
    )
    quota = [event('pods "x" is forbidden: exceeded quota: gpus')]
    waits = reasons.waiting(several(), [here], quota)
    assert waits is not None
    assert waits.reason == "QUOTA_EXCEEDED"
    assert reasons.waiting(several(), [here, node(1, a_pod(running={}))], []) is None


def test_a_failed_node_waits_for_the_others_end() -> None:
    """Two attempts must not run side by side: the others have their grace, and a lost node does not hold it up."""
    pods = [node(0, a_pod(running={}), deleted=True), node(1, crew(1, 70))]
    case = Case()
    assert case.verdict(several(), pods, 100.0) is None
    assert case.verdict(several(), pods, 189.0) is None
    verdict = case.verdict(several(), pods, 191.0)
    assert verdict is not None
    assert verdict.code == 70
    gone = [node(0, crew(0, ECHO), deleted=True), pods[1]]
    verdict = Case().verdict(several(FAILED), gone, 100.0)
    assert verdict is not None
    assert verdict.code == 70


def test_a_node_that_only_met_has_not_run() -> None:
    """Ranks begin when all are there; until then the others' waits are told."""
    case = Case()
    assert case.verdict(several(), [node(0, a_pod(running={}))], 0.0) is None
    assert (case.begun, case.ran) == (True, False)
    assert case.verdict(several(), [node(0, a_pod(running={})), node(1, a_pod(running={}))], 1.0) is None
    assert case.ran
