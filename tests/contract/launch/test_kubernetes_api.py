"""What a Kubernetes API answers to the calls that Marsam makes: of the fake one, and with `make test-cluster` of a real
one. Where the two differ, the fake is wrong.
"""

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from marsam.core.errors import Exists, Invalid
from marsam.launch.kubernetes import manifest
from marsam.launch.kubernetes.cluster import Object
from tests.contract.launch.places import REAL, JobPlace

pytestmark = pytest.mark.slow

LONG = "import time; time.sleep(600)"
PATIENCE_S = 120 if REAL else 20


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[JobPlace]:
    place = JobPlace(tmp_path, local=not REAL, token="admin")
    try:
        yield place
    finally:
        await place.close()


def a_job(place: JobPlace, code: str = LONG, *, key: str = "a", **spec: Any) -> Object:
    job = manifest.job(place.file, place.program(code), key=key)
    job["spec"].update(spec)
    return job


def status_of(caught: pytest.ExceptionInfo[ApiException]) -> tuple[int, str]:
    return caught.value.status, str(caught.value.body)


async def until(look: Callable[[], Any]) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await asyncio.to_thread(look)):
            await asyncio.sleep(0.05)
        return found


def condition(job: Object, kind: str) -> Object:
    found = [c for c in job.get("status", {}).get("conditions", ()) if c["type"] == kind and c["status"] == "True"]
    return found[0] if found else {}


def pods(place: JobPlace, job: Object) -> list[Object]:
    return place.pods(job["metadata"]["name"])


async def test_a_name_is_taken_once(cluster: JobPlace) -> None:
    job = a_job(cluster)
    made = cluster.cluster.create_job(job)
    assert made["metadata"]["uid"]
    with pytest.raises(Exists) as caught:
        cluster.cluster.create_job(job)
    assert "already exists" in caught.value.message


async def test_a_name_may_be_left_to_the_server(cluster: JobPlace) -> None:
    job = a_job(cluster)
    del job["metadata"]["name"]
    job["metadata"]["generateName"] = "marsam-x-"
    name = cluster.cluster.create_job(job)["metadata"]["name"]
    assert len(name) == len("marsam-x-") + 5
    cluster.cluster.delete_job(name)


@pytest.mark.parametrize("name", ["Not-A-Name", "x" * 64, "under_score"])
async def test_a_name_that_cannot_be_is_refused(cluster: JobPlace, name: str) -> None:
    job = a_job(cluster)
    job["metadata"]["name"] = name
    with pytest.raises(Invalid) as caught:
        cluster.cluster.create_job(job)
    assert name in caught.value.message


@pytest.mark.parametrize("path", ["spec", "spec.template.spec", "spec.template.spec.containers"])
async def test_a_field_that_nobody_knows_is_refused(cluster: JobPlace, path: str) -> None:
    job = a_job(cluster)
    place: Any = job
    for part in path.split("."):
        place = place[part]
    (place[0] if isinstance(place, list) else place)["resourcez"] = {}
    with pytest.raises(Invalid) as caught:
        cluster.cluster.create_job(job)
    assert "strict decoding error: unknown field" in caught.value.message
    assert "resourcez" in caught.value.message


async def test_an_old_version_cannot_be_put(cluster: JobPlace) -> None:
    made = cluster.cluster.create_job(a_job(cluster))
    cluster.cluster.patch_job(made["metadata"]["name"], {"metadata": {"annotations": {"x": "y"}}})
    api = client.CustomObjectsApi(cluster.cluster.api)
    with pytest.raises(ApiException) as caught:
        api.replace_namespaced_custom_object(
            "batch", "v1", cluster.cluster.namespace, "jobs", made["metadata"]["name"], made
        )
    assert status_of(caught)[0] == 409
    assert "object has been modified" in status_of(caught)[1]


async def test_what_may_change_and_what_may_not(cluster: JobPlace) -> None:
    name = cluster.cluster.create_job(a_job(cluster))["metadata"]["name"]
    template = cluster.cluster.get_job(name)
    assert template is not None
    spec = copy.deepcopy(template["spec"]["template"]["spec"])
    spec["containers"][0]["image"] = "another"
    with pytest.raises(Invalid) as caught:
        cluster.cluster.patch_job(name, {"spec": {"template": {"spec": {"containers": spec["containers"]}}}})
    assert "field is immutable" in caught.value.message
    assert cluster.cluster.patch_job(name, {"spec": {"suspend": True}})["spec"]["suspend"] is True
    assert cluster.cluster.patch_job(name, {"spec": {"activeDeadlineSeconds": 1}})["spec"]["activeDeadlineSeconds"] == 1


async def test_a_suspended_job_may_get_another_place_but_no_other_image(cluster: JobPlace) -> None:
    name = cluster.cluster.create_job(a_job(cluster, suspend=True))["metadata"]["name"]
    change = {"spec": {"template": {"spec": {"nodeSelector": {"pool": "b"}}}}}
    assert cluster.cluster.patch_job(name, change)["spec"]["template"]["spec"]["nodeSelector"] == {"pool": "b"}
    job = cluster.cluster.get_job(name)
    assert job is not None
    containers = job["spec"]["template"]["spec"]["containers"]
    containers[0]["image"] = "another"
    with pytest.raises(Invalid):
        cluster.cluster.patch_job(name, {"spec": {"template": {"spec": {"containers": containers}}}})


async def test_suspending_ends_the_pods_and_is_no_failure(cluster: JobPlace) -> None:
    job = cluster.cluster.create_job(a_job(cluster))
    name = job["metadata"]["name"]
    await until(lambda: pods(cluster, job))
    cluster.cluster.patch_job(name, {"spec": {"suspend": True}})
    await until(lambda: condition(cluster.cluster.get_job(name) or {}, "Suspended"))
    await until(lambda: not pods(cluster, job))
    found = cluster.cluster.get_job(name)
    assert found is not None
    assert not condition(found, "Failed")
    assert not found["status"].get("active")
    cluster.cluster.patch_job(name, {"spec": {"suspend": False}})
    assert await until(lambda: pods(cluster, job))


async def test_labels_select(cluster: JobPlace) -> None:
    for key, team in (("a", "art"), ("b", "ops")):
        job = a_job(cluster, key=key, suspend=True)
        job["metadata"]["labels"]["team"] = team
        cluster.cluster.create_job(job)
    mine = manifest.selector(cluster.file)
    assert len(cluster.cluster.snapshot("jobs", mine)[0]) == 2
    (found,), _ = cluster.cluster.snapshot("jobs", f"{mine},team=art")
    assert found["metadata"]["annotations"][manifest.KEY] == "a"
    assert cluster.cluster.snapshot("jobs", f"{mine},team=none")[0] == []


@pytest.mark.slow
async def test_a_watch_tells_changes_and_ends_when_it_was_asked_to(cluster: JobPlace) -> None:
    mine = manifest.selector(cluster.file)
    _, version = cluster.cluster.snapshot("jobs", mine)
    job = cluster.cluster.create_job(a_job(cluster, suspend=True))
    cluster.cluster.patch_job(job["metadata"]["name"], {"metadata": {"annotations": {"x": "y"}}})
    cluster.cluster.delete_job(job["metadata"]["name"])
    began = time.monotonic()
    events = await asyncio.to_thread(lambda: list(cluster.cluster.watch("jobs", mine, version, seconds=2)))
    assert time.monotonic() - began >= 1
    kinds = [event["type"] for event in events if event["type"] != "BOOKMARK"]
    assert (kinds[0], kinds[-1]) == ("ADDED", "DELETED")
    assert "MODIFIED" in kinds
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(versions)
    assert versions[0] > int(version)


async def test_deleting_in_the_background(cluster: JobPlace) -> None:
    job = cluster.cluster.create_job(a_job(cluster))
    await until(lambda: pods(cluster, job))
    cluster.cluster.delete_job(job["metadata"]["name"])
    assert cluster.cluster.get_job(job["metadata"]["name"]) is None
    cluster.cluster.delete_job(job["metadata"]["name"])
    await until(lambda: not pods(cluster, job))


async def test_an_exit_code_fails_the_job_by_its_rule(cluster: JobPlace) -> None:
    name = cluster.cluster.create_job(a_job(cluster, "raise SystemExit(64)"))["metadata"]["name"]
    failed = await until(lambda: condition(cluster.cluster.get_job(name) or {}, "Failed"))
    job = cluster.cluster.get_job(name)
    assert job is not None
    (pod,) = pods(cluster, job)
    assert failed["reason"] == condition(job, "FailureTarget")["reason"] == "PodFailurePolicy"
    where = f"{cluster.cluster.namespace}/{pod['metadata']['name']}"
    said = f"Container run for pod {where} failed with exit code 64 matching FailJob rule at index {manifest.EXIT_RULE}"
    assert failed["message"] == said


async def test_a_pod_knows_its_index_and_its_name(cluster: JobPlace) -> None:
    code = "import os; print(os.environ['JOB_COMPLETION_INDEX'])"
    job = cluster.cluster.create_job(a_job(cluster, code))
    await until(lambda: condition(cluster.cluster.get_job(job["metadata"]["name"]) or {}, "Complete"))
    (pod,) = pods(cluster, job)
    assert pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == "0"
    assert pod["spec"]["hostname"] == f"{job['metadata']['name']}-0"
    assert cluster.cluster.log(pod["metadata"]["name"], manifest.CONTAINER) == b"0\n"


async def test_a_deadline_that_has_passed_ends_the_job_and_keeps_it(cluster: JobPlace) -> None:
    job = cluster.cluster.create_job(a_job(cluster))
    name = job["metadata"]["name"]
    await until(lambda: pods(cluster, job))
    cluster.cluster.patch_job(name, {"spec": {"activeDeadlineSeconds": 1}})
    failed = await until(lambda: condition(cluster.cluster.get_job(name) or {}, "Failed"))
    assert failed["reason"] == "DeadlineExceeded"


async def test_a_pod_that_fits_nowhere_says_so(cluster: JobPlace) -> None:
    job = a_job(cluster)
    job["spec"]["template"]["spec"]["nodeSelector"] = {"marsam.dev/no-such-pool": "x"}
    made = cluster.cluster.create_job(job)

    def said() -> str:
        return "".join(c.get("message", "") for p in pods(cluster, made) for c in p["status"].get("conditions", ()))

    assert "didn't match Pod's node affinity/selector" in await until(said)


async def test_events_are_found_by_the_object_they_are_about(cluster: JobPlace) -> None:
    job = cluster.cluster.create_job(a_job(cluster, suspend=True))
    other = cluster.cluster.create_job(a_job(cluster, key="b", suspend=True))
    for about, reason in ((job, "One"), (other, "Two")):
        meta = about["metadata"]
        body = {
            "metadata": {"generateName": "marsam-test-", "namespace": cluster.cluster.namespace},
            "involvedObject": {"kind": "Job", "name": meta["name"], "uid": meta["uid"], "apiVersion": "batch/v1",
                               "namespace": cluster.cluster.namespace},
            "reason": reason, "message": "x", "type": "Warning",
        }  # fmt: skip
        client.CoreV1Api(cluster.cluster.api).create_namespaced_event(
            cluster.cluster.namespace, body, _preload_content=False
        )
    reasons = {event["reason"] for event in cluster.cluster.events(job["metadata"]["uid"])}
    assert "One" in reasons
    assert "Two" not in reasons


async def test_a_pod_that_is_not_restricted_is_never_made_and_only_an_event_says_so(cluster: JobPlace) -> None:
    """In a namespace that enforces `restricted`, as the fake one's does."""
    job = a_job(cluster)
    del job["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    made = cluster.cluster.create_job(job)

    def told() -> list[str]:
        return [e["message"] for e in cluster.cluster.events(made["metadata"]["uid"]) if e["reason"] == "FailedCreate"]

    (said, *_) = await until(told)
    assert 'violates PodSecurity "restricted:latest"' in said
    assert "unrestricted capabilities" in said
    assert pods(cluster, made) == []
