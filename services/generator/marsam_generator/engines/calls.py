"""One call to a Triton server: a question, and its answer as it comes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient

from marsam.api.engine.v1 import engine_pb2
from marsam.core.errors import MarsamError, Unavailable

LOST = "ENGINE_LOST"
"""The reason of errors that mean: nothing that this engine was asked will be answered."""


def lost(address: str, why: str) -> Unavailable:
    """The engine is gone."""
    return Unavailable(
        f"the engine at {address} is not there: {why}",
        reason=LOST,
        remedy="see the log of the Triton server",
        retry_after_s=2.0,
    )


class Call:
    """A question and the words of its answer, None after the last.

    Read to its end by a task of its own. Were a caller to wait for the stream itself, leaving would cancel it in gRPC,
    and servers up to 25.01 crash, with everybody's work, when that meets the end of an answer (server#7368, #8034).
    """

    def __init__(
        self, client: InferenceServerClient, address: str, model: str, request: engine_pb2.EngineRequest
    ) -> None:
        self.words: asyncio.Queue[engine_pb2.EngineEvent | MarsamError | None] = asyncio.Queue()
        self._address = address
        self._stream = client.stream_infer(_inputs(model, request.SerializeToString()))
        self.over = False
        """Whether the answer came to its end, or broke off."""
        self.reading = asyncio.create_task(self._read(), name="triton.read")

    def cut(self, error: MarsamError | None) -> None:
        """End the call by force; who still waits for words gets the error."""
        self.over = True
        self.words.put_nowait(error)
        self._stream.cancel()

    async def _read(self) -> None:
        try:
            async for answer, refusal in self._stream:
                if refusal is not None:
                    self.words.put_nowait(lost(self._address, str(refusal)))
                else:
                    data = answer.get_response().raw_output_contents[0]
                    self.words.put_nowait(engine_pb2.EngineEvent.FromString(data))
        except grpc.aio.AioRpcError as error:
            self.words.put_nowait(lost(self._address, error.details() or error.code().name))
        except asyncio.CancelledError:
            if not self.over:
                raise
        finally:
            self.over = True
            self.words.put_nowait(None)


async def _inputs(model: str, request: bytes) -> AsyncIterator[dict[str, Any]]:
    tensor = InferInput("request", [len(request)], "UINT8")
    tensor._raw_content = request  # its only setter wants an array
    yield {"model_name": model, "inputs": [tensor]}
