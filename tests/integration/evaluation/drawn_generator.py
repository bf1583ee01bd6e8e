"""A generator whose models behave as told: it speaks the real protocol on a real port, and draws with a pen."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from marsam_generator.evaluation.suites import Prompt, Suite

from marsam.api.common.v1 import common_pb2
from marsam.api.generator.v1 import generator_pb2, generator_pb2_grpc
from marsam.core.errors import Exhausted, Invalid
from marsam.core.ids import digest_of
from tests.unit.evaluation.synthetic import BASE, TUNED, draw, shown_by

CHUNK = 4096


class DrawnGenerator(generator_pb2_grpc.GeneratorServiceServicer):
    """The base behaves like `BASE`, with any adapter like `TUNED`. Counts what it draws.

    The same request id again gets the same picture without a drawing, as from the real generator.
    """

    def __init__(self, suite: Suite) -> None:
        self._prompts: dict[str, Prompt] = {text: p for p in suite.prompts for text in p.text.values()}
        self.calls: Counter[tuple[str, str, int]] = Counter()
        self._drawn: dict[str, bytes] = {}
        self.in_flight = self.most_in_flight = 0
        self.full_for = 0
        self.refuse = ""
        self.gate = asyncio.Event()
        self.gate.set()
        self.open_after = 0
        """With the gate closed, this many pictures are drawn all the same."""

    async def Generate(
        self, request: generator_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[generator_pb2.GenerateResponse]:
        if self.refuse:
            raise Invalid(self.refuse, reason="SCHEDULER_UNKNOWN", field="scheduler")
        if self.full_for > 0:
            self.full_for -= 1
            raise Exhausted("the queue is full", reason="QUEUE_FULL", retry_after_s=0.05)
        adapter = request.adapters[0].model if request.adapters else ""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield generator_pb2.GenerateResponse(
                accepted=generator_pb2.Accepted(name="projects/demo", resolved=request)
            )
            if request.request_id not in self._drawn:
                await asyncio.sleep(0.01)
                if sum(self.calls.values()) >= self.open_after:
                    await self.gate.wait()
                self.calls[request.prompt, adapter, request.seed] += 1
                self._drawn[request.request_id] = self._draw(request, adapter)
            data = self._drawn[request.request_id]
            file = common_pb2.FileRef(
                path="0.png", digest=digest_of(data), size_bytes=len(data), media_type="image/png"
            )
            yield generator_pb2.GenerateResponse(
                image=generator_pb2.ImageHeader(index=0, seed=request.seed, width=128, height=128, file=file)
            )
            for start in range(0, len(data), CHUNK):
                yield generator_pb2.GenerateResponse(chunk=data[start : start + CHUNK])
            yield generator_pb2.GenerateResponse(done=generator_pb2.Done(fingerprint="drawn by pen"))
        finally:
            self.in_flight -= 1

    async def ListCapabilities(
        self, request: generator_pb2.ListCapabilitiesRequest, context: Any
    ) -> generator_pb2.ListCapabilitiesResponse:
        return generator_pb2.ListCapabilitiesResponse(fingerprint="drawn by pen")

    def _draw(self, request: generator_pb2.GenerateRequest, adapter: str) -> bytes:
        prompt = self._prompts[request.prompt]
        luck = np.random.default_rng([request.seed, *request.prompt.encode()]).random()
        works = luck < (TUNED if adapter else BASE)[prompt.group]
        return draw(shown_by(prompt, works, np.random.default_rng(request.seed)), request.seed % 100)
