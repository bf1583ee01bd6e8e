"""`marsam up`: the whole house on this machine."""

import asyncio
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from marsam.cli import children, console
from marsam.cli.children import Child
from marsam.cli.home import Home
from marsam.cli.session import Json, guarded
from marsam.client import find_credentials, health
from marsam.client.endpoints import HOME
from marsam.core.errors import Invalid, Precondition


def up(
    store: Annotated[Path, typer.Option(help="Folder for the store, the cache and the logs.")] = Path(HOME),
    objects: Annotated[
        str,
        typer.Option(metavar="URL", help="Keep objects at s3://bucket/prefix (see MARSAM_S3_*), not in the folder."),
    ] = "",
    port: Annotated[int, typer.Option(help="First of six ports in a row; 0 takes free ones.")] = 0,
    until_stdin_closes: Annotated[bool, typer.Option("--until-stdin-closes", hidden=True)] = False,
    as_json: Json = False,
) -> None:
    """Start the three services over a folder and keep them until Ctrl-C.

    Settings of a service go into FOLDER/dataset.toml, trainer.toml or generator.toml.
    """
    home = Home(root=store.expanduser().absolute(), objects=objects)
    if until_stdin_closes:
        # For programs that start us: when they die, however they die, we stop.
        threading.Thread(target=_follow_stdin, name="up.stdin", daemon=True).start()
    guarded(lambda: _up(home, port, as_json), as_json=as_json)


def _follow_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


async def _up(home: Home, port: int, as_json: bool) -> None:
    ports = _ports(port)
    await asyncio.to_thread(home.prepare)
    lock = await asyncio.to_thread(home.lock, note=console.note)
    children.adopt_orphans()
    stopping, hurry = asyncio.Event(), asyncio.Event()

    def told() -> None:
        if stopping.is_set():
            hurry.set()
        else:
            console.note("stopping (again to hurry)")
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, told)
    running: list[Child] = []
    try:
        await _serve(home, ports, lock, running, stopping, as_json=as_json)
    finally:
        home.endpoints.unlink(missing_ok=True)
        await children.stop(running, hurry=hurry)
        left = await children.end_orphans()
        os.close(lock)
        if left:
            console.note(f"ended {left} processes that outlived their service")
    if not as_json:
        console.note(f"stopped; everything is kept in {home.root}: go on with marsam up")


async def _serve(
    home: Home, ports: list[tuple[int, int]], lock: int, running: list[Child], stopping: asyncio.Event, *, as_json: bool
) -> None:
    """Starts all, tells where they are, and waits for the end: told to, or a service that died (raises its error)."""
    if not as_json:
        console.note("starting dataset, trainer and generator")
    stop = asyncio.create_task(stopping.wait(), name="up.stopping")

    async def begin(service: str, pair: tuple[int, int]) -> None:
        running.append(await children.start(service, home=home, ports=pair, lock=lock))

    try:
        async with asyncio.TaskGroup() as group:
            begins = [group.create_task(begin(s, p)) for s, p in zip(children.SERVICES, ports, strict=True)]
            group.create_task(_abandon(stopping, begins))
    except ExceptionGroup as failures:
        # Not `except*`: Python 3.11.2, Debian 12's own, wraps what that raises into a group again.
        raise failures.exceptions[0] from None
    if stopping.is_set():
        stop.cancel()
        return
    for child in running:
        await health.check(child.address["grpc"], seconds=10.0, tls=find_credentials().tls)
    home.write_endpoints(children.entries(running))
    _announce(home, running, as_json=as_json)
    died = asyncio.create_task(children.first_death(running), name="up.death")
    either: set[asyncio.Task[Any]] = {stop, died}
    done, _ = await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    for task in either:
        task.cancel()
    await asyncio.wait(either)
    if died in done and stop not in done:
        raise await asyncio.to_thread(children.death, died.result())


async def _abandon(stopping: asyncio.Event, begins: "list[asyncio.Task[None]]") -> None:
    """Lets a Ctrl-C interrupt the start; ends by itself when all have begun."""
    told = asyncio.create_task(stopping.wait())
    begun = asyncio.gather(*begins, return_exceptions=True)
    either: set[asyncio.Future[Any]] = {told, begun}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    for task in begins:
        task.cancel()


def _ports(first: int) -> list[tuple[int, int]]:
    """gRPC and HTTP port of each service. Raises Precondition that names the first one in use."""
    if first == 0:
        return [(0, 0)] * len(children.SERVICES)
    last = first + 2 * len(children.SERVICES) - 1
    if not 1 <= first <= 65535 or last > 65535:
        raise Invalid(f"--port must leave room for six ports below 65536, got {first}", field="--port")
    for number in range(first, last + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except OSError as error:
                raise Precondition(
                    f"port {number} is in use" if number else f"port {number}: {error.strerror}",
                    reason="PORT_IN_USE",
                    field="--port",
                    remedy="stop what listens there, name another first port, or leave --port out",
                ) from error
    return [(first + 2 * index, first + 2 * index + 1) for index in range(len(children.SERVICES))]


def _announce(home: Home, running: list[Child], *, as_json: bool) -> None:
    ordered = sorted(running, key=lambda child: children.SERVICES.index(child.service))
    if as_json:
        console.print_line({"event": "ready", "home": str(home.root), **children.entries(ordered)})
        return
    rows = [(child.service, child.address["grpc"], child.address["http"]) for child in ordered]
    console.print_table(("service", "gRPC", "HTTP"), rows, nothing="")
    site = next(child.address["http"] for child in running if child.service == "generator")
    console.note(f"draw in a browser: {site}/")
    console.note(f"up, over {home.root}; Ctrl-C stops. In another terminal: marsam doctor")
