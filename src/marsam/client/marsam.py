"""`AsyncMarsam`: the three services as one object."""

from types import TracebackType
from typing import Self

from marsam.client.datasets import Datasets
from marsam.client.endpoints import Endpoints, find
from marsam.client.evaluations import Evaluations
from marsam.client.generation import Generation
from marsam.client.models import Models
from marsam.client.provenance import Provenance
from marsam.client.runs import Runs
from marsam.core.errors import MarsamError
from marsam.core.ids import check_slug
from marsam.rpc.wire import Credentials, channel, explain, find_credentials


class AsyncMarsam:
    """Use as `async with AsyncMarsam() as marsam`.

    Without `endpoints` it finds what `marsam up` wrote (see `endpoints.find`), without `credentials` what the
    environment names (see `find_credentials`); `token` goes before both. Every failure is a
    marsam.core.errors.MarsamError. Unary calls have deadlines; reads, and creates by their request id, are repeated
    while a service is away.
    """

    def __init__(
        self,
        endpoints: Endpoints | None = None,
        *,
        project: str = "default",
        token: str | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.project = check_slug(project, field="project")
        self.endpoints = endpoints if endpoints is not None else find()
        shown = credentials if credentials is not None else find_credentials()
        self._tls = shown.tls
        token = token if token is not None else shown.token
        dataset = channel(self.endpoints.dataset, token=token, tls=shown.tls)
        trainer = channel(self.endpoints.trainer, token=token, tls=shown.tls)
        generator = channel(self.endpoints.generator, token=token, tls=shown.tls)
        self._channels = (dataset, trainer, generator)
        self.datasets = Datasets(dataset, project=project)
        self.runs = Runs(trainer, project=project)
        self.models = Models(trainer, project=project)
        self.generation = Generation(generator, project=project)
        self.provenance = Provenance(self.generation, self.models)
        self.evaluations = Evaluations(generator, project=project)

    async def explain(self, error: MarsamError) -> MarsamError:
        """What TLS has to do with an Unavailable, where it has; else `error` itself."""
        for target in (self.endpoints.dataset, self.endpoints.trainer, self.endpoints.generator):
            found = await explain(error, target, self._tls)
            if found is not error:
                return found
        return error

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
