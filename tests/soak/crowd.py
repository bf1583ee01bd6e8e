"""Clients that come with all kinds of requests, three in ten of whom vanish."""

import asyncio
import io
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc.aio
from PIL import Image

from marsam.api.generator.v1 import generator_pb2, generator_pb2_grpc
from marsam.core.errors import Exhausted
from marsam.rpc.wire import channel, error_of
from tests.integration.generator.support import PROJECT, generate, model, request
from tests.soak.relay import Relay, relayed

CLIENTS = 6
VANISH = 0.3
PATIENCE_S = 120.0
"""In which a request that stays is done; alone it takes well under a second."""
VANISHED = ("cancel", "close", "cut")
TOLERATED = (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


async def pictures_to_start_from(stub: Any) -> list[str]:
    """A picture and a mask, uploaded."""
    return [await _uploaded(stub, Image.linear_gradient("L").resize((16, 16)).rotate(turn)) for turn in (0, 90)]


def asked(chance: random.Random, images: Sequence[str]) -> generator_pb2.GenerateRequest:
    """Any request that the tiny models can serve. A third of the prompts never come again."""
    fields: dict[str, Any] = {
        "prompt": chance.choice(["a chef", "طاهية في مطبخ", f"a smith {chance.random()}"]),
        "seed": chance.randrange(1 << 40),
        "steps": chance.choice([1, 2, 4, 8, 20, 50]),
        "guidance": chance.choice([1.0, 3.0, 7.5]),
        "scheduler": chance.choice(["", "ddim", "euler"]),
        "count": chance.choice([1, 1, 1, 2, 3]),
    }
    if chance.random() < 0.15:
        fields["model"] = model("tuned")
    else:
        fields["adapters"] = {name: chance.uniform(0.2, 1.0) for name in ("a", "b") if chance.random() < 0.4}
    if chance.random() < 0.3:
        fields |= {"init_image": images[0], "strength": chance.choice([0.3, 0.8])}
        if chance.random() < 0.5:
            fields["mask_image"] = images[1]
    if chance.random() < 0.3:
        fields["preview"] = generator_pb2.PreviewSpec(every_steps=chance.choice([1, 3]))
    if chance.random() < 0.2:
        fields["reproducibility"] = generator_pb2.REPRODUCIBILITY_EXACT
    if chance.random() < 0.2:
        fields |= {"detach": True, "request_id": f"{chance.random()}"}
    fields["format"] = chance.choice([generator_pb2.FORMAT_UNSPECIFIED, generator_pb2.FORMAT_WEBP])
    fields["tenant"] = chance.choice(["", "mona", "omar"])
    return request(**fields)


class Crowd:
    """Clients that call one after another until it is `over`, and how their calls ended."""

    def __init__(self, target: str, chance: random.Random, *, over: Callable[[], bool], images: Sequence[str]) -> None:
        self.told: Counter[str] = Counter()
        self._target = target
        self._chance = chance
        self._over = over
        self._images = images

    async def work(self) -> None:
        """All of them."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._client())

    async def _client(self) -> None:
        """Calls, each over a connection of its own."""
        while not self._over():
            wanted = asked(self._chance, self._images)
            async with relayed(self._target) as (address, relay), channel(address) as opened:
                stub = generator_pb2_grpc.GeneratorServiceStub(opened)
                if self._chance.random() < VANISH:
                    await self._vanish(stub, wanted, opened, relay)
                else:
                    await self._stay(stub, wanted)

    async def _stay(self, stub: Any, wanted: generator_pb2.GenerateRequest) -> None:
        try:
            answer = await generate(stub, wanted, timeout_s=PATIENCE_S)
        except grpc.aio.AioRpcError as failure:
            error = error_of(failure)
            assert isinstance(error, Exhausted), error
            self.told["turned away"] += 1
            await asyncio.sleep(error.retry_after_s or 0.5)
            return
        assert len(answer.images) == wanted.count and answer.done is not None
        self.told["done"] += 1

    async def _vanish(self, stub: Any, wanted: Any, opened: grpc.aio.Channel, relay: Relay) -> None:
        """Read a few messages (none, perhaps), then go in one of three ways."""
        call = stub.Generate(wanted, timeout=PATIENCE_S)
        way = self._chance.choice(VANISHED)
        try:
            for _ in range(self._chance.randrange(12)):
                if await call.read() is grpc.aio.EOF:
                    way = "stayed to the end"
                    break
            if way == "cancel":
                call.cancel()
            elif way == "close":
                await opened.close()
            elif way == "cut":
                relay.cut()
        except grpc.aio.AioRpcError as failure:
            assert failure.code() in TOLERATED, failure
            way = "turned away"
        self.told[way] += 1
        if wanted.detach and way in VANISHED:
            self.told["detached"] += 1


async def _uploaded(stub: Any, picture: Image.Image) -> str:
    out = io.BytesIO()
    picture.save(out, format="PNG")

    async def parts() -> AsyncIterator[generator_pb2.UploadImageRequest]:
        header = generator_pb2.UploadImageHeader(parent=PROJECT, size_bytes=len(out.getvalue()))
        yield generator_pb2.UploadImageRequest(header=header)
        yield generator_pb2.UploadImageRequest(chunk=out.getvalue())

    return str((await stub.UploadImage(parts(), timeout=60)).image)
