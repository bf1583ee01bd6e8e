"""The SDK against real servers that do the little a test needs, written with the project's own protos."""

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from marsam.api.common.v1 import common_pb2
from marsam.api.dataset.v1 import dataset_pb2, dataset_pb2_grpc
from marsam.api.generator.v1 import generator_pb2, generator_pb2_grpc
from marsam.api.model.v1 import model_pb2, model_pb2_grpc
from marsam.api.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from marsam.client import Accepted, AsyncMarsam, Done, Endpoints, Image, Marsam, Progress, Transfer
from marsam.client import health as health_client
from marsam.core.errors import Corrupt, Exists, Expired, Invalid, Missing, Unavailable
from marsam.core.ids import new_ulid
from marsam.rpc.server import Lifecycle, Registration, ServerSettings, serve
from marsam.telemetry import Meter

RUN = f"projects/default/runs/{new_ulid()}"
RUNNING, SUCCEEDED = common_pb2.JOB_STATE_RUNNING, common_pb2.JOB_STATE_SUCCEEDED


class Datasets(dataset_pb2_grpc.DatasetServiceServicer):
    def __init__(self) -> None:
        self.created: list[str] = []
        self.files: dict[str, bytes] = {}
        self.refuse_after = 10**9
        self.header: Any = None

    async def CreateDataset(self, request: Any, context: Any) -> Any:
        if request.dataset_id in self.created:
            raise Exists("taken")
        self.created.append(request.dataset_id)
        return dataset_pb2.CreateDatasetResponse()

    async def ImportItems(self, request_iterator: Any, context: Any) -> Any:
        announced: dict[str, Any] = {}
        path = ""
        async for request in request_iterator:
            match request.WhichOneof("part"):
                case "header":
                    self.header = request.header
                case "file":
                    path = request.file.path
                    announced[path] = request.file
                    self.files[path] = b""
                case "chunk":
                    self.files[path] += request.chunk
                    if sum(map(len, self.files.values())) > self.refuse_after:
                        raise Invalid("too much", reason="IMPORT_TOO_LARGE")
        for path, data in self.files.items():
            assert len(data) == announced[path].size_bytes
            assert announced[path].digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
        return dataset_pb2.ImportItemsResponse(**{"import": dataset_pb2.Import(name="projects/default/imports/x")})

    async def ListDatasets(self, request: Any, context: Any) -> Any:
        start = int(request.page_token or 0)
        names = [f"projects/default/datasets/d{i}" for i in range(start, min(start + 2, 5))]
        answer = dataset_pb2.ListDatasetsResponse(datasets=[dataset_pb2.Dataset(name=name) for name in names])
        if start + 2 < 5:
            answer.next_page_token = str(start + 2)
        return answer


class Runs(trainer_pb2_grpc.TrainerServiceServicer):
    """A run of ten events; `tokens` records what watchers asked for, `cut_at` where a stream breaks off."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.cut_at: dict[int, Exception | None] = {}
        self.forgets = False
        self.first = RUNNING
        self.created: list[Any] = []

    async def CreateRun(self, request: Any, context: Any) -> Any:
        self.created.append(request)
        return trainer_pb2.CreateRunResponse(run=trainer_pb2.Run(name=RUN, spec=request.spec))

    async def WatchRun(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.tokens.append(request.resume_token)
        if self.forgets and request.resume_token:
            raise Expired("forgotten", reason="RESUME_TOKEN_EXPIRED")
        start = int(request.resume_token or 0)
        yield trainer_pb2.WatchRunResponse(
            resume_token=str(start), snapshot=trainer_pb2.Run(name=RUN, state=self.first)
        )
        for step in range(start + 1, 11):
            if step in self.cut_at:
                failure = self.cut_at.pop(step)
                if failure is None:
                    return
                raise failure
            yield trainer_pb2.WatchRunResponse(resume_token=str(step), progress=trainer_pb2.Progress(step=step))
        yield trainer_pb2.WatchRunResponse(snapshot=trainer_pb2.Run(name=RUN, state=SUCCEEDED))


class Models(model_pb2_grpc.ModelServiceServicer):
    def __init__(self) -> None:
        self.sent: list[tuple[str, int, bytes]] = []

    async def ExportModel(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for path, size, data in self.sent:
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}" if size == len(data) else ""
            yield model_pb2.ExportModelResponse(file=common_pb2.FileHeader(path=path, size_bytes=size, digest=digest))
            for start in range(0, len(data), 3):
                yield model_pb2.ExportModelResponse(chunk=data[start : start + 3])


class Generator(generator_pb2_grpc.GeneratorServiceServicer):
    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.endless = False
        self.lies = False
        self.lost: list[str] = []

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield generator_pb2.GenerateResponse(accepted=generator_pb2.Accepted(name="g", resolved=request))
        try:
            step = 0
            while self.endless or step < 3:
                step += 1
                yield generator_pb2.GenerateResponse(progress=generator_pb2.StepProgress(step=step, steps=3))
                await asyncio.sleep(0.005)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise
        for index in range(request.count):
            data = bytes([index]) * 700
            digest = f"sha256:{hashlib.sha256(b'?' if self.lies else data).hexdigest()}"
            file = common_pb2.FileRef(path="x.png", digest=digest, size_bytes=len(data), media_type="image/png")
            yield generator_pb2.GenerateResponse(
                image=generator_pb2.ImageHeader(index=index, seed=request.seed + index, width=8, height=8, file=file)
            )
            for start in range(0, 700, 256):
                yield generator_pb2.GenerateResponse(chunk=data[start : start + 256])
            if self.lost:
                raise Unavailable("gone", reason=self.lost.pop(), retry_after_s=0.01)
        yield generator_pb2.GenerateResponse(done=generator_pb2.Done(total_seconds=0.5))


class House:
    """All services on one port."""

    def __init__(self) -> None:
        self.datasets, self.runs, self.models, self.generator = Datasets(), Runs(), Models(), Generator()
        self.target = ""

    @property
    def endpoints(self) -> Endpoints:
        return Endpoints(dataset=self.target, trainer=self.target, generator=self.target)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        def registration(service: str, add: Callable[[Any], None]) -> Registration:
            return Registration(service=f"marsam.api.{service}", add=add)

        lifecycle = Lifecycle()
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(
            serve(
                [
                    registration(
                        "dataset.v1.DatasetService",
                        lambda s: dataset_pb2_grpc.add_DatasetServiceServicer_to_server(self.datasets, s),
                    ),
                    registration(
                        "trainer.v1.TrainerService",
                        lambda s: trainer_pb2_grpc.add_TrainerServiceServicer_to_server(self.runs, s),
                    ),
                    registration(
                        "model.v1.ModelService",
                        lambda s: model_pb2_grpc.add_ModelServiceServicer_to_server(self.models, s),
                    ),
                    registration(
                        "generator.v1.GeneratorService",
                        lambda s: generator_pb2_grpc.add_GeneratorServiceServicer_to_server(self.generator, s),
                    ),
                ],
                ServerSettings(grace_seconds=0.2),
                meter=Meter(service="test", version="0"),
                lifecycle=lifecycle,
                announce=ready.set_result,
            )
        )
        self.target = json.loads(await asyncio.wait_for(ready, 10))["grpc"]
        try:
            yield
        finally:
            lifecycle.stop()
            await asyncio.wait_for(task, 10)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    async with made.open():
        yield made


@pytest.fixture
async def marsam(house: House) -> AsyncIterator[AsyncMarsam]:
    async with AsyncMarsam(house.endpoints) as client:
        yield client


async def test_a_folder_arrives_whole_with_digests_and_progress(
    house: House, marsam: AsyncMarsam, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").write_bytes(b"no")
    content = {"a.png": b"x" * 600_000, "sub/ب.txt": "نص".encode(), "empty.txt": b"", "z.bin": b"z" * 9_000_000}
    for path, data in content.items():
        (tmp_path / path).write_bytes(data)
    seen: list[Transfer] = []
    await marsam.datasets.create("hayy")
    imported = await marsam.datasets.import_folder(tmp_path, "hayy", progress=seen.append)
    assert imported.name == "projects/default/imports/x"
    assert house.datasets.files == content
    assert house.datasets.header.parent == "projects/default/datasets/hayy"
    assert len(house.datasets.header.request_id) == 26
    assert seen[-1] == Transfer(files=4, files_total=4, bytes=9_600_004, bytes_total=9_600_004)
    assert [t.bytes for t in seen] == sorted(t.bytes for t in seen)


async def test_a_refusal_in_the_middle_of_an_upload_is_the_service_s(
    house: House, marsam: AsyncMarsam, tmp_path: Path
) -> None:
    (tmp_path / "big.bin").write_bytes(b"x" * 3_000_000)
    house.datasets.refuse_after = 1_000_000
    with pytest.raises(Invalid) as caught:
        await marsam.datasets.import_folder(tmp_path, "hayy")
    assert caught.value.reason == "IMPORT_TOO_LARGE"


async def test_what_goes_wrong_while_reading_is_said_as_it_is(marsam: AsyncMarsam, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    unreadable = tmp_path / "b.png"
    unreadable.write_bytes(b"x" * 1000)

    def vanish(transfer: Transfer) -> None:
        unreadable.unlink(missing_ok=True)

    with pytest.raises(Invalid) as caught:
        await marsam.datasets.import_folder(tmp_path, "hayy", progress=vanish)
    assert caught.value.reason == "FILE_UNREADABLE"
    assert str(unreadable) in caught.value.message
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(Invalid) as caught:
        await marsam.datasets.import_folder(empty, "hayy")
    assert caught.value.reason == "FOLDER_EMPTY"
    with pytest.raises(Invalid) as caught:
        await marsam.datasets.import_folder(tmp_path / "emty", "hayy")
    assert caught.value.reason == "PATH_MISSING"
    assert "'empty'" in caught.value.remedy
    with pytest.raises(Invalid, match=f"cannot read {empty}: Is a directory"):
        await marsam.generation.upload(empty)
    with pytest.raises(Invalid) as caught:
        await marsam.generation.upload(tmp_path / "aa.png")
    assert (caught.value.reason, caught.value.remedy) == ("PATH_MISSING", "did you mean 'a.png'?")


async def test_lists_are_whole(marsam: AsyncMarsam) -> None:
    assert [dataset.name[-2:] for dataset in await marsam.datasets.list()] == ["d0", "d1", "d2", "d3", "d4"]


async def test_short_names_become_resource_names(house: House, marsam: AsyncMarsam) -> None:
    spec = trainer_pb2.RunSpec(base="hayy-base", dataset_version="hayy/v1", method="lora")
    run = await marsam.runs.create(spec)
    assert run.spec.base == "projects/default/models/hayy-base"
    assert run.spec.dataset_version == "projects/default/datasets/hayy/versions/v1"
    assert spec.base == "hayy-base"
    assert len(house.runs.created[0].request_id) == 26
    with pytest.raises(Invalid) as caught:
        await marsam.runs.create(trainer_pb2.RunSpec(base="hayy-base", dataset_version="hayy", method="lora"))
    assert caught.value.field == "dataset_version"


def steps(events: list[Any]) -> list[int]:
    return [event.progress.step for event in events if event.HasField("progress")]


async def test_a_watch_goes_on_where_it_broke(house: House, marsam: AsyncMarsam) -> None:
    house.runs.cut_at = {4: Unavailable("restarting"), 7: None}
    events = [event async for event in marsam.runs.watch(RUN)]
    assert steps(events) == list(range(1, 11))
    assert house.runs.tokens == ["", "3", "6"]
    assert events[-1].snapshot.state == SUCCEEDED


async def test_the_watch_of_an_ended_run_tells_what_happened(house: House, marsam: AsyncMarsam) -> None:
    house.runs.first = SUCCEEDED
    house.runs.cut_at = {7: Unavailable("restarting")}
    events = [event async for event in marsam.runs.watch(RUN)]
    assert events[0].snapshot.state == events[-1].snapshot.state == SUCCEEDED
    assert steps(events) == list(range(1, 11))
    assert house.runs.tokens == ["", "6"]


async def test_a_watch_whose_token_is_forgotten_starts_again(house: House, marsam: AsyncMarsam) -> None:
    house.runs.cut_at = {3: None}
    house.runs.forgets = True
    events = [event async for event in marsam.runs.watch(RUN)]
    assert house.runs.tokens == ["", "2", ""]
    assert steps(events) == [1, 2, *range(1, 11)]


async def test_a_watch_survives_a_restart_of_the_service() -> None:
    house = House()
    house.runs.cut_at = {5: Unavailable("going down")}
    got: list[Any] = []
    four = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        first = contextlib.AsyncExitStack()
        await first.enter_async_context(house.open())
        client = await stack.enter_async_context(AsyncMarsam(house.endpoints))
        port = house.target

        async def follow() -> None:
            async for event in client.runs.watch(RUN):
                got.append(event)
                if len(steps(got)) == 4:
                    four.set()

        task = asyncio.create_task(follow())
        await asyncio.wait_for(four.wait(), timeout=10)
        await first.aclose()
        await asyncio.sleep(0.5)
        again = House()
        async with _on_port(again, port):
            await asyncio.wait_for(task, timeout=20)
        assert again.runs.tokens == ["4"]
    assert steps(got) == list(range(1, 11))


@contextlib.asynccontextmanager
async def _on_port(house: House, target: str) -> AsyncIterator[None]:
    lifecycle = Lifecycle()
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    registration = Registration(
        service="marsam.api.trainer.v1.TrainerService",
        add=lambda s: trainer_pb2_grpc.add_TrainerServiceServicer_to_server(house.runs, s),
    )
    settings = ServerSettings(listen=target, grace_seconds=0.2)
    meter = Meter(service="test", version="0")
    task = asyncio.create_task(
        serve([registration], settings, meter=meter, lifecycle=lifecycle, announce=ready.set_result)
    )
    await asyncio.wait_for(ready, 10)
    try:
        yield
    finally:
        lifecycle.stop()
        await asyncio.wait_for(task, 10)


async def test_a_watch_of_nothing_fails_at_once(house: House, marsam: AsyncMarsam) -> None:
    house.runs.cut_at = {1: Missing("no such run", resource=RUN)}
    with pytest.raises(Missing):
        async for _ in marsam.runs.watch(RUN):
            pass


async def test_an_export_is_checked_and_appears_whole(house: House, marsam: AsyncMarsam, tmp_path: Path) -> None:
    house.models.sent = [("unet/model.safetensors", 10, b"0123456789"), ("model_index.json", 2, b"{}")]
    into = tmp_path / "out"
    paths = await marsam.models.export("hayy-base", into)
    assert [path.relative_to(into).as_posix() for path in paths] == ["unet/model.safetensors", "model_index.json"]
    assert (into / "unet/model.safetensors").read_bytes() == b"0123456789"
    with pytest.raises(Exists):
        await marsam.models.export("hayy-base", into)
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "sent", [[("a", 4, b"abc")], [("../a", 1, b"a")], [("/a", 1, b"a")], [("ok", 1, b"a"), ("b", 9, b"")]]
)
async def test_a_bad_export_leaves_nothing(
    house: House, marsam: AsyncMarsam, tmp_path: Path, sent: list[tuple[str, int, bytes]]
) -> None:
    house.models.sent = sent
    with pytest.raises((Corrupt, Invalid)):
        await marsam.models.export("hayy-base", tmp_path / "out")
    assert os.listdir(tmp_path) == []


async def test_pictures_arrive_as_they_were_drawn(marsam: AsyncMarsam) -> None:
    events = [event async for event in marsam.generation.generate("خبّاز", model="hayy-base", seed=7, count=2)]
    assert isinstance(events[0], Accepted)
    assert events[0].request.prompt == "خبّاز"
    assert [event.step for event in events if isinstance(event, Progress)] == [1, 2, 3]
    images = [event for event in events if isinstance(event, Image)]
    assert [(image.index, image.seed, image.data) for image in images] == [(0, 7, b"\0" * 700), (1, 8, b"\1" * 700)]
    assert isinstance(events[-1], Done)


async def test_a_detached_drawing_is_followed_through_lost_calls(house: House, marsam: AsyncMarsam) -> None:
    house.generator.lost = ["GENERATION_IN_PROGRESS", "SHUTTING_DOWN"]
    drawing = marsam.generation.generate("x", model="hayy-base", seed=7, count=2, detach=True)
    events = [event async for event in drawing]
    assert house.generator.lost == []
    assert [type(event) for event in events if not isinstance(event, Progress)] == [Accepted, Image, Image, Done]
    house.generator.lost = ["SHUTTING_DOWN"]
    with pytest.raises(Unavailable):
        async for _ in marsam.generation.generate("x", model="hayy-base", seed=7):
            pass


async def test_a_picture_of_another_digest_is_corrupt(house: House, marsam: AsyncMarsam) -> None:
    house.generator.lies = True
    with pytest.raises(Corrupt):
        async for _ in marsam.generation.generate("x", model="hayy-base", seed=1):
            pass


async def test_leaving_the_loop_cancels_the_work(house: House, marsam: AsyncMarsam) -> None:
    house.generator.endless = True
    events = marsam.generation.generate("x", model="hayy-base")
    async for event in events:
        if isinstance(event, Progress):
            break
    await events.aclose()  # type: ignore[attr-defined]
    await asyncio.wait_for(house.generator.cancelled.wait(), timeout=2)


async def test_health(house: House) -> None:
    assert await health_client.check(house.target) < 2
    with pytest.raises(Unavailable):
        await health_client.check("127.0.0.1:1", seconds=3)


async def test_the_blocking_client_does_the_same(house: House, tmp_path: Path) -> None:
    house.runs.cut_at = {4: Unavailable("restarting")}
    (tmp_path / "a.png").write_bytes(b"x")

    def work() -> None:
        with Marsam(house.endpoints) as marsam:
            marsam.datasets.create("hayy")
            with pytest.raises(Exists):
                marsam.datasets.create("hayy")
            assert len(marsam.datasets.list()) == 5
            marsam.datasets.import_folder(tmp_path, "hayy")
            assert steps(list(marsam.runs.watch(RUN))) == list(range(1, 11))
            images = [e for e in marsam.generation.generate("x", model="b", seed=3) if isinstance(e, Image)]
            assert images[0].data == b"\0" * 700
            house.generator.endless = True
            for event in marsam.generation.generate("x", model="b"):
                if isinstance(event, Progress):
                    break

    await asyncio.to_thread(work)
    await asyncio.wait_for(house.generator.cancelled.wait(), timeout=2)
