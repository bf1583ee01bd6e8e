"""Runs as the supervisor sees them: which program carries an attempt, and what its end means for the run."""

import asyncio
import os
from pathlib import Path
from typing import Any

from marsam.catalog.repository import load_model
from marsam.catalog.runs import RunSpec
from marsam.core.names import format_name
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.launch.attempt import Ended, Outcome
from marsam.launch.launcher import Program
from marsam.store.keys import JobKind
from marsam.telemetry import Log, Meter, metrics
from marsam_trainer.ground import Ground
from marsam_trainer.outcomes import CAUSES, Ending, Next, Verdict, judge
from marsam_trainer.past_runs import PastRuns
from marsam_trainer.reservations import Reservations
from marsam_trainer.runs import Runs
from marsam_trainer.settings import TrainerSettings

KIND: JobKind = "runs"
_LOG = Log(__name__)
_TAIL = 16 * 1024


class RunWork:
    """See `marsam.launch.attempt.Work`."""

    def __init__(
        self,
        runs: Runs,
        reservations: Reservations,
        past: PastRuns,
        settings: TrainerSettings,
        ground: Ground,
        *,
        meter: Meter,
    ) -> None:
        self._runs = runs
        self._past = past
        self._reservations = reservations
        self._settings = settings
        self._ground = ground
        self._meter = meter
        meter.begin(metrics.QUEUE_WAIT, queue=KIND)
        for cause in CAUSES:
            meter.begin(metrics.JOB_ATTEMPTS_ENDED, kind=KIND, cause=cause)

    async def program(self, store: JobStore, job_id: str, attempt: int) -> Program:
        """See `Work.program`. The attempt's own reservations come first: without its models' ids it would work in
        vain.
        """
        settings = self._settings
        spec = await self._runs.current(store.project, job_id)
        for model_id in spec.model_ids:
            await self._reservations.take(store.project, model_id, holder=spec.name, attempt=attempt)
        history = await self._runs.history(store.project, job_id)
        waits = [entry for entry in history if entry.state is State.PENDING]
        waited = (store.clock.now() - waits[-1].at).total_seconds()
        self._meter.observe(metrics.QUEUE_WAIT, max(0.0, waited), queue=KIND)
        ground = self._ground
        host, port = ground.metrics()
        arguments = [
            "train", "--store", settings.store, "--run", format_name("run", store.project, job_id),
            "--attempt", str(attempt), "--cache", ground.cache, "--cache-bytes", str(settings.cache_bytes),
            "--memory-limit", str(settings.memory_limit),
            "--metrics-port", str(port), "--metrics-host", host, *await self._corrections(spec),
        ]  # fmt: skip
        if ground.beat_path is not None:
            arguments += ["--beat-file", str(ground.beat_path)]
        return Program(
            argv=(*ground.command, *arguments),
            log_path=self._log_path(store.project, job_id, attempt),
            labels={"marsam.dev/run": job_id, "marsam.dev/attempt": str(attempt), "marsam.dev/project": store.project},
            profile=spec.profile,
            beat_path=ground.beat_path,
            ranks=spec.processes,
        )

    async def _corrections(self, spec: RunSpec) -> list[str]:
        """By what the run's own plan is corrected before it is held against the memory there is, as its order's was,
        by kind of device."""
        family, found = (await load_model(self._runs.blobs, spec.base)).family, []
        for device in ("cpu", "cuda"):
            past = await self._past.correction(spec.project, spec, family=family, device=device)
            found += ["--memory-correction", f"{device}={past.memory!r}"] if past.runs else []
        return found

    async def judge(self, store: JobStore, job_id: str, ended: Ended) -> Outcome:
        """See `Work.judge`. The transition's detail holds what is known of the end: cause, exit code, peak memory."""
        project, attempt = store.project, ended.attempt
        result = await self._runs.result(project, job_id, attempt)
        ending = Ending(
            exit=ended.exit,
            silent=ended.silent,
            finished=result is not None,
            last_words=await self._last_words(project, job_id, attempt),
        )
        verdict = judge(ending)
        self._meter.inc(metrics.JOB_ATTEMPTS_ENDED, kind=KIND, cause=verdict.cause)
        _LOG.info(
            "run.attempt_ended",
            run=job_id,
            project=project,
            attempt=attempt,
            cause=verdict.cause,
            message=verdict.message or str(ended.exit),
        )
        detail: dict[str, Any] = {"cause": verdict.cause, **_facts(ended)}
        if verdict.next is Next.SUCCEED and result is not None:
            return Outcome(state=State.SUCCEEDED, reason="DONE", detail={**result, **detail})
        if verdict.next is Next.FAIL:
            return Outcome(state=State.FAILED, reason=verdict.cause, message=verdict.message, detail=detail)
        return self._again(verdict, detail, failures=await self._failures(project, job_id) + verdict.counts)

    def _again(self, verdict: Verdict, detail: dict[str, Any], *, failures: int) -> Outcome:
        if failures < self._settings.max_attempts:
            detail["failures"] = failures
            return Outcome(state=State.PENDING, reason="RETRY", message=verdict.message, detail=detail)
        message = f"given up after {failures} failed attempts; the last: {verdict.message}"
        return Outcome(state=State.FAILED, reason=verdict.cause, message=message, detail=detail)

    async def _failures(self, project: str, run_id: str) -> int:
        """How many attempts have failed since the run was created or resumed."""
        history = await self._runs.history(project, run_id)
        waits = [entry for entry in history if entry.state is State.PENDING]
        return int(waits[-1].detail.get("failures", 0))

    async def _last_words(self, project: str, run_id: str, attempt: int) -> str:
        """What the program said of its failure: in the store, or else at the end of its log; '' when nothing."""
        failure = await self._runs.failure(project, run_id, attempt)
        if failure is not None:
            remedy = failure.get("remedy")
            return f"{failure.get('message', '')} ({remedy})" if remedy else str(failure.get("message", ""))
        return await asyncio.to_thread(_tail, self._log_path(project, run_id, attempt))

    def _log_path(self, project: str, run_id: str, attempt: int) -> Path:
        return self._settings.cache / "logs" / "runs" / project / f"{run_id}-{attempt}.log"


def _facts(ended: Ended) -> dict[str, Any]:
    """What is known of how the program ended, for the record."""
    facts = {"exit_code": ended.exit.code, "signal": ended.exit.signal, "peak_rss": ended.exit.peak_rss or None}
    return {name: value for name, value in facts.items() if value is not None}


def _tail(log: Path) -> str:
    """The last line of the program's log that is not one of its own JSON lines: what killed it before it could speak.

    Blocking; '' when there is none.
    """
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL))
            lines = stream.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    foreign = [line.strip() for line in lines if line.strip() and not line.startswith("{")]
    return foreign[-1][:300] if foreign else ""
