"""Where the nodes of one program meet before it begins: none starts a rank until all are there.

The first node listens, the others call until it answers, each by its number. When the last has called, the first tells
them all the port of rank 0. Nodes are found and images are pulled at different speeds: only this waits for them, and no
library's own time limit runs meanwhile.
"""

import contextlib
import random
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

_TURN_S = 1.0
_CALL_S = 5.0
_HELLO = 512
_PORTS = range(20_000, 32_000)
"""Below those that Linux gives to outgoing connections: a port found free is still free when rank 0 takes it."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a meeting is: the first node's name and the port that it listens at. The name also tells meetings apart."""

    host: str
    port: int


def free_port() -> int:
    """A port that nobody listens at."""
    for port in random.sample(_PORTS, 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            return port
    raise OSError("no free port below 32000")


def host(place: Place, nodes: int, *, address: str, turn: Callable[[str], None]) -> tuple[str, int]:
    """Wait for the other `nodes`, listening at `address` ('' is every one), and return (address, port) for rank 0.

    `turn` is called about once a second with what is waited for.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    port = free_port()
    with contextlib.ExitStack() as open_ones, socket.create_server((address, place.port), family=family) as server:
        here: dict[int, socket.socket] = {}
        while len(here) < nodes - 1:
            missing = sorted(set(range(1, nodes)) - set(here))
            turn(f"node {', '.join(map(str, missing))} of {nodes} has not come to {place.host}:{place.port}")
            for caller in select.select([server, *here.values()], [], [], _TURN_S)[0]:
                if caller is not server:  # it has said all that it had to say: it is gone
                    here = {number: known for number, known in here.items() if known is not caller}
                    continue
                known = open_ones.enter_context(server.accept()[0])
                number = _greeted(known, place)
                if number is not None and 0 < number < nodes:
                    here[number] = known
        for known in here.values():
            known.sendall(f"{port}\n".encode())
    return address or "127.0.0.1", port


def join(place: Place, node: int, *, turn: Callable[[str], None]) -> tuple[str, int]:
    """Call the first node until it says that all are there; return (address, port) of rank 0. `turn` as in `host`."""
    said = ""
    while True:
        turn(f"{place.host}:{place.port} does not answer{said}")
        try:
            with socket.create_connection((place.host, place.port), timeout=_CALL_S) as call:
                call.sendall(f"{place.host} {node}\n".encode())
                answer = _answered(call, lambda: turn(f"{place.host}:{place.port} waits for other nodes"))
                if answer.isdigit():
                    return str(call.getpeername()[0]), int(answer)
            said = " (it hung up)"
        except OSError as error:  # no name yet, nobody there yet, or not any more
            said = f" ({error.strerror or error})"
        time.sleep(_TURN_S)


def _greeted(call: socket.socket, place: Place) -> int | None:
    """The number of the node that calls; None for whoever is none of this meeting."""
    call.settimeout(_CALL_S)
    with contextlib.suppress(OSError):
        meeting, _, number = call.recv(_HELLO).decode(errors="replace").strip().partition(" ")
        if meeting == place.host and number.isdigit():
            return int(number)
    return None


def _answered(call: socket.socket, turn: Callable[[], None]) -> str:
    call.settimeout(_TURN_S)
    while True:
        with contextlib.suppress(TimeoutError):
            return call.recv(_HELLO).decode(errors="replace").strip()
        turn()
