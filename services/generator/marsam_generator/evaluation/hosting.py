"""Evaluations inside the generator service: which program carries an attempt, and what its end means."""

import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marsam.api.generator.v1 import evaluation_pb2_grpc
from marsam.core.clock import Clock
from marsam.core.errors import Invalid, Missing, Precondition
from marsam.core.names import format_name
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.launch.attempt import Ended, Outcome, Policy
from marsam.launch.launcher import Cause, Program
from marsam.launch.process import ProcessLauncher, read_tail
from marsam.launch.seat import seated
from marsam.launch.supervisor import Supervisor
from marsam.rpc.server import Lifecycle, Registration
from marsam.rpc.server.tls import TlsFiles, read_identity
from marsam.store import keys
from marsam.store.blobs import Blobs
from marsam.store.settings import s3_variables
from marsam.store.threads import offload
from marsam.telemetry import Meter, metrics
from marsam_generator.evaluation import codes
from marsam_generator.evaluation.counting import KIND, counted
from marsam_generator.evaluation.program import FAILURE, RESULT
from marsam_generator.evaluation.service import EvaluationServicer

SERVICE = "marsam.api.generator.v1.EvaluationService"


@dataclass(frozen=True, kw_only=True)
class Hosting:
    """How this service runs evaluations. `store` is the URL that their program opens; `slots` run at once.

    `target` is where they reach the generator, '' for the service's own address. `token_file` holds the bearer token
    with which they call Generate, where tokens are asked for (`needs_token`); `tls` is how they trust the generator's
    certificate and what they show it. An attempt that failed for a passing reason is made again until `attempts` have
    failed.
    """

    store: str
    cache: Path
    cache_bytes: int = 100 * 10**9
    slots: int = 1
    attempts: int = 3
    target: str = ""
    token_file: Path | None = None
    needs_token: bool = False
    tls: "CallerTls | None" = None
    command: tuple[str, ...] = (sys.executable, "-m", "marsam_generator.evaluation")

    def __post_init__(self) -> None:
        if self.slots < 1 or self.attempts < 1:
            raise Invalid("evaluations need at least one slot and one attempt", field="evaluation_slots")


@dataclass(frozen=True, kw_only=True)
class CallerTls:
    """Files and names with which an evaluation calls a generator over TLS."""

    ca: Path | None
    pair: tuple[Path, Path] | None = None
    server_name: str = ""

    @property
    def arguments(self) -> list[str]:
        """The same for the program's command line."""
        words = ["--tls-ca-file", str(self.ca)] if self.ca is not None else []
        if self.pair is not None:
            words += ["--tls-cert-file", str(self.pair[0]), "--tls-key-file", str(self.pair[1])]
        return [*words, *(["--tls-server-name", self.server_name] if self.server_name else [])]


def caller_tls(own: TlsFiles | None, *, target: str, ca: Path | None) -> CallerTls | None:
    """How evaluations call the generator whose certificate is `own`.

    Without a `target` they call it on this machine, where no certificate is for the address: they take the
    service's own certificate under its own name. Where clients need certificates they show the service's.
    """
    if own is None:
        return CallerTls(ca=ca) if ca is not None else None
    pair = (own.certificate, own.key) if own.client_ca is not None else None
    if target:
        return CallerTls(ca=ca, pair=pair)
    names = read_identity(own).names
    return CallerTls(
        ca=ca or own.certificate, pair=pair, server_name=names[0].replace("*", "generator", 1) if names else ""
    )


class EvaluationWork:
    """See `marsam.launch.attempt.Work`."""

    def __init__(self, hosting: Hosting, *, address: Callable[[], str], meter: Meter) -> None:
        self._hosting = hosting
        self._address = address
        self._meter = meter

    async def program(self, store: JobStore, job_id: str, attempt: int) -> Program:
        """See `Work.program`."""
        hosting = self._hosting
        arguments = [
            *("run", "--store", hosting.store, "--evaluation", format_name("evaluation", store.project, job_id)),
            *(
                "--attempt",
                str(attempt),
                "--cache",
                str(hosting.cache),
                *("--cache-bytes", str(hosting.cache_bytes)),
                "--generator",
                self._address(),
            ),
        ]
        if hosting.token_file is not None:
            arguments += ["--token-file", str(hosting.token_file)]
        if hosting.tls is not None:
            arguments += hosting.tls.arguments
        return Program(argv=(*hosting.command, *arguments), log_path=self._log(store.project, job_id, attempt))

    async def judge(self, store: JobStore, job_id: str, ended: Ended) -> Outcome:
        """See `Work.judge`. A finished attempt's references to report and numbers become the transition's detail."""
        result = await _record(store, job_id, ended.attempt, RESULT)
        if result is not None and ended.exit.cause in (Cause.DONE, Cause.LOST):
            pictures, judge = int(result.get("pictures", 0)), str(result.get("judge", ""))
            self._meter.inc(metrics.EVALUATION_PICTURES, pictures, judge=judge)
            self._meter.inc(metrics.JOB_ATTEMPTS_ENDED, kind=KIND, cause="DONE")
            return Outcome(state=State.SUCCEEDED, reason="DONE", message=str(result.get("verdict", "")), detail=result)
        failure = await _record(store, job_id, ended.attempt, FAILURE)
        reason, message = await self._words(store, job_id, ended, failure)
        self._meter.inc(metrics.JOB_ATTEMPTS_ENDED, kind=KIND, cause=reason)
        if ended.exit.code in (codes.BAD_SPEC, codes.BAD_DATA):
            return Outcome(state=State.FAILED, reason=reason, message=message)
        # Being asked to stop in good order says nothing against the evaluation.
        failures = await _failures(store, job_id) + (ended.exit.code != codes.STOPPED)
        if failures < self._hosting.attempts:
            return Outcome(state=State.PENDING, reason="RETRY", message=message, detail={"failures": failures})
        return Outcome(state=State.FAILED, reason=reason, message=f"given up after {failures} attempts: {message}")

    async def _words(
        self, store: JobStore, job_id: str, ended: Ended, failure: dict[str, Any] | None
    ) -> tuple[str, str]:
        """The reason and the sentence for the record: the program's own where it left any."""
        if failure is not None:
            remedy = str(failure.get("remedy", ""))
            message = str(failure.get("message", ""))
            return str(failure.get("reason", "INTERNAL")), f"{message} ({remedy})" if remedy else message
        if ended.silent:
            return "SILENT", "it gave no sign of life and was stopped"
        tail = await offload(read_tail, self._log(store.project, job_id, ended.attempt), limit=2048)
        foreign = [line for line in tail.splitlines() if line.strip() and not line.startswith("{")]
        return ended.exit.cause, f"the program {ended.exit}" + (f": {foreign[-1][:300]}" if foreign else "")

    def _log(self, project: str, job_id: str, attempt: int) -> Path:
        return self._hosting.cache / "logs" / KIND / project / f"{job_id}-{attempt}.log"


async def _record(store: JobStore, job_id: str, attempt: int, name: str) -> dict[str, Any] | None:
    try:
        found = json.loads(await store.blobs.get(keys.attempt_file(store.project, store.kind, job_id, attempt, name)))
    except (Missing, ValueError):
        return None
    return found if isinstance(found, dict) else None


async def _failures(store: JobStore, job_id: str) -> int:
    """How many attempts have failed since the evaluation was created."""
    waits = [entry for entry in await store.history(job_id) if entry.state is State.PENDING]
    return int(waits[-1].detail.get("failures", 0))


def dialable(address: str) -> str:
    """The address to call for one that a service listens on: loopback stands for "everywhere"."""
    scheme, slashes, place = address.rpartition("://")
    host, _, port = place.rpartition(":")
    return f"{scheme}{slashes}127.0.0.1:{port}" if host in ("0.0.0.0", "[::]") else address


@asynccontextmanager
async def hosted(
    hosting: Hosting, *, blobs: Blobs, meter: Meter, clock: Clock, lifecycle: Lifecycle
) -> AsyncIterator[Registration]:
    """Supervise evaluations while the block runs, and yield what the server has to register.

    Programs that run when the block ends are stopped: they need this service to draw. The next one takes up what they
    have.
    """

    def address() -> str:
        return hosting.target or dialable(lifecycle.address)

    # Of the service's own settings the program knows only how the store is reached.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MARSAM_")}
    env |= s3_variables(os.environ)
    env.setdefault("OMP_NUM_THREADS", "1")
    work = EvaluationWork(hosting, address=address, meter=meter)
    policy = Policy(slots=hosting.slots, grace_s=10.0, poll_s=0.5)

    def reachable() -> str:
        # Said to whoever asks for an evaluation, who is there to hear it, instead of by every attempt to a log.
        if hosting.needs_token and hosting.token_file is None:
            raise Precondition(
                "this generator has no token with which its evaluations could call it",
                reason="EVALUATION_TOKEN_MISSING",
                remedy="the operator sets MARSAM_EVALUATION_TOKEN_FILE to a token with the scope generations.*",
            )
        return address()

    async with seated(hosting.cache / "seats" / KIND) as seat:
        launcher = ProcessLauncher(seat.folder, base_env=env)
        supervisor = Supervisor(
            blobs, "evaluations", launcher=launcher, work=work, policy=policy, owner=seat.owner, clock=clock,
            meter=meter,
        )  # fmt: skip
        servicer = EvaluationServicer(
            blobs, clock=clock, meter=meter, wake=supervisor.wake, address=reachable, draining=lifecycle.draining
        )
        async with supervisor, counted(blobs, meter=meter, clock=clock):
            try:
                yield Registration(
                    service=SERVICE,
                    add=lambda server: evaluation_pb2_grpc.add_EvaluationServiceServicer_to_server(servicer, server),
                )
            finally:
                await supervisor.close(stop_programs=True)
