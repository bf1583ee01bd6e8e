"""Serving: from registrations to a drained exit."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio
from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from marsam.core.errors import did_you_mean
from marsam.core.tokens import Principal, read_tokens
from marsam.rpc.server import listening, pages
from marsam.rpc.server.auth import Auth
from marsam.rpc.server.layers import Counted, access_log, error_table, metered
from marsam.rpc.server.lifecycle import Lifecycle
from marsam.rpc.server.pages import Page
from marsam.rpc.server.pipeline import Pipeline
from marsam.rpc.server.reload import Reloaded, follow
from marsam.rpc.server.settings import Address, ServerSettings, parse_address
from marsam.rpc.server.tls import Tls
from marsam.rpc.server.validation import Validation
from marsam.rpc.wire.channel import METADATA_BYTES
from marsam.rpc.wire.scopes import known_scopes, scope_of
from marsam.telemetry import Log, Meter, http, metrics

_LOG = Log("marsam.rpc.server")
_LAG_PROBE_SECONDS = 0.5
_FOR_EVER = 1e6
_OPTIONS = [
    # Two servers on one port would each get half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_metadata_size", METADATA_BYTES),
    # Long calls without data are normal here; the default of five minutes would punish our clients' pings.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Connections are renewed so that calls spread over new replicas; watches resume by token.
    ("grpc.max_connection_age_ms", 30 * 60_000),
    ("grpc.max_connection_age_grace_ms", 5 * 60_000),
]


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A servicer and how it is added: `add=lambda server: add_XServicer_to_server(servicer, server)`."""

    service: str
    """Full name, such as `marsam.api.trainer.v1.TrainerService`."""

    add: Callable[[grpc.aio.Server], None]


def _announce(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def serve(
    registrations: Sequence[Registration],
    settings: ServerSettings,
    *,
    meter: Meter,
    lifecycle: Lifecycle,
    web: Sequence[Page] = (),
    fitness: Callable[[], AsyncIterator[bool]] | None = None,
    announce: Callable[[str], None] = _announce,
) -> None:
    """Serves until `lifecycle.stop()`, then drains: NOT_SERVING, `drain_seconds` for load balancers, `grace_seconds`
    for open calls. `announce` gets the ready line with the real addresses. `web` joins the HTTP side.

    While `fitness` says that the service cannot do its work, its health is NOT_SERVING and /readyz says so; calls are
    taken all the same.

    Token file and certificate are read again when they change. Raises Precondition for an address that cannot be had
    or a certificate that no client would take, Invalid for a bad token file, certificate or key, Internal for a method
    without scope.
    """
    _check_scopes(registrations)
    tokens = _tokens(settings)
    tls = Tls(settings.tls) if settings.tls is not None else None
    auth = Auth((lambda: tokens.current) if tokens is not None else None)
    pipeline = Pipeline(layers=(access_log, metered(meter), error_table), guards=(auth, Validation()))
    server = grpc.aio.server(interceptors=[pipeline], options=_OPTIONS)
    for registration in registrations:
        registration.add(server)
    names = [registration.service for registration in registrations]
    checker = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    if tokens is None:
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)

    address = parse_address(settings.listen, field="listen")
    http_address = parse_address(settings.http_listen, field="http_listen")
    listener = listening.claim(http_address, setting="http_listen")
    try:
        credentials = tls.for_grpc() if tls is not None else None
        port = listening.bind(server, address, setting="listen", credentials=credentials)
    except BaseException:
        listener.close()
        raise
    serving, shown = asyncio.Event(), Counted()
    app = http.application(
        meter,
        ready=lambda: serving.is_set() and not lifecycle.draining.is_set(),
        routes=pages.routes(web, auth, layers=(access_log, metered(meter), shown.layer)),
    )
    context = tls.for_http() if tls is not None else None
    watched = [one for one in (tokens, tls.reloaded if tls is not None else None) if one is not None]
    async with http.serving(app, listener, tls=context) as http_port, _lag_probe(meter), _kept_fresh(watched):
        await server.start()

        async def tell(fit: bool) -> None:
            for name in ("", *names):
                states = health_pb2.HealthCheckResponse
                await checker.set(name, states.SERVING if fit else states.NOT_SERVING)
            (serving.set if fit else serving.clear)()

        async def follow_fitness(told: AsyncIterator[bool]) -> None:
            async for fit in told:
                _LOG.info("service.fit" if fit else "service.unfit")
                await tell(fit)

        await tell(fitness is None)
        minding = asyncio.create_task(follow_fitness(fitness()), name="rpc.fitness") if fitness is not None else None
        scheme = "https://" if tls is not None else ""
        where = lifecycle.address = f"{scheme}{Address(host=address.host, port=port)}"
        site = f"{scheme or 'http://'}{Address(host=http_address.host, port=http_port)}"
        _LOG.info("service.ready", listen=where, http=site)
        if tls is None and not address.loopback:
            _LOG.warning("service.plaintext", listen=where, remedy="set MARSAM_TLS_CERT_FILE and MARSAM_TLS_KEY_FILE, "
                         "or keep the port behind something that encrypts")  # fmt: skip
        announce(json.dumps({"event": "ready", "service": meter.service, "grpc": where, "http": site}))
        try:
            await lifecycle.stopped()
        finally:
            if minding is not None:
                minding.cancel()
                await asyncio.wait({minding})
            await _drain(server, shown, checker, settings, lifecycle)


async def _drain(
    server: grpc.aio.Server,
    shown: Counted,
    checker: health.aio.HealthServicer,
    settings: ServerSettings,
    lifecycle: Lifecycle,
) -> None:
    """Wait for open calls, those of gRPC and the pages that are `shown`."""
    began = time.monotonic()
    _LOG.info("service.draining", grace_seconds=settings.grace_seconds)
    lifecycle.draining.set()
    await checker.enter_graceful_shutdown()
    hurry = asyncio.create_task(lifecycle.hurried(), name="rpc.hurry")
    try:
        if settings.drain_seconds:
            await asyncio.wait({hurry}, timeout=settings.drain_seconds)
        # gRPC's own grace is never used. When it runs out while another call of `stop` cuts it short, gRPC destroys the
        # server in one and touches it in the other, and the process is gone.
        stopping = asyncio.create_task(server.stop(_FOR_EVER), name="rpc.stop")
        over = asyncio.gather(stopping, shown.over())
        waiting: set[asyncio.Future[Any]] = {hurry, over}
        await asyncio.wait(waiting, timeout=settings.grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await server.stop(0)
        await stopping
        over.cancel()
    finally:
        hurry.cancel()
        await asyncio.wait({hurry})
    _LOG.info("service.stopped", seconds=round(time.monotonic() - began, 3))


def _tokens(settings: ServerSettings) -> Reloaded[Mapping[str, Principal]] | None:
    path = settings.token_file
    if path is None:
        return None

    def read() -> Mapping[str, Principal]:
        found = read_tokens(path)
        known = known_scopes()
        for principal in found.values():
            for scope in principal.scopes - known:
                # Not refused: the file may already name what the next version of the service knows.
                _LOG.warning("tokens.unknown_scope", principal=principal.name, message=f"no method asks for '{scope}'",
                             remedy=did_you_mean(scope, sorted(known)))  # fmt: skip
        return found

    return Reloaded("token_file", [path], read)


def _check_scopes(registrations: Sequence[Registration]) -> None:
    for registration in registrations:
        for method in descriptor_pool.Default().FindServiceByName(registration.service).methods:
            scope_of(method)


@contextlib.asynccontextmanager
async def _kept_fresh(watched: Sequence[Reloaded[Any]]) -> AsyncIterator[None]:
    task = asyncio.create_task(follow(watched), name="rpc.reload")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


@contextlib.asynccontextmanager
async def _lag_probe(meter: Meter) -> AsyncIterator[None]:
    async def probe() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(_LAG_PROBE_SECONDS)
            meter.set(metrics.EVENT_LOOP_LAG, max(0.0, time.monotonic() - began - _LAG_PROBE_SECONDS))

    task = asyncio.create_task(probe(), name="rpc.lag")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
