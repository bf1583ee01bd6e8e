"""Runs as Kubernetes Jobs, and everything that a cluster does to them: what is recorded, what is tried again."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from marsam.api.trainer.v1 import trainer_pb2
from marsam.rpc.wire import error_of
from tests.fakes.kubernetes.cluster import ROLE, FakeCluster, forbid
from tests.fakes.kubernetes.conditions import holds
from tests.fakes.kubernetes.server import Handler, fail, hang_up, swallow
from tests.integration.trainer.cluster import JobService
from tests.integration.trainer.harness import PARENT, state

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

HOLDS = {"hold": "3"}
"""A run that does nothing more from its third step on, in whichever attempt, until it is told to `go`."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def jobs(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[JobService]:
    """One trainer and one cluster for the whole module; tests repair what they break."""
    folder = tmp_path_factory.mktemp("jobs")
    with FakeCluster(folder / "cluster") as cluster:
        service = JobService(folder, cluster, max_attempts=2)
        await service.furnish()
        async with service:
            yield service


async def until(condition: Callable[[], object], deadline_s: float = 30) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():  # what is waited for happens in other processes
            await asyncio.sleep(0.05)


async def running(jobs: JobService, **how: Any) -> Any:
    """A run that is known to run and has taken three steps, one checkpoint behind it; there it holds."""
    run = await jobs.create(labels=HOLDS, **{"steps": 15, **how})
    async with asyncio.timeout(60):
        while (found := await jobs.get(run.name)).progress.step < 3 or state(found) != "RUNNING":
            assert state(found) not in ("SUCCEEDED", "FAILED"), found
            await asyncio.sleep(0.05)
    return run


def reasons(run: Any) -> list[str]:
    return [entry.reason for entry in run.history if entry.reason]


def plans(jobs: JobService) -> list[Any]:
    """The Jobs that make plans."""
    return [job for job in jobs.cluster.jobs if "plans" in job["metadata"]["name"]]


async def ended(jobs: JobService, name: str) -> Any:
    return await jobs.until(name, "SUCCEEDED", "FAILED", "CANCELLED", timeout_s=90)


async def test_a_run_is_a_job_and_publishes_its_model(jobs: JobService) -> None:
    run = await running(jobs, output_model_id="first")
    job = jobs.job(run.name)
    spec = job["spec"]
    assert job["metadata"]["labels"] == {
        "app.kubernetes.io/name": "marsam",
        "app.kubernetes.io/instance": "marsam",
        "app.kubernetes.io/component": "run",
        "app.kubernetes.io/managed-by": "marsam-trainer",
        "marsam.dev/run": run.name.split("/")[-1],
        "marsam.dev/attempt": "1",
        "marsam.dev/project": "default",
        "marsam.dev/trainer": "marsam",
    }
    assert (spec["completionMode"], spec["backoffLimit"]) == ("Indexed", 0)
    jobs.go(run.name)
    done = await ended(jobs, run.name)
    assert (state(done), done.attempt, done.model) == ("SUCCEEDED", 1, "projects/default/models/first")
    assert "Job marsam/" in next(e.message for e in done.history if e.message)
    await until(lambda: not [j for j in jobs.cluster.jobs if j["metadata"]["name"] == job["metadata"]["name"]])


async def test_a_preempted_run_goes_on_and_is_not_charged(jobs: JobService) -> None:
    run = await running(jobs)
    for attempt in (1, 2, 3):  # more often than it may fail
        await jobs.until(run.name, "RUNNING", attempt=attempt)
        pod = jobs.pod(run.name)
        jobs.cluster.disrupt(pod, "PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher one")
        await jobs.until(run.name, "STARTING", "RUNNING", attempt=attempt + 1)
    jobs.go(run.name)
    done = await ended(jobs, run.name)
    assert (state(done), done.attempt) == ("SUCCEEDED", 4)
    told = [entry for entry in done.history if entry.reason == "RETRY"]
    assert all("gave its place to a pod of higher priority" in entry.message for entry in told)


async def test_a_drained_node_is_no_fault(jobs: JobService) -> None:
    run = await running(jobs)
    jobs.cluster.disrupt(jobs.pod(run.name), "EvictionByEvictionAPI", "Eviction API: evicting")
    jobs.go(run.name)
    done = await ended(jobs, run.name)
    assert (state(done), done.attempt) == ("SUCCEEDED", 2)
    assert "node was drained" in next(e.message for e in done.history if e.reason == "RETRY")


async def test_memory_that_ran_out_is_said_and_not_tried_again(jobs: JobService) -> None:
    run = await jobs.create(profile="tight", labels={"eats": "250", **HOLDS})
    done = await ended(jobs, run.name)
    assert (state(done), done.attempt, done.reason) == ("FAILED", 1, "OUT_OF_MEMORY")
    assert "memory ran out" in done.message
    assert "batch_size" in done.message


async def test_an_eviction_for_its_own_use_of_storage_counts(jobs: JobService) -> None:
    run = await running(jobs)
    for attempt in (1, 2):
        await jobs.until(run.name, "RUNNING", attempt=attempt)
        jobs.cluster.nodes[0].evict(jobs.pod(run.name), "Pod ephemeral local storage usage exceeds the total limit")
        if attempt == 1:
            await jobs.until(run.name, "STARTING", "RUNNING", attempt=2)
    done = await ended(jobs, run.name)
    assert (state(done), done.attempt, done.reason) == ("FAILED", 2, "OVER_LIMIT")
    assert "ephemeral local storage" in done.message


async def test_an_image_that_cannot_be_had_is_given_up(jobs: JobService) -> None:
    jobs.cluster.nodes[0].unpullable.add("marsam/run:gone")
    run = await jobs.create(profile="broken-image")
    done = await ended(jobs, run.name)
    assert (state(done), done.attempt, done.reason) == ("FAILED", 2, "IMAGE_PULL")
    assert "marsam/run:gone" in done.message
    assert reasons(done).count("IMAGE_PULL") == 3  # told while it waited, in both attempts, and at the end


async def test_a_run_without_a_node_says_why_and_starts_when_there_is_one(jobs: JobService) -> None:
    run = await jobs.create(profile="gpu-24g")
    async with asyncio.timeout(30):
        while (waiting := await jobs.get(run.name)).reason != "UNSCHEDULABLE":
            await asyncio.sleep(0.05)
    assert state(waiting) == "STARTING"
    assert "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector" in waiting.message
    node = jobs.cluster.add_node("gpu-1", gpus={"nvidia.com/gpu": 1}, labels={"pool": "small"})
    second = await jobs.create(profile="gpu-24g")
    done = [await ended(jobs, r.name) for r in (run, second)]
    assert [(state(d), d.attempt) for d in done] == [("SUCCEEDED", 1)] * 2
    jobs.cluster.lose(node)
    jobs.cluster.collect(node)


async def test_one_gpu_runs_one_run(jobs: JobService) -> None:
    node = jobs.cluster.add_node("mig-1", gpus={"nvidia.com/mig-1g.12gb": 1})
    first = await running(jobs, profile="mig")
    second = await jobs.create(profile="mig")
    async with asyncio.timeout(30):
        while "Insufficient nvidia.com/mig-1g.12gb" not in (await jobs.get(second.name)).message:
            await asyncio.sleep(0.05)
    jobs.go(first.name)
    assert [state(await ended(jobs, r.name)) for r in (first, second)] == ["SUCCEEDED"] * 2
    jobs.cluster.lose(node)
    jobs.cluster.collect(node)


async def test_no_node_for_too_long_is_given_up(jobs: JobService) -> None:
    run = await jobs.create(profile="never")
    done = await ended(jobs, run.name)
    assert (state(done), done.reason) == ("FAILED", "UNSCHEDULABLE")
    assert "choose another profile" in done.message


async def test_a_lost_node_costs_an_attempt_and_nothing_else(jobs: JobService) -> None:
    doomed = jobs.cluster.add_node("gpu-2", gpus={"nvidia.com/gpu": 1}, labels={"pool": "small"})
    run = await running(jobs, profile="gpu-24g")
    jobs.cluster.lose(doomed)
    spare = jobs.cluster.add_node("gpu-3", gpus={"nvidia.com/gpu": 1}, labels={"pool": "small"})
    jobs.cluster.collect(doomed)
    jobs.go(run.name)
    done = await ended(jobs, run.name)
    assert (state(done), done.attempt) == ("SUCCEEDED", 2)
    retry = next(e for e in done.history if e.reason == "RETRY")
    assert "its node is gone" in retry.message
    jobs.cluster.lose(spare)
    jobs.cluster.collect(spare)


async def test_a_refused_pod_leaves_no_pod_and_is_said(jobs: JobService) -> None:
    with jobs.cluster.refusing('violates PodSecurity "restricted:latest": unrestricted capabilities'):
        run = await jobs.create()
        done = await ended(jobs, run.name)
    assert (state(done), done.attempt, done.reason) == ("FAILED", 1, "ADMISSION_REFUSED")
    assert 'violates PodSecurity "restricted:latest"' in done.message


async def test_quota_is_waited_for(jobs: JobService) -> None:
    said = "exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=4"
    with jobs.cluster.refusing(said):
        run = await jobs.create()
        async with asyncio.timeout(30):
            while (await jobs.get(run.name)).reason != "QUOTA_EXCEEDED":
                await asyncio.sleep(0.05)
    done = await ended(jobs, run.name)
    assert (state(done), done.attempt) == ("SUCCEEDED", 1)


async def test_quota_of_jobs_is_said_with_its_remedy(jobs: JobService) -> None:
    jobs.cluster.server.quota = forbid("exceeded quota: jobs, requested: count/jobs.batch=1, used: 3, limited: 3")
    try:
        run = await jobs.create()
        done = await ended(jobs, run.name)
    finally:
        jobs.cluster.server.quota = lambda job: None
    assert (state(done), done.reason) == ("FAILED", "QUOTA_EXCEEDED")
    assert "raise the quota" in done.message


async def test_a_job_that_the_server_refuses_is_said_with_what_to_correct(jobs: JobService) -> None:
    refusal = fail(422, "Invalid", 'Job.batch "x" is invalid: spec.template.spec.priorityClassName: no such class')
    jobs.cluster.server.trouble("POST", "/jobs", refusal)
    done = await ended(jobs, (await jobs.create()).name)
    assert (state(done), done.reason) == ("FAILED", "JOB_INVALID")
    assert "no such class" in done.message
    assert "MARSAM_KUBERNETES_FILE" in done.message


async def test_a_policy_that_refuses_the_job_is_said_in_its_words(jobs: JobService) -> None:
    refusal = fail(403, "Forbidden", 'admission webhook "policy.example" denied the request: images need a digest')
    jobs.cluster.server.trouble("POST", "/jobs", refusal)
    done = await ended(jobs, (await jobs.create()).name)
    assert (state(done), done.attempt, done.reason) == ("FAILED", 1, "ADMISSION_REFUSED")
    assert "images need a digest" in done.message
    assert "policies must allow" in done.message


async def test_a_token_that_is_being_rotated_costs_a_run_nothing(jobs: JobService) -> None:
    jobs.cluster.server.trouble("POST", "/jobs", fail(401, "Unauthorized", "Unauthorized"), times=2)
    done = await ended(jobs, (await jobs.create()).name)
    assert (state(done), done.attempt) == ("SUCCEEDED", 1)


async def test_an_api_server_that_is_away_costs_a_run_nothing(jobs: JobService) -> None:
    run = await running(jobs)
    end = time.monotonic() + 3

    def away(handler: Handler) -> bool:
        nodes = "urllib" in handler.headers["User-Agent"]  # have a way of their own
        return time.monotonic() < end and not nodes and hang_up(handler)

    for method in ("GET", "PATCH", "POST", "DELETE"):
        jobs.cluster.server.trouble(method, "/namespaces/", away, times=10_000)
    jobs.go(run.name)  # it ends while nobody can be told
    other = await jobs.create()
    done = [await ended(jobs, r.name) for r in (run, other)]
    jobs.cluster.server.calm()
    assert [(state(d), d.attempt) for d in done] == [("SUCCEEDED", 1)] * 2


async def test_a_queue_admits_a_run_and_takes_its_place_again(jobs: JobService) -> None:
    run = await jobs.create(profile="queued", labels=HOLDS, steps=20)
    async with asyncio.timeout(30):
        while (await jobs.get(run.name)).reason != "QUEUED":
            await asyncio.sleep(0.05)
    job = jobs.job(run.name)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    await until(lambda: holds(jobs.job(run.name), "Suspended"))
    suspend(jobs, run.name, False)
    await jobs.until(run.name, "RUNNING")
    suspend(jobs, run.name, True)
    waiting = await jobs.until(run.name, "STARTING", attempt=2)
    assert "suspended it to make room" in next(e.message for e in waiting.history if e.reason == "RETRY")
    await until(lambda: jobs.attempts(run.name) == ["2"])  # between two attempts there is no Job at all
    jobs.go(run.name)
    suspend(jobs, run.name, False)
    done = await ended(jobs, run.name)
    assert (state(done), done.attempt) == ("SUCCEEDED", 2)


def suspend(jobs: JobService, run: str, value: bool) -> None:
    jobs.cluster.objects.update("jobs", jobs.job(run)["metadata"]["name"], lambda j: j["spec"].update(suspend=value))


async def test_a_deadline_ends_a_run_for_good(jobs: JobService) -> None:
    run = await jobs.create(profile="short", labels=HOLDS)
    done = await ended(jobs, run.name)
    assert (state(done), done.attempt, done.reason) == ("FAILED", 1, "DEADLINE")


async def test_cancel_stops_the_job(jobs: JobService) -> None:
    run = await running(jobs)
    await jobs.trainer.CancelRun(trainer_pb2.CancelRunRequest(name=run.name))
    done = await ended(jobs, run.name)
    assert state(done) == "CANCELLED"
    checkpoints = await jobs.trainer.ListCheckpoints(trainer_pb2.ListCheckpointsRequest(name=run.name))
    assert checkpoints.checkpoints[-1].step >= 3  # it saved where it was
    await until(lambda: not jobs.pods(run.name))


async def test_an_unknown_profile_is_refused_with_the_nearest(jobs: JobService) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await jobs.create(profile="gpu-42g")
    error = error_of(caught.value)
    assert (error.reason, error.field) == ("UNKNOWN_PROFILE", "spec.profile")
    assert "gpu-24g" in error.remedy
    listed = await jobs.trainer.ListCapabilities(trainer_pb2.ListCapabilitiesRequest())
    assert [(p.name, p.is_default) for p in listed.profiles][:2] == [("broken-image", False), ("cpu", True)]


async def test_a_plan_is_made_where_the_run_would_be(jobs: JobService) -> None:
    """By a Job of the run's profile, which is gone afterwards; the same question is not asked twice. How captions are
    read is another question, and another Job."""
    asked = [len(jobs.cluster.server.seen)]
    request = trainer_pb2.ValidateRunRequest(parent=PARENT, spec=jobs.ordered(batch_size=7, steps=9, languages=["en"]))
    found = await jobs.trainer.ValidateRun(request, timeout=60)
    assert [reading.language for reading in found.readings] == ["en"]
    assert (found.plan.total_bytes, found.plan.seconds, list(found.faults)) == (7000, 18.0, [])
    assert [m for m, p, _ in jobs.cluster.server.seen[asked[0] :] if m == "POST" and p.endswith("/jobs")] == [
        "POST"
    ] * 2
    names = [job["metadata"]["name"] for job in jobs.cluster.jobs]
    assert not [name for name in names if "plans" in name or "probes" in name]
    asked = [len(jobs.cluster.server.seen)]
    again = await jobs.trainer.ValidateRun(request, timeout=60)
    assert (again.plan, again.readings) == (found.plan, found.readings)
    assert not [m for m, p, _ in jobs.cluster.server.seen[asked[0] :] if m == "POST" and p.endswith("/jobs")]
    request.spec.batch_size = 68
    short = await jobs.trainer.ValidateRun(request, timeout=60)
    assert [fault.reason for fault in short.faults] == ["MEMORY_SHORT"]


async def test_processes_on_nodes_of_their_own_share_no_memory(jobs: JobService) -> None:
    request = trainer_pb2.ValidateRunRequest(parent=PARENT, spec=jobs.ordered(batch_size=40, processes=2))
    found = await jobs.trainer.ValidateRun(request, timeout=60)
    assert (list(found.faults), found.plan.total_bytes) == ([], 40_000)


async def test_a_plan_whose_machine_cannot_be_had_stops_nobody(jobs: JobService) -> None:
    request = trainer_pb2.ValidateRunRequest(parent=PARENT, spec=jobs.ordered(profile="never"))
    found = await jobs.trainer.ValidateRun(request, timeout=60)
    assert list(found.faults) == []
    assert not found.HasField("plan")
    await until(lambda: not plans(jobs))


async def test_a_plan_whose_create_was_not_answered_is_made_all_the_same(jobs: JobService) -> None:
    jobs.cluster.server.trouble("POST", "/jobs", swallow)
    request = trainer_pb2.ValidateRunRequest(parent=PARENT, spec=jobs.ordered(batch_size=11, steps=9))
    found = await jobs.trainer.ValidateRun(request, timeout=60)
    assert found.plan.total_bytes == 11_000
    assert not plans(jobs)


async def test_a_plan_of_which_nothing_is_known_leaves_no_job(jobs: JobService) -> None:
    """Its create is not answered, and then the API is away: what may be there is looked for until it is gone."""
    jobs.cluster.server.trouble("POST", "/jobs", swallow)
    jobs.cluster.server.trouble("GET", "/jobs/.*plans", hang_up, times=3)
    request = trainer_pb2.ValidateRunRequest(parent=PARENT, spec=jobs.ordered(batch_size=13, profile="queued"))
    made = jobs.trainer.ValidateRun(request, timeout=60)
    await until(lambda: plans(jobs))
    (job,) = plans(jobs)
    assert (job["spec"]["activeDeadlineSeconds"], job["spec"]["ttlSecondsAfterFinished"]) == (180, 600)
    found = await made
    assert not found.HasField("plan")
    assert not plans(jobs)


async def test_a_failing_program_says_its_last_words(jobs: JobService) -> None:
    run = await jobs.create(labels={"fail-until": "9", "how": "70", "words": "ImportError: no such library"})
    done = await ended(jobs, run.name)
    assert (state(done), done.attempt, done.reason) == ("FAILED", 2, "INTERNAL")
    assert "ImportError: no such library" in done.message


async def test_history_that_was_forgotten_does_not_hurt(jobs: JobService) -> None:
    run = await running(jobs)
    jobs.cluster.objects.expire()  # as after a restart of the API server: every watch is too old
    jobs.go(run.name)
    done = await ended(jobs, run.name)
    assert (state(done), done.attempt) == ("SUCCEEDED", 1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_run_outlives_its_trainer_and_is_adopted(jobs: JobService, number: signal.Signals) -> None:
    run = await running(jobs)
    pod = jobs.pod(run.name)
    await jobs.stop(number)
    await jobs.start()
    assert jobs.pod(run.name) == pod
    jobs.go(run.name)
    done = await ended(jobs, run.name)
    assert (state(done), done.attempt) == ("SUCCEEDED", 1)


async def test_what_ended_while_nobody_looked_is_learned(jobs: JobService) -> None:
    run = await running(jobs)
    await jobs.stop(signal.SIGKILL)
    jobs.cluster.disrupt(jobs.pod(run.name), "TerminationByKubelet", "The node was low on resource: memory.")
    await until(lambda: not jobs.pods(run.name))  # what is left is the Job, and what it says
    jobs.go(run.name)
    await jobs.start()
    done = await ended(jobs, run.name)
    assert (state(done), done.attempt) == ("SUCCEEDED", 2)
    assert "has condition DisruptionTarget" in next(e.message for e in done.history if e.reason == "RETRY")


async def test_an_account_without_rights_is_said(tmp_path: Path) -> None:
    with FakeCluster(tmp_path / "cluster", role=ROLE[1:]) as cluster:
        service = JobService(tmp_path, cluster)
        await service.furnish()
        async with service:
            run = await service.create()
            done = await service.until(run.name, "FAILED")
    assert done.reason == "KUBERNETES_DENIED"
    assert 'cannot get resource "jobs"' in done.message
    assert "Role" in done.message


async def test_a_trainer_on_its_own_machine_has_no_profiles(shared: Any) -> None:
    validated = await shared.trainer.ValidateRun(
        trainer_pb2.ValidateRunRequest(parent=PARENT, spec=shared.ordered(profile="gpu"))
    )
    assert [fault.reason for fault in validated.faults] == ["UNKNOWN_PROFILE"]
    assert "leave it empty" in validated.faults[0].remedy
