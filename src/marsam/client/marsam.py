"""`AsyncMarsam`: the three services as one object."""

from types import TracebackType
from typing import Self

from marsam.client.datasets import Datasets
from marsam.client.endpoints import Endpoints, find
from marsam.client.evaluations import Evaluations
from marsam.client.generation import Generation
from marsam.client.models import Models
from marsam.client.runs import Runs
from marsam.core.ids import check_slug
from marsam.rpc.wire import channel


class AsyncMarsam:
    """Use as `async with AsyncMarsam() as marsam`.

    Without `endpoints` it finds what `marsam up` wrote (see `endpoints.find`). Every failure is a
    marsam.core.errors.MarsamError. Unary calls have deadlines; reads, and creates by their request id, are repeated
    while a service is away.
    """

    def __init__(
        self, endpoints: Endpoints | None = None, *, project: str = "default", token: str | None = None
    ) -> None:
        self.project = check_slug(project, field="project")
        self.endpoints = endpoints if endpoints is not None else find()
        dataset = channel(self.endpoints.dataset, token=token)
        trainer = channel(self.endpoints.trainer, token=token)
        generator = channel(self.endpoints.generator, token=token)
        self._channels = (dataset, trainer, generator)
        self.datasets = Datasets(dataset, project=project)
        self.runs = Runs(trainer, project=project)
        self.models = Models(trainer, project=project)
        self.generation = Generation(generator, project=project)
        self.evaluations = Evaluations(generator, project=project)

    async def close(self) -> None:
        """Closes the channels; calls in flight are cancelled."""
        for open_channel in self._channels:
            await open_channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
