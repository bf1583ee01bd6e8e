"""Programs as Kubernetes Jobs, one Job per key: created once, found again by name, never run twice."""

import asyncio
import contextlib
import logging
import time
from pathlib import Path
from typing import Any

from marsam.core.clock import SystemClock, format_time
from marsam.core.errors import Exists, MarsamError, Missing, Precondition
from marsam.core.records import canonical, to_plain
from marsam.launch.kubernetes import manifest, reasons
from marsam.launch.kubernetes.case import LOST_S, Case, node_lost
from marsam.launch.kubernetes.cluster import Cluster, Object
from marsam.launch.kubernetes.mirror import RECONCILE_S, WATCH_S, Mirror
from marsam.launch.kubernetes.profiles import ClusterFile, Profile
from marsam.launch.launcher import Cause, Exit, Handle, Program, Waiting, check_program_key
from marsam.store.threads import offload

_log = logging.getLogger(__name__)

_JOB_LABEL = "batch.kubernetes.io/job-name"
_TURN_S = 1.0
"""How often a Job is looked at although nothing was heard of it: time alone ends some waits."""

_EVENTS_S = 2.0
_AT_LEAST_S = 1
"""A deadline that has passed already, for a Job that is to end."""


class KubernetesLauncher:
    """Runs each program as an Indexed Job of its own. What is remembered of it stands at the Job itself.

    Use as `async with KubernetesLauncher(…)`: two threads keep a copy of this trainer's Jobs and pods while it is open.
    """

    def __init__(
        self, cluster: Cluster, file: ClusterFile, *, watch_s: int = WATCH_S, reconcile_s: float = RECONCILE_S
    ) -> None:
        self._cluster = cluster
        self._file = file
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._cases: dict[str, Case] = {}
        selector = manifest.selector(file)
        timing: dict[str, Any] = {"watch_s": watch_s, "reconcile_s": reconcile_s}
        self.jobs = Mirror(cluster, "jobs", selector, self._tell, **timing)
        self.pods = Mirror(cluster, "pods", selector, self._tell, **timing)

    async def __aenter__(self) -> "KubernetesLauncher":
        self._loop = asyncio.get_running_loop()
        self.jobs.start()
        self.pods.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(self.jobs.close(), self.pods.close())

    async def start(self, program: Program, *, key: str) -> Handle:
        """See `Launcher.start`. Raises Invalid also for an unknown profile (UNKNOWN_PROFILE)."""
        job = manifest.job(self._file, program, key=check_program_key(key))
        try:
            self.jobs.put(await offload(self._cluster.create_job, job))
        except Exists as error:
            raise Exists(f"a program was started as '{key}' before", reason="PROGRAM_KEY_USED") from error
        return self._handle(key)

    async def adopt(self, key: str) -> Handle | None:
        """See `Launcher.adopt`."""
        found = await offload(self._cluster.get_job, manifest.job_name(check_program_key(key)))
        if found is None or found["metadata"].get("deletionTimestamp"):
            return None
        self.jobs.put(found)
        return self._handle(key)

    async def waiting(self, handle: Handle) -> Waiting | None:
        """See `Launcher.waiting`."""
        name = manifest.job_name(handle.key)
        job = await self._job(name)
        if job is None or reasons.remembered(job) is not None or reasons.final(job):
            return None
        case, pods = self._case(name), self._pods(name)
        if case.ran or case.ended is not None or reasons.ended_pod(job, pods) is not None:
            return None
        return reasons.waiting(job, pods, await self._events(job, pods, case))

    async def follow(self, handle: Handle) -> Exit:
        """See `Launcher.follow`."""
        name = manifest.job_name(handle.key)
        while (ended := await self._look(name)) is None:
            await self._turn()
        return ended

    async def stop(self, handle: Handle, *, grace_s: float) -> Exit:
        """See `Launcher.stop`. SIGKILL comes after the profile's graceSeconds, set when the Job was made."""
        name = manifest.job_name(handle.key)
        ended = await self._look(name)
        if ended is not None:
            return ended
        # A deadline that has passed: the Job's controller ends the pod gracefully, and the Job stays to tell of it.
        change = {
            "metadata": {"annotations": {manifest.STOPPED: format_time(SystemClock().now())}},
            "spec": {"activeDeadlineSeconds": _AT_LEAST_S},
        }
        try:
            job = await offload(self._cluster.patch_job, name, change)
        except Missing:
            return await self.follow(handle)
        self.jobs.put(job)
        limit = max(grace_s, float(job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"])) + LOST_S
        try:
            async with asyncio.timeout(limit):
                ended = await self.follow(handle)
        except TimeoutError:
            ended = node_lost(f"its pod did not end within {limit:.0f} s of being asked to; its node is probably gone")
        await self._remember(name, ended)
        return ended

    async def forget(self, key: str) -> None:
        """See `Launcher.forget`."""
        name = manifest.job_name(check_program_key(key))
        job = await offload(self._cluster.get_job, name)
        if job is not None:
            self.jobs.put(job)
            if await self._look(name) is None:
                raise Precondition(f"the program '{key}' still runs", reason="PROGRAM_RUNNING")
            await offload(self._cluster.delete_job, name)
        self._cases.pop(name, None)

    async def _look(self, name: str) -> Exit | None:
        """Return how the program ended, None while it has not."""
        case = self._case(name)
        async with case.turn:
            if case.ended is None:
                case.ended = await self._judge(name, case)
        return case.ended

    async def _judge(self, name: str, case: Case) -> Exit | None:
        """As `_look`, from all that is known; ends a wait that has lasted too long."""
        job = await self._job(name)
        if job is None:
            return Exit(cause=Cause.LOST, reason="JOB_DELETED", message="somebody deleted its Job")
        if (known := reasons.remembered(job)) is not None:
            return known
        if not (self.jobs.fresh.is_set() and self.pods.fresh.is_set()):
            return None
        pods, now = self._pods(name), time.monotonic()
        ended = case.verdict(job, pods, now)
        if ended is not None:
            await self._keep_logs(job, pods)
            if ended.reason == "SUSPENDED":  # whoever suspended it may let it run again
                await self._remember(name, ended, stop=True)
            return ended
        waits = None if case.ran else reasons.waiting(job, pods, await self._events(job, pods, case))
        if not case.impatient(waits, self._profile(job), now) or waits is None:
            return None
        ended = Exit(cause=Cause.NOT_STARTED, reason=waits.reason, message=waits.message)
        await self._remember(name, ended, stop=True)
        return ended

    def _profile(self, job: Object) -> Profile:
        name = job["metadata"].get("labels", {}).get(manifest.PROFILE, "")
        return self._file.profile(name if name in self._file.profiles else "")

    async def _events(self, job: Object, pods: list[Object], case: Case) -> list[Object]:
        """What was reported of a Job that lacks a pod: an admission refusal is told nowhere else."""
        if len(pods) >= reasons.nodes(job) or job["spec"].get("suspend"):
            return []
        if time.monotonic() - case.asked_at > _EVENTS_S:
            case.asked_at = time.monotonic()
            try:
                case.events = await offload(self._cluster.events, str(job["metadata"]["uid"]))
            except MarsamError as error:  # without them a refusal is not explained, and everything else goes on
                _log.warning("no events of %s: %s", job["metadata"]["name"], error)
        return case.events

    async def _remember(self, name: str, ended: Exit, *, stop: bool = False) -> None:
        """Write an end down at the Job, so that it is told again after a restart; `stop` ends the Job with it."""
        plain = {field: value for field, value in to_plain(ended).items() if value is not None}
        change: dict[str, Any] = {"metadata": {"annotations": {manifest.EXIT: canonical(plain).decode()}}}
        if stop:
            change["spec"] = {"activeDeadlineSeconds": _AT_LEAST_S}
        with contextlib.suppress(Missing):
            self.jobs.put(await offload(self._cluster.patch_job, name, change))

    async def _keep_logs(self, job: Object, pods: list[Object]) -> None:
        """Append the program's output to its log here: the pods will not be there for ever.

        Of several nodes each is told with a line of its own; the one whose end was the program's comes last.
        """
        path, last = job["metadata"].get("annotations", {}).get(manifest.LOG), reasons.ended_pod(job, pods)
        if path is None or last is None:
            return
        several = reasons.nodes(job) > 1
        for pod in [*(pod for pod in pods if pod is not last and several and reasons.begun(pod)), last]:
            meta = pod["metadata"]
            try:
                text = await offload(self._cluster.log, meta["name"], manifest.CONTAINER)
            except MarsamError:
                text = reasons.last_words(pod)
            if several:
                head = {"event": "node.output", "pod": meta["name"], "node": pod["spec"].get("nodeName", "")}
                text = canonical(head) + b"\n" + text.rstrip(b"\n") + b"\n"
            try:
                await offload(_append, Path(path), text)
            except OSError as error:
                _log.warning("cannot keep the log %s: %s", path, error.strerror)

    async def _job(self, name: str) -> Object | None:
        """The Job as last seen, asked for when it was not; None when the server says that there is none."""
        job = self.jobs.get(name)
        if job is None:
            job = await offload(self._cluster.get_job, name)
        return job

    def _pods(self, name: str) -> list[Object]:
        return self.pods.labelled(_JOB_LABEL, name)

    def _case(self, name: str) -> Case:
        return self._cases.setdefault(name, Case())

    def _handle(self, key: str) -> Handle:
        return Handle(key=key, place=f"Job {self._file.namespace}/{manifest.job_name(key)}")

    async def _turn(self) -> None:
        """Wait for news of any object, a second at most."""
        news = self._news
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TURN_S):
                await news.wait()

    def _tell(self) -> None:
        """Wake all that wait; called from the mirrors' threads."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended before its launcher was closed
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _append(path: Path, text: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.write(text)
