"""`Marsam`: the same SDK for programs without an event loop.

One background thread runs one loop; each method is its async twin, waited for. The signatures are carried over, so a
type checker sees the same arguments and answers.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from marsam.client.datasets import Datasets
from marsam.client.endpoints import Endpoints
from marsam.client.evaluations import Evaluations
from marsam.client.generation import Generation
from marsam.client.marsam import AsyncMarsam
from marsam.client.models import Models
from marsam.client.provenance import Provenance
from marsam.client.runs import Runs
from marsam.rpc.wire import Credentials

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")


class _Loop:
    """An event loop on a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="marsam.client", daemon=True)
        self._thread.start()

    def wait(self, work: Awaitable[T]) -> T:
        """Runs `work` there and waits here; an interrupt here cancels it there."""

        async def run() -> T:
            return await work

        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Ends the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()


class _Facade(Generic[A]):
    def __init__(self, inner: A, loop: _Loop) -> None:
        self._inner = inner
        self._loop = loop


def _waits(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Facade[A], P], T]:
    def call(self: _Facade[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.wait(method(self._inner, *args, **kwargs))

    call.__name__, call.__doc__ = method.__name__, method.__doc__
    return call


def _iterates(
    method: Callable[Concatenate[A, P], AsyncIterator[T]],
) -> Callable[Concatenate[_Facade[A], P], Iterator[T]]:
    def call(self: _Facade[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        messages: Any = method(self._inner, *args, **kwargs)
        try:
            while True:
                try:
                    yield self._loop.wait(anext(messages))
                except StopAsyncIteration:
                    return
        finally:
            self._loop.wait(messages.aclose())

    call.__name__, call.__doc__ = method.__name__, method.__doc__
    return call


class BlockingDatasets(_Facade[Datasets]):
    """See `Datasets`."""

    create = _waits(Datasets.create)
    get = _waits(Datasets.get)
    list = _waits(Datasets.list)
    delete = _waits(Datasets.delete)
    import_folder = _waits(Datasets.import_folder)
    watch_import = _iterates(Datasets.watch_import)
    items = _waits(Datasets.items)
    read_item = _waits(Datasets.read_item)
    review = _waits(Datasets.review)
    check = _waits(Datasets.check)
    commit = _waits(Datasets.commit)
    version = _waits(Datasets.version)
    versions = _waits(Datasets.versions)
    diff = _waits(Datasets.diff)
    export = _waits(Datasets.export)
    take_down = _waits(Datasets.take_down)


class BlockingModels(_Facade[Models]):
    """See `Models`."""

    import_folder = _waits(Models.import_folder)
    import_ref = _waits(Models.import_ref)
    get = _waits(Models.get)
    list = _waits(Models.list)
    delete = _waits(Models.delete)
    export = _waits(Models.export)
    read_artifact = _waits(Models.read_artifact)
    set_alias = _waits(Models.set_alias)
    alias_history = _waits(Models.alias_history)
    lineage = _waits(Models.lineage)


class BlockingRuns(_Facade[Runs]):
    """See `Runs`."""

    capabilities = _waits(Runs.capabilities)
    validate = _waits(Runs.validate)
    create = _waits(Runs.create)
    get = _waits(Runs.get)
    list = _waits(Runs.list)
    watch = _iterates(Runs.watch)
    cancel = _waits(Runs.cancel)
    resume = _waits(Runs.resume)
    checkpoints = _waits(Runs.checkpoints)


class BlockingGeneration(_Facade[Generation]):
    """See `Generation`."""

    generate = _iterates(Generation.generate)
    upload = _waits(Generation.upload)
    images = _waits(Generation.images)
    get = _waits(Generation.get)
    list = _waits(Generation.list)
    with_picture = _waits(Generation.with_picture)
    cancel = _waits(Generation.cancel)
    capabilities = _waits(Generation.capabilities)
    adapters = _waits(Generation.adapters)
    load = _waits(Generation.load)
    evict = _waits(Generation.evict)


class BlockingProvenance(_Facade[Provenance]):
    """See `Provenance`."""

    trace = _waits(Provenance.trace)


class BlockingEvaluations(_Facade[Evaluations]):
    """See `Evaluations`."""

    register_suite = _waits(Evaluations.register_suite)
    suites = _waits(Evaluations.suites)
    create = _waits(Evaluations.create)
    get = _waits(Evaluations.get)
    list = _waits(Evaluations.list)
    watch = _iterates(Evaluations.watch)
    cancel = _waits(Evaluations.cancel)
    read_report = _waits(Evaluations.read_report)
    vote = _waits(Evaluations.vote)


class Marsam:
    """Use as `with Marsam() as marsam`; the arguments are those of `AsyncMarsam`. Not for use inside an event loop."""

    def __init__(
        self,
        endpoints: Endpoints | None = None,
        *,
        project: str = "default",
        token: str | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self._loop = _Loop()

        async def connect() -> AsyncMarsam:
            return AsyncMarsam(endpoints, project=project, token=token, credentials=credentials)

        try:
            inner = self._loop.wait(connect())
        except BaseException:
            self._loop.close()
            raise
        self._inner = inner
        self.datasets = BlockingDatasets(inner.datasets, self._loop)
        self.models = BlockingModels(inner.models, self._loop)
        self.runs = BlockingRuns(inner.runs, self._loop)
        self.generation = BlockingGeneration(inner.generation, self._loop)
        self.provenance = BlockingProvenance(inner.provenance, self._loop)
        self.evaluations = BlockingEvaluations(inner.evaluations, self._loop)

    def close(self) -> None:
        """Closes the channels and ends the thread."""
        self._loop.wait(self._inner.close())
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
