"""TrainerService at the wire: parse, call, answer."""

from collections.abc import AsyncIterator
from typing import Any

from marsam.api.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from marsam.core.names import ResourceName, parse
from marsam.diffusion import registry
from marsam.jobs.states import State
from marsam.rpc.server import current_principal
from marsam.rpc.server.paging import page
from marsam.rpc.wire.messages import timestamp
from marsam_trainer.checkpoints import CheckpointInfo, list_checkpoints
from marsam_trainer.desk import Desk
from marsam_trainer.ground import Ground
from marsam_trainer.listing import Lister
from marsam_trainer.queue import Queue
from marsam_trainer.runs import Runs, RunView
from marsam_trainer.watching import Watcher
from marsam_trainer.wire.orders import changes_of, order_of, spec_message
from marsam_trainer.wire.plans import fault_message, plan_message, reading_message, setting_message
from marsam_trainer.wire.runs import run_message


class TrainerService(trainer_pb2_grpc.TrainerServiceServicer):
    """See protos/marsam/api/trainer/v1/trainer.proto."""

    def __init__(self, runs: Runs, desk: Desk, queue: Queue, watcher: Watcher, ground: Ground) -> None:
        self._runs = runs
        self._ground = ground
        self._desk = desk
        self._queue = queue
        self._watcher = watcher
        self._lister = Lister(runs)

    async def ListCapabilities(
        self, request: trainer_pb2.ListCapabilitiesRequest, context: Any
    ) -> trainer_pb2.ListCapabilitiesResponse:
        return trainer_pb2.ListCapabilitiesResponse(
            families=[_family(name) for name in registry.families()],
            methods=[_method(name) for name in registry.methods()],
            profiles=[
                trainer_pb2.ProfileInfo(name=name, description=words, is_default=name == self._ground.default)
                for name, words in sorted(self._ground.profiles.items())
            ],
        )

    async def ValidateRun(
        self, request: trainer_pb2.ValidateRunRequest, context: Any
    ) -> trainer_pb2.ValidateRunResponse:
        project = parse(request.parent, "project", field="parent").project
        examined = await self._desk.examine(order_of(request.spec), project=project, by=current_principal().name)
        response = trainer_pb2.ValidateRunResponse(faults=[fault_message(fault) for fault in examined.faults])
        response.warnings.extend(fault_message(warning) for warning in examined.warnings)
        response.settings.extend(setting_message(entry) for entry in examined.settings)
        if examined.probe is not None:
            response.readings.extend(reading_message(reading) for reading in examined.probe.readings)
        if examined.plan is not None:
            response.plan.CopyFrom(plan_message(examined.plan))
        if examined.spec is not None:
            response.resolved.CopyFrom(spec_message(examined.spec))
            if not request.spec.output_model_id:
                response.resolved.output_model_id = ""  # it will be the run's own id, which nobody knows yet
        return response

    async def CreateRun(self, request: trainer_pb2.CreateRunRequest, context: Any) -> trainer_pb2.CreateRunResponse:
        project = parse(request.parent, "project", field="parent").project
        order = order_of(request.spec)
        by = current_principal().name
        run_id = await self._desk.create(order, project=project, request_id=request.request_id, by=by)
        return trainer_pb2.CreateRunResponse(run=await self._run(project, run_id))

    async def GetRun(self, request: trainer_pb2.GetRunRequest, context: Any) -> trainer_pb2.GetRunResponse:
        name = parse(request.name, "run")
        return trainer_pb2.GetRunResponse(run=await self._run(name.project, name.id))

    async def ListRuns(self, request: trainer_pb2.ListRunsRequest, context: Any) -> trainer_pb2.ListRunsResponse:
        project = parse(request.parent, "project", field="parent").project
        question = ("ListRuns", request.parent, request.filter)
        asked = page(size=request.page_size, token=request.page_token, question=question)
        views, token = await self._lister.page(project, asked, filter_=request.filter)
        messages = [self._message(project, view) for view in views]
        fitting, token = asked.fit(messages, [view.spec.id for view in views], token)
        return trainer_pb2.ListRunsResponse(runs=fitting, next_page_token=token)

    async def CancelRun(self, request: trainer_pb2.CancelRunRequest, context: Any) -> trainer_pb2.CancelRunResponse:
        name = parse(request.name, "run")
        await self._desk.cancel(name.project, name.id, by=current_principal().name)
        return trainer_pb2.CancelRunResponse(run=await self._run(name.project, name.id))

    async def ResumeRun(self, request: trainer_pb2.ResumeRunRequest, context: Any) -> trainer_pb2.ResumeRunResponse:
        name = parse(request.name, "run")
        changes = changes_of(request.spec, request.update_mask.paths)
        await self._desk.resume(name.project, name.id, changes, by=current_principal().name)
        return trainer_pb2.ResumeRunResponse(run=await self._run(name.project, name.id))

    async def WatchRun(
        self, request: trainer_pb2.WatchRunRequest, context: Any
    ) -> AsyncIterator[trainer_pb2.WatchRunResponse]:
        name = parse(request.name, "run")
        async for message in self._watcher.watch(name.project, name.id, token=request.resume_token):
            yield message

    async def ListCheckpoints(
        self, request: trainer_pb2.ListCheckpointsRequest, context: Any
    ) -> trainer_pb2.ListCheckpointsResponse:
        name: ResourceName = parse(request.name, "run")
        head = (await self._runs.history(name.project, name.id))[-1]
        found = await list_checkpoints(self._runs.blobs, name.project, name.id, attempts=head.attempt)
        asked = page(size=request.page_size, token=request.page_token, question=("ListCheckpoints", request.name))
        ids = [f"{entry.step:010d}.{entry.attempt:06d}" for entry in found]
        shown, token = asked.of(found, _checkpoint, ids=ids)
        return trainer_pb2.ListCheckpointsResponse(checkpoints=shown, next_page_token=token)

    async def _run(self, project: str, run_id: str) -> trainer_pb2.Run:
        return self._message(project, await self._runs.view(project, run_id))

    def _message(self, project: str, view: RunView) -> trainer_pb2.Run:
        waits = view.head.state is State.PENDING
        return run_message(view, queue_position=self._queue.place(project, view.spec.id) if waits else 0)


def _checkpoint(entry: CheckpointInfo) -> trainer_pb2.Checkpoint:
    return trainer_pb2.Checkpoint(
        attempt=entry.attempt, step=entry.step, size_bytes=entry.size, create_time=timestamp(entry.at)
    )


def _family(name: str) -> trainer_pb2.FamilyInfo:
    facts = registry.family_facts(name)
    return trainer_pb2.FamilyInfo(
        name=facts.name,
        description=facts.title,
        pixel_multiple=facts.side_multiple,
        methods=registry.methods(),
        objectives=facts.objectives,
    )


def _method(name: str) -> trainer_pb2.MethodInfo:
    facts = registry.method(name).facts
    return trainer_pb2.MethodInfo(
        name=facts.name,
        description=facts.title,
        parameters=[
            trainer_pb2.ParameterInfo(name=s.name, description=s.help, default_value=str(s.default))
            for s in facts.settings
        ],
    )
