"""Who a supervisor is: a name that no other running one has, and that its successor after a restart has again."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from marsam.store.lock import only_one


@dataclass(frozen=True, kw_only=True)
class Seat:
    """`owner` names the seat in transitions; `folder` is where its launcher remembers programs."""

    owner: str
    folder: Path


@contextlib.asynccontextmanager
async def seated(folder: Path) -> AsyncIterator[Seat]:
    """Take the first free seat in `folder` of this machine and hold it inside the block.

    A process number would tell instances apart as well, but a restarted service would not find its own programs again.
    Of two services over one folder each has a seat, so neither takes up, nor stops, what the other launched; whoever
    comes after a crash sits where the crashed one sat.
    """
    with contextlib.ExitStack() as held:
        yield await asyncio.to_thread(held.enter_context, _first_free(folder))


@contextlib.contextmanager
def _first_free(folder: Path) -> Iterator[Seat]:
    folder = folder.absolute()
    for number in itertools.count(1):
        place = folder / str(number)
        with only_one(place / "lock") as free:
            if free:
                yield Seat(owner=f"{socket.gethostname()}:{place}", folder=place / "programs")
                return
