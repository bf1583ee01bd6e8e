"""A launcher and an API server that misbehaves: answers lost, watches broken, history forgotten, nothing heard."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from marsam.core.errors import Denied, Exhausted, Exists, Invalid, MarsamError, OutcomeUnknown, Unavailable
from marsam.launch.kubernetes import manifest
from marsam.launch.kubernetes.cluster import connect, stated
from marsam.launch.kubernetes.launcher import KubernetesLauncher
from marsam.launch.kubernetes.manifest import CONTAINER, job_name
from marsam.launch.kubernetes.profiles import Profile, SecretKey
from marsam.launch.launcher import Cause
from marsam.launch.process import read_tail
from tests.contract.launch.places import JobPlace, cluster_file
from tests.fakes.kubernetes.cluster import NAMESPACE, kubeconfig
from tests.fakes.kubernetes.server import Handler, fail, hang_up, swallow

pytestmark = pytest.mark.slow

WAIT = "import os,time\nwhile not os.path.exists('go'): time.sleep(0.02)\nraise SystemExit(3)"
JOBS, PODS = r"/jobs\?.*watch=", r"/pods\?.*watch=.*marsam|/pods\?.*marsam.*watch="


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[JobPlace]:
    made = JobPlace(tmp_path, local=True)
    try:
        yield made
    finally:
        await made.close()


async def opened(place: JobPlace, *, watch_s: int = 240, reconcile_s: float = 300.0) -> KubernetesLauncher:
    return await place.enter(KubernetesLauncher(place.cluster, place.file, watch_s=watch_s, reconcile_s=reconcile_s))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


def go(tmp_path: Path) -> None:
    (tmp_path / "go").touch()


async def finished(launcher: KubernetesLauncher, handle: object) -> int | None:
    return (await asyncio.wait_for(launcher.follow(handle), 20)).code  # type: ignore[arg-type]


async def test_a_create_whose_answer_was_lost_is_found_out(place: JobPlace) -> None:
    launcher = await opened(place)
    place.fake.server.trouble("POST", "/jobs", swallow)
    with pytest.raises(OutcomeUnknown):
        await launcher.start(place.program("raise SystemExit(3)"), key="a")
    handle = await launcher.adopt("a")
    assert handle is not None
    assert await finished(launcher, handle) == 3
    with pytest.raises(Exists):
        await launcher.start(place.program(""), key="a")


@pytest.mark.parametrize(
    "trouble", [hang_up, fail(500, "InternalError", "etcd is away"), fail(429, "TooMany", "later")]
)
async def test_an_api_that_fails_says_nothing_of_the_program(
    place: JobPlace, trouble: Callable[[Handler], bool]
) -> None:
    launcher = await opened(place)
    place.fake.server.trouble("GET", "/jobs/", trouble)
    with pytest.raises(Unavailable) as caught:
        await launcher.adopt("a")
    assert caught.value.reason == "KUBERNETES_UNREACHABLE"
    assert await launcher.adopt("a") is None


@pytest.mark.slow
async def test_watches_that_break_again_and_again_lose_nothing(place: JobPlace, tmp_path: Path) -> None:
    def breaks(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b'5\r\n{"typ')  # in the middle of an event
        handler.close_connection = True
        return True

    for path in (JOBS, PODS):
        place.fake.server.trouble("GET", path, breaks, times=3)
    launcher = await opened(place)
    handle = await launcher.start(place.program(WAIT), key="a")
    await until(lambda: launcher.jobs.relists > 2 and launcher.pods.relists > 2)
    go(tmp_path)
    assert await finished(launcher, handle) == 3


@pytest.mark.parametrize("status", [True, False])
async def test_history_that_was_forgotten_is_listed_anew(place: JobPlace, tmp_path: Path, status: bool) -> None:
    """A 410 comes as an answer of its own, or as an event of the watch."""
    launcher = await opened(place, watch_s=1)
    handle = await launcher.start(place.program(WAIT), key="a")
    await until(lambda: place.fake.pods)
    before = launcher.jobs.relists
    if status:
        place.fake.server.trouble("GET", JOBS, fail(410, "Expired", "too old resource version: 1 (2)"))
    else:
        place.fake.objects.expire()
    await until(lambda: launcher.jobs.relists > before)
    go(tmp_path)
    assert await finished(launcher, handle) == 3


@pytest.mark.slow
async def test_watches_that_end_by_their_time_are_opened_again(place: JobPlace, tmp_path: Path) -> None:
    launcher = await opened(place, watch_s=1)
    handle = await launcher.start(place.program(WAIT), key="a")
    await asyncio.sleep(2.5)
    assert launcher.jobs.relists == 1
    go(tmp_path)
    assert await finished(launcher, handle) == 3


@pytest.mark.slow
async def test_a_watch_that_says_nothing_is_not_believed_for_ever(place: JobPlace, tmp_path: Path) -> None:
    def deaf(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.server.ending.wait(float(handler.query["timeoutSeconds"]))
        handler.wfile.write(b"0\r\n\r\n")
        return True

    for path in (JOBS, PODS):
        place.fake.server.trouble("GET", path, deaf, times=100)
    launcher = await opened(place, watch_s=1, reconcile_s=2.0)
    handle = await launcher.start(place.program(WAIT), key="a")
    go(tmp_path)
    assert await finished(launcher, handle) == 3
    assert launcher.jobs.relists >= 2


async def test_a_launcher_that_is_closed_leaves_no_thread_and_no_wait(place: JobPlace) -> None:
    launcher = KubernetesLauncher(place.cluster, place.file)
    async with launcher:
        await until(lambda: launcher.jobs.fresh.is_set() and launcher.pods.fresh.is_set())
    assert not launcher.jobs.running
    assert not launcher.pods.running


@pytest.mark.slow
async def test_a_node_that_went_silent_holds_nobody_up(place: JobPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has lost its power, and the API server goes on saying that the program runs."""
    monkeypatch.setattr("marsam.launch.kubernetes.launcher.LOST_S", 0.5)
    launcher = await opened(place)
    handle = await launcher.start(place.program(WAIT), key="a")
    await until(lambda: place.fake.nodes[0].containers)
    place.fake.lose(place.fake.nodes[0])
    ended = await launcher.stop(handle, grace_s=0)
    assert (ended.cause, ended.reason) == (Cause.LOST, "NODE_LOST")
    second = await opened(place)
    assert await second.follow(handle) == ended
    await second.forget("a")
    assert place.fake.jobs == []


@pytest.mark.slow
async def test_a_limited_program_that_is_admitted_late_ends_by_its_limit(place: JobPlace) -> None:
    """Nobody has to be there for it: under Kueue its turn may come when its caller is long gone."""
    place.file = cluster_file(place.file.namespace, place.file.image, profiles={"q": Profile(kueueQueue="team")})
    launcher = await opened(place)
    handle = await launcher.start(replace(place.program(WAIT), limit_s=1), key="a")
    await asyncio.sleep(1.5)
    assert place.fake.pods == []
    place.fake.objects.update("jobs", job_name("a"), lambda job: job["spec"].update(suspend=False))
    ended = await asyncio.wait_for(launcher.follow(handle), 20)
    assert (ended.cause, ended.reason) == (Cause.OVERDUE, "DEADLINE")


async def test_a_deleted_job_is_lost_and_said_so(place: JobPlace) -> None:
    launcher = await opened(place)
    handle = await launcher.start(place.program(WAIT), key="a")
    await until(lambda: place.fake.pods)
    place.cluster.delete_job(job_name("a"))
    ended = await asyncio.wait_for(launcher.follow(handle), 20)
    assert (ended.cause, ended.reason) == (Cause.LOST, "JOB_DELETED")


@pytest.mark.slow
async def test_an_end_that_was_given_up_is_told_again_after_a_restart(place: JobPlace) -> None:
    place.fake.nodes[0].unpullable.add(place.file.image)
    launcher = await opened(place)
    ended = await launcher.follow(await launcher.start(place.program(""), key="a"))
    assert (ended.cause, ended.reason) == (Cause.NOT_STARTED, "IMAGE_PULL")
    await until(lambda: not place.fake.pods)
    second = await opened(place)
    handle = await second.adopt("a")
    assert handle is not None
    assert await second.follow(handle) == ended


@pytest.mark.parametrize(
    ("token", "kind", "said"),
    [("nobody", Unavailable, "check the service account"), ("poor", Denied, "give the trainer's account")],
)
async def test_rights_that_are_missing_are_said_with_their_remedy(
    place: JobPlace, tmp_path: Path, token: str, kind: type[Exception], said: str
) -> None:
    place.fake.server.accounts["poor"] = []
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(kubeconfig(place.fake.url, token)))
    with pytest.raises(kind, match=said):
        await KubernetesLauncher(connect(NAMESPACE, file), place.file).adopt("a")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (403, 'admission webhook "validate.kyverno.svc-fail" denied the request: resource Job was blocked: no-latest'),
        (400, 'admission webhook "validation.gatekeeper.sh" denied the request: [team] you must provide labels'),
        (403, 'admission webhook "w" denied the request without explanation'),
        (422, "jobs.batch \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no"),
        (403, 'jobs.batch "x" is forbidden: unable to create new content in namespace m because it is being deleted'),
    ],
)
async def test_a_policy_that_refuses_the_job_is_not_a_missing_right(place: JobPlace, code: int, said: str) -> None:
    launcher = await opened(place)
    place.fake.server.trouble("POST", "/jobs", fail(code, "Forbidden", said))
    with pytest.raises(Denied) as caught:
        await launcher.start(place.program(""), key="a")
    assert caught.value.reason == "ADMISSION_REFUSED"
    assert said in caught.value.message
    assert "policies must allow the Job" in str(caught.value)
    assert place.fake.jobs == []


@pytest.mark.parametrize(
    ("code", "said", "reason"),
    [
        (401, "Unauthorized", "KUBERNETES_UNAUTHENTICATED"),
        (403, 'jobs.batch "x" is forbidden: status unknown for quota: jobs', "KUBERNETES_UNSETTLED"),
    ],
)
async def test_a_refusal_that_will_pass_is_tried_again(place: JobPlace, code: int, said: str, reason: str) -> None:
    """A token that is being rotated, a quota that was made a moment ago."""
    launcher = await opened(place)
    place.fake.server.trouble("POST", "/jobs", fail(code, "", said))
    with pytest.raises(Unavailable) as caught:
        await launcher.start(place.program(""), key="a")
    assert caught.value.reason == reason
    handle = await launcher.start(place.program("raise SystemExit(3)"), key="a")
    assert await finished(launcher, handle) == 3


@pytest.mark.parametrize(
    ("said", "kind", "reason"),
    [
        ('jobs.batch is forbidden: User "u" cannot create resource "jobs" in API group "batch"', Denied,
         "KUBERNETES_DENIED"),
        ("a proxy in front of it says no", Denied, "KUBERNETES_DENIED"),
        ('jobs.batch "x" is forbidden: exceeded quota: jobs, requested: count/jobs.batch=1', Exhausted,
         "QUOTA_EXCEEDED"),
    ],
)  # fmt: skip
def test_what_a_403_may_mean(said: str, kind: type[MarsamError], reason: str) -> None:
    error = stated(403, "Forbidden", json.dumps({"reason": "Forbidden", "message": said}))
    assert (type(error), error.reason) == (kind, reason)


async def test_no_way_to_a_cluster_is_said(tmp_path: Path) -> None:
    for file, text in (("absent", None), ("empty", "{}")):
        if text is not None:
            (tmp_path / file).write_text(text)
        with pytest.raises(Invalid) as caught:
            connect("marsam", tmp_path / file)
        assert caught.value.reason == "KUBERNETES_CONFIG"


@pytest.mark.slow
async def test_secrets_reach_the_program_and_an_absent_one_is_said(place: JobPlace) -> None:
    place.file = cluster_file(
        place.file.namespace, place.file.image, secrets={"PASSWORD": SecretKey(secret="store", key="password")}
    )
    program = place.program("import os; print(os.environ['PASSWORD'])")
    launcher = await opened(place)
    ended = await launcher.follow(await launcher.start(program, key="a"))
    assert (ended.cause, ended.reason) == (Cause.NOT_STARTED, "CONTAINER_CONFIG")
    assert 'secret "store" not found' in ended.message
    place.fake.nodes[0].secrets["store"] = {"password": "sesame"}
    assert (await launcher.follow(await launcher.start(program, key="b"))).code == 0
    assert read_tail(program.log_path) == "sesame\n"
    assert "sesame" not in str(place.cluster.get_job(job_name("b")))


@pytest.mark.slow
async def test_a_program_that_hangs_is_ended_by_its_probe_and_a_busy_one_is_not(
    place: JobPlace, tmp_path: Path
) -> None:
    """With the very command of the probe, and times short enough for a test."""
    busy = (
        "import threading,time,pathlib\n"
        "def beat():\n"
        "    while True: pathlib.Path('beat').touch(); time.sleep(0.2)\n"
        "threading.Thread(target=beat, daemon=True).start()\n"
        "end = time.monotonic() + 6\n"
        "while time.monotonic() < end: sum(range(1000))\n"
    )
    hung = "import pathlib,time\npathlib.Path('hung').touch(); time.sleep(60)"
    (tmp_path / "beat").touch()  # how long Python takes to begin is not what is asked here
    launcher, follows = await opened(place), []
    for key, code, beat in (("busy", busy, "beat"), ("hung", hung, "hung")):
        job = manifest.job(place.file, replace(place.program(code), beat_path=tmp_path / beat), key=key)
        (container,) = job["spec"]["template"]["spec"]["containers"]
        probe = container["livenessProbe"]
        probe["exec"]["command"][2] = probe["exec"]["command"][2].replace("-lt 300", "-lt 4")
        probe |= {"initialDelaySeconds": 1, "periodSeconds": 1, "failureThreshold": 2}
        place.cluster.create_job(job)
        handle = await launcher.adopt(key)
        assert handle is not None
        follows.append(asyncio.create_task(launcher.follow(handle)))
    async with asyncio.timeout(60):
        busy_end, hung_end = await asyncio.gather(*follows)
    assert busy_end.code == 0
    assert (hung_end.cause, hung_end.signal) == (Cause.SIGNALLED, 9)


async def test_the_log_is_kept_once_however_many_follow(place: JobPlace) -> None:
    launcher, program = await opened(place), place.program("print('once')")
    handle = await launcher.start(program, key="a")
    await asyncio.gather(*(launcher.follow(handle) for _ in range(5)))
    assert read_tail(program.log_path) == "once\n"
    (pod,) = place.fake.pods
    assert place.cluster.log(pod["metadata"]["name"], CONTAINER) == b"once\n"
