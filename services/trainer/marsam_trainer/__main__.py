"""`python -m marsam_trainer`: the trainer service over one object store."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.requests import Request
from starlette.responses import JSONResponse

from marsam.api.model.v1 import model_pb2_grpc
from marsam.api.trainer.v1 import trainer_pb2_grpc
from marsam.core.clock import SystemClock
from marsam.core.names import parse
from marsam.launch.attempt import Policy
from marsam.launch.metered import MeteredLauncher
from marsam.launch.seat import Seat, seated
from marsam.launch.supervisor import Supervisor
from marsam.rpc.server import Assembly, Lifecycle, Page, Registration, current_principal, run
from marsam.store.cache import Cache
from marsam.store.metered import MeteredBlobs
from marsam.store.open import open_store, prove
from marsam.telemetry import Meter
from marsam_trainer.admission import Admission
from marsam_trainer.conversions import Converter
from marsam_trainer.desk import Desk
from marsam_trainer.ground import Ground, opened
from marsam_trainer.models_service import ModelService, Parts
from marsam_trainer.past_runs import PastRuns
from marsam_trainer.plans import Planner
from marsam_trainer.probes import Prober
from marsam_trainer.queue import Queue
from marsam_trainer.reservations import Reservations
from marsam_trainer.runs import Runs
from marsam_trainer.service import TrainerService
from marsam_trainer.settings import TrainerSettings
from marsam_trainer.watching import Watcher
from marsam_trainer.work import KIND, RunWork


@asynccontextmanager
async def assemble(settings: TrainerSettings, meter: Meter, lifecycle: Lifecycle) -> AsyncIterator[Assembly]:
    """The service, built; runs that were under way are carried on from here."""
    async with (
        seated(settings.cache / "seats" / KIND) as seat,
        _assembled(settings, meter, lifecycle, seat) as assembly,
    ):
        yield assembly


@asynccontextmanager
async def _assembled(
    settings: TrainerSettings, meter: Meter, lifecycle: Lifecycle, seat: Seat
) -> AsyncIterator[Assembly]:
    clock = SystemClock()
    blobs = MeteredBlobs(await asyncio.to_thread(open_store, settings.store), meter)
    await prove(blobs)
    cache = await asyncio.to_thread(Cache, settings.cache, budget=settings.cache_bytes)
    # Uploads that a crash left behind: nobody can finish them.
    await asyncio.to_thread(shutil.rmtree, settings.cache / "incoming", True)
    runs = Runs(blobs, clock, meter=meter)
    reservations, past = Reservations(runs), PastRuns(runs)
    async with AsyncExitStack() as stack:
        ground = await stack.enter_async_context(opened(settings, owner=seat.owner, folder=seat.folder))
        planner, prober = Planner(settings, ground), Prober(settings, ground)
        supervisor = Supervisor(
            blobs,
            KIND,
            launcher=MeteredLauncher(ground.launcher, meter, kind=KIND),
            work=RunWork(runs, reservations, past, settings, ground, meter=meter),
            policy=_policy(settings, ground),
            owner=ground.owner,
            clock=clock,
            meter=meter,
        )
        queue = await stack.enter_async_context(Queue(runs, meter=meter).kept())
        await stack.enter_async_context(supervisor)
        try:

            def wake() -> None:
                supervisor.wake()
                queue.wake()

            admission = Admission(runs, reservations, profiles=ground.profiles, room=ground.room)
            desk = Desk(runs, admission, planner, prober, reservations, past, wake=wake)
            watcher = Watcher(runs, queue, draining=lifecycle.draining, poll_s=min(0.5, settings.poll_s))
            trainer = TrainerService(runs, desk, queue, watcher, ground)
            models = ModelService(
                Parts(
                    blobs=blobs,
                    clock=clock,
                    cache=cache,
                    runs=runs,
                    reservations=reservations,
                    converter=Converter(settings, ground),
                    settings=settings,
                )
            )
            yield Assembly(
                registrations=[
                    Registration(
                        service="marsam.api.trainer.v1.TrainerService",
                        add=lambda server: trainer_pb2_grpc.add_TrainerServiceServicer_to_server(trainer, server),
                    ),
                    Registration(
                        service="marsam.api.model.v1.ModelService",
                        add=lambda server: model_pb2_grpc.add_ModelServiceServicer_to_server(models, server),
                    ),
                ],
                pages=[Page(path="/sd/runs", scope="runs.read", answer=_targets(runs, ground, settings))],
            )
        finally:
            await planner.close()
            await prober.close()
            await supervisor.close(stop_programs=ground.stops)


def _policy(settings: TrainerSettings, ground: Ground) -> Policy:
    return Policy(
        slots=ground.slots,
        start_s=settings.run_start_s,
        silence_s=settings.run_silence_s,
        grace_s=settings.stop_grace_s,
        backoff_s=settings.retry_delay_s,
        poll_s=settings.poll_s,
    )


def _targets(runs: Runs, ground: Ground, settings: TrainerSettings) -> Callable[[Request], Awaitable[JSONResponse]]:
    """Where the processes of runs that the caller may see can be scraped, as Prometheus' HTTP service discovery.

    Runs on other machines are not listed: a cluster's Prometheus finds its pods by itself.
    """
    host = settings.run_metrics_host

    async def answer(request: Request) -> JSONResponse:
        # Runs that listen everywhere are reached as this service was.
        reached = (request.url.hostname or host) if host in ("0.0.0.0", "::") else host
        sees = current_principal().sees
        targets = {} if ground.elsewhere else await runs.scrape_targets(reached)
        return JSONResponse(
            [
                {"targets": [target], "labels": {"__meta_marsam_run": run}}
                for run, target in targets.items()
                if sees(parse(run, "run").project)
            ]
        )

    return answer


def main() -> int:
    """Run the service; returns its exit code."""
    return run("trainer", TrainerSettings, assemble)


if __name__ == "__main__":
    sys.exit(main())
