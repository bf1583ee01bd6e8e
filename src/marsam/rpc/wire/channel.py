"""Client channels: one place for options, the bearer token and the request id."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from marsam.core.ids import new_ulid
from marsam.rpc.wire.credentials import ClientTls
from marsam.rpc.wire.metadata import AUTHORIZATION, REQUEST_ID, current_request_id
from marsam.rpc.wire.retries import service_config, services
from marsam.rpc.wire.target import parse_target

# At least the server's `min_recv_ping_interval_without_data`, or it answers GOAWAY too_many_pings.
KEEPALIVE_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000
METADATA_BYTES = 64 * 1024


def channel(target: str, *, token: str | None = None, tls: ClientTls | None = None) -> grpc.aio.Channel:
    """A channel to `target` (see `parse_target`). Close it, or use it as a context manager.

    TLS when `tls` is given or the target begins with https://, and never when it begins with http://. Every call gets
    an `x-request-id` (that of the call being served, else a new one) and, with `token`, the bearer header. A name with
    several addresses, such as that of a headless Service, gets calls at each in turn, and is asked for its addresses
    again when one is lost. Reads and calls with a request id are repeated when the server is unavailable, within their
    deadline.
    """
    options: list[tuple[str, Any]] = [
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.service_config", service_config(services())),
        # Else a channel to an address that an older one found dead waits with that one, though a server is there again.
        ("grpc.use_local_subchannel_pool", 1),
        # A new server on the same port must be found at once, not after the default backoff of up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # And one at a new address of the name, not after the default half minute.
        ("grpc.dns_min_time_between_resolutions_ms", 2_000),
    ]
    where = parse_target(target)
    if where.loopback:
        # gRPC would send even these calls to the proxy that `http_proxy` names, unless `no_proxy` thinks of it.
        options.append(("grpc.enable_http_proxy", 0))
    headers = _Headers(token)
    interceptors = [_UnaryUnary(headers), _UnaryStream(headers), _StreamUnary(headers), _StreamStream(headers)]
    if where.secure is False or (where.secure is None and tls is None):
        return grpc.aio.insecure_channel(where.address, options=options, interceptors=interceptors)
    shown = tls or ClientTls()
    if shown.server_name:
        options.append(("grpc.ssl_target_name_override", shown.server_name))
    credentials = grpc.ssl_channel_credentials(shown.ca, shown.key, shown.certificate)
    return grpc.aio.secure_channel(where.address, credentials, options=options, interceptors=interceptors)


class _Headers:
    def __init__(self, token: str | None) -> None:
        self._token = token

    def onto(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        if metadata.get(REQUEST_ID) is None:
            metadata.add(REQUEST_ID, current_request_id() or new_ulid())
        if self._token is not None and metadata.get(AUTHORIZATION) is None:
            metadata.add(AUTHORIZATION, f"Bearer {self._token}")
        return grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )


Continuation = Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]]


# grpc.aio sorts interceptors by class and takes only one role from each: hence four.
class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, headers: _Headers) -> None:
        self._headers = headers

    async def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self._headers.onto(client_call_details), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, headers: _Headers) -> None:
        self._headers = headers

    async def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self._headers.onto(client_call_details), request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, headers: _Headers) -> None:
        self._headers = headers

    async def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: grpc.aio.ClientCallDetails, request_iterator: Any
    ) -> Any:
        return await continuation(self._headers.onto(client_call_details), request_iterator)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, headers: _Headers) -> None:
        self._headers = headers

    async def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: grpc.aio.ClientCallDetails, request_iterator: Any
    ) -> Any:
        return await continuation(self._headers.onto(client_call_details), request_iterator)
