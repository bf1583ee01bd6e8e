"""One interceptor around every call: layers that see it begin and end, guards that may refuse it.

gRPC hands an interceptor four shapes of handler. This module turns them into one `Call` and one place to stand, so
that a layer or guard is written once. Order, outermost first: access log, metrics, error table, then the guards
(auth, validation), then the handler. The error table stands around the guards, not inside them, because what they
raise must reach the caller as a status too.
"""

import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import Message


@dataclass(kw_only=True)
class Call:
    """One call being served."""

    method: str
    """`/package.Service/Method`."""

    context: Any
    """The grpc.aio servicer context."""

    metadata: dict[str, str] = field(default_factory=dict)
    """Text metadata the caller sent."""

    request_id: str = ""
    """Set by the outermost layer."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    """Set by the error table when the call fails."""

    @property
    def infrastructure(self) -> bool:
        """Health and reflection: no scopes, no tenants, no place in the log."""
        return self.method.startswith(("/grpc.health.", "/grpc.reflection."))


Layer = Callable[[Call], contextlib.AbstractAsyncContextManager[None]]


class Guard(Protocol):
    """Refuses a call by raising a MarsamError."""

    def admit(self, call: Call) -> None:
        """Before the handler starts."""
        ...

    def inspect(self, call: Call, request: Message) -> None:
        """Before the handler sees a request message; of a client stream, each of them."""
        ...


class Pipeline(grpc.aio.ServerInterceptor):
    """The interceptor."""

    def __init__(self, *, layers: Sequence[Layer], guards: Sequence[Guard]) -> None:
        self._layers = tuple(layers)
        self._guards = tuple(guards)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of a known method; an unknown one is answered by gRPC itself (UNIMPLEMENTED)."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return self._wrap(handler, str(handler_call_details.method))

    def _wrap(self, handler: Any, method: str) -> Any:
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }

        async def answer(request: Any, context: Any) -> Any:
            inner = handler.stream_unary if handler.request_streaming else handler.unary_unary
            async with self._around(method, context) as call:
                return await inner(self._checked(call, request, streaming=handler.request_streaming), context)

        async def answer_stream(request: Any, context: Any) -> None:
            # A coroutine that writes, not a generator: when the caller goes away, the cancellation then unwinds
            # handler and layers here and now, instead of whenever the generator is collected.
            inner = handler.stream_stream if handler.request_streaming else handler.unary_stream
            async with self._around(method, context) as call:
                result = inner(self._checked(call, request, streaming=handler.request_streaming), context)
                if inspect.isawaitable(result):
                    await result
                    return
                async with contextlib.aclosing(result) as messages:
                    async for message in messages:
                        await context.write(message)

        match handler.request_streaming, handler.response_streaming:
            case False, False:
                return grpc.unary_unary_rpc_method_handler(answer, **codec)
            case True, False:
                return grpc.stream_unary_rpc_method_handler(answer, **codec)
            case False, True:
                return grpc.unary_stream_rpc_method_handler(answer_stream, **codec)
            case _:
                return grpc.stream_stream_rpc_method_handler(answer_stream, **codec)

    @contextlib.asynccontextmanager
    async def _around(self, method: str, context: Any) -> AsyncIterator[Call]:
        sent = context.invocation_metadata() or ()
        texts = {key: value for key, value in sent if isinstance(value, str)}
        call = Call(method=method, context=context, metadata=texts)
        async with contextlib.AsyncExitStack() as stack:
            for layer in self._layers:
                await stack.enter_async_context(layer(call))
            for guard in self._guards:
                guard.admit(call)
            yield call

    def _checked(self, call: Call, request: Any, *, streaming: bool) -> Any:
        if not streaming:
            self._inspect(call, request)
            return request

        async def messages() -> AsyncIterator[Message]:
            async for message in request:
                self._inspect(call, message)
                yield message

        return messages()

    def _inspect(self, call: Call, message: Message) -> None:
        for guard in self._guards:
            guard.inspect(call, message)
