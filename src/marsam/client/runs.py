"""Runs: train a base on a dataset version, watch, cancel, resume."""

from collections.abc import AsyncIterator, Sequence

import grpc.aio

from marsam.api.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from marsam.client.connection import SLOW_SECONDS, resumed, unary
from marsam.client.naming import qualify
from marsam.client.paging import PAGE, every
from marsam.client.states import is_final
from marsam.core.ids import new_ulid


class Runs:
    """A spec's `base`, `dataset_version` and `regularisation` may be short names too (`hayy-base`, `hayy/v1`)."""

    def __init__(self, channel: grpc.aio.Channel, *, project: str) -> None:
        self._stub = trainer_pb2_grpc.TrainerServiceStub(channel)
        self._project = project

    async def capabilities(self) -> trainer_pb2.ListCapabilitiesResponse:
        """The families and methods this trainer knows, with their parameters."""
        return await unary(self._stub.ListCapabilities, trainer_pb2.ListCapabilitiesRequest())

    async def validate(self, spec: trainer_pb2.RunSpec) -> trainer_pb2.ValidateRunResponse:
        """Every fault of a spec at once, what it would need, and the spec with its defaults. Records nothing."""
        request = trainer_pb2.ValidateRunRequest(parent=f"projects/{self._project}", spec=self._qualified(spec))
        return await unary(self._stub.ValidateRun, request, seconds=SLOW_SECONDS)

    async def create(self, spec: trainer_pb2.RunSpec, *, request_id: str | None = None) -> trainer_pb2.Run:
        """Records a run; the trainer starts it when its turn comes. Raises Invalid with every fault."""
        request = trainer_pb2.CreateRunRequest(
            parent=f"projects/{self._project}", spec=self._qualified(spec), request_id=request_id or new_ulid()
        )
        return (await unary(self._stub.CreateRun, request, seconds=SLOW_SECONDS)).run

    async def get(self, run: str) -> trainer_pb2.Run:
        """One run with its history. Raises Missing."""
        return (await unary(self._stub.GetRun, trainer_pb2.GetRunRequest(name=self._name(run)))).run

    async def list(self, *, filter: str = "") -> Sequence[trainer_pb2.Run]:
        """The project's runs; `filter` is such as `state=FAILED`."""
        request = trainer_pb2.ListRunsRequest(parent=f"projects/{self._project}", page_size=PAGE, filter=filter)
        return await every(self._stub.ListRuns, request, lambda answer: answer.runs)

    async def watch(self, run: str) -> AsyncIterator[trainer_pb2.WatchRunResponse]:
        """A snapshot, then all that happened and each change, until the run ended. Survives restarts of the trainer."""
        name = self._name(run)
        messages = resumed(
            self._stub.WatchRun,
            lambda token: trainer_pb2.WatchRunRequest(name=name, resume_token=token),
            final=lambda message: message.HasField("snapshot") and is_final(message.snapshot.state),
        )
        async for message in messages:
            if not message.HasField("bookmark"):
                yield message

    async def cancel(self, run: str) -> trainer_pb2.Run:
        """Asks a run to stop; it keeps its checkpoints."""
        return (await unary(self._stub.CancelRun, trainer_pb2.CancelRunRequest(name=self._name(run)))).run

    async def resume(
        self, run: str, spec: trainer_pb2.RunSpec | None = None, *, changed: Sequence[str] = ()
    ) -> trainer_pb2.Run:
        """A new attempt of a failed or cancelled run, from its newest checkpoint. The fields of `spec` that `changed`
        names are what it does otherwise; Invalid lists those that may change."""
        request = trainer_pb2.ResumeRunRequest(name=self._name(run), spec=spec)
        request.update_mask.paths.extend(changed)
        return (await unary(self._stub.ResumeRun, request)).run

    async def checkpoints(self, run: str) -> Sequence[trainer_pb2.Checkpoint]:
        """The checkpoints a run could resume from."""
        request = trainer_pb2.ListCheckpointsRequest(name=self._name(run), page_size=PAGE)
        return await every(self._stub.ListCheckpoints, request, lambda answer: answer.checkpoints)

    def _qualified(self, spec: trainer_pb2.RunSpec) -> trainer_pb2.RunSpec:
        full = trainer_pb2.RunSpec()
        full.CopyFrom(spec)
        full.base = qualify("model", spec.base, project=self._project, field="base")
        full.dataset_version = qualify("version", spec.dataset_version, project=self._project, field="dataset_version")
        if spec.regularisation:
            full.regularisation = qualify("version", spec.regularisation, project=self._project, field="regularisation")
        return full

    def _name(self, run: str) -> str:
        return qualify("run", run, project=self._project, field="run")
