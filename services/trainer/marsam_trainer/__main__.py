"""`python -m marsam_trainer`: the trainer service over one object store."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from marsam.api.model.v1 import model_pb2_grpc
from marsam.api.trainer.v1 import trainer_pb2_grpc
from marsam.core.clock import SystemClock
from marsam.launch.attempt import Policy
from marsam.launch.process import ProcessLauncher
from marsam.launch.seat import Seat, seated
from marsam.launch.supervisor import Supervisor
from marsam.rpc.server import Assembly, Lifecycle, Registration, run
from marsam.store.cache import Cache
from marsam.store.metered import MeteredBlobs
from marsam.store.open import open_store, prove
from marsam.telemetry import Meter
from marsam_trainer.admission import Admission
from marsam_trainer.desk import Desk
from marsam_trainer.environment import child_environment
from marsam_trainer.models_service import ModelService, Parts
from marsam_trainer.plans import Planner
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
    reservations = Reservations(runs)
    planner = Planner(settings)
    launcher = ProcessLauncher(seat.folder, base_env=child_environment(os.environ))
    supervisor = Supervisor(
        blobs,
        KIND,
        launcher=launcher,
        work=RunWork(runs, reservations, settings, meter=meter),
        policy=_policy(settings),
        owner=seat.owner,
        clock=clock,
        meter=meter,
    )
    async with Queue(runs, meter=meter).kept() as queue, supervisor:
        try:

            def wake() -> None:
                supervisor.wake()
                queue.wake()

            desk = Desk(runs, Admission(runs, reservations), planner, reservations, wake=wake)
            watcher = Watcher(runs, queue, draining=lifecycle.draining, poll_s=min(0.5, settings.poll_s))
            trainer = TrainerService(runs, desk, queue, watcher)
            models = ModelService(
                Parts(blobs=blobs, clock=clock, cache=cache, runs=runs, reservations=reservations, settings=settings)
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
                routes=[Route("/runs/targets", _targets(runs))],
            )
        finally:
            await planner.close()
            await supervisor.close(stop_programs=settings.stop_runs_on_exit)


def _policy(settings: TrainerSettings) -> Policy:
    return Policy(
        slots=settings.max_concurrent_runs,
        start_s=settings.run_start_s,
        silence_s=settings.run_silence_s,
        grace_s=settings.stop_grace_s,
        backoff_s=settings.retry_delay_s,
        poll_s=settings.poll_s,
    )


def _targets(runs: Runs) -> Callable[[Request], Awaitable[JSONResponse]]:
    """Where runs can be scraped, in the form of Prometheus' HTTP service discovery."""

    async def answer(_: Request) -> JSONResponse:
        return JSONResponse(
            [{"targets": [target], "labels": {"run": run}} for run, target in (await runs.scrape_targets()).items()]
        )

    return answer


def main() -> int:
    """Run the service; returns its exit code."""
    return run("trainer", TrainerSettings, assemble)


if __name__ == "__main__":
    sys.exit(main())
