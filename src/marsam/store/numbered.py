"""A numbered, create-only log: the one way in which anything in Marsam changes.

Entry n+1 can be created once. Whoever creates it decided on the state after entry n; whoever comes second learns that
and decides again. No locks, no lost updates, and history comes free.
"""

from marsam.core.errors import Conflict, Exists, Missing
from marsam.store.blobs import Blobs, create_surely, names
from marsam.store.keys import number


class NumberedLog:
    """The log in the folder `prefix`. Entries are numbered from 1 without gaps."""

    def __init__(self, blobs: Blobs, prefix: str) -> None:
        self._blobs = blobs
        self._prefix = prefix

    async def read(self, seq: int) -> bytes:
        """Return entry `seq`. Raises Missing."""
        return await self._blobs.get(f"{self._prefix}/{number(seq)}")

    async def head(self, known: int = 0) -> tuple[int, bytes] | None:
        """Return (number, bytes) of the last entry, None when the log is empty.

        With `known`, an entry that is known to exist, one look ahead settles the usual case that nothing is new;
        without it the folder is listed once.
        """
        last = known
        if last == 0:
            found = await names(self._blobs, self._prefix, folders=False)
            if not found:
                return None
            last = int(found[-1])
        data = await self.read(last)
        while True:
            try:
                data = await self.read(last + 1)
            except Missing:
                return last, data
            last += 1

    async def append(self, expected: int, data: bytes) -> int:
        """Write entry `expected + 1` and return its number. `data` must hold a random id of its writer.

        Raises Conflict (LOG_MOVED) when that entry is another's; OutcomeUnknown when the store stays unclear about it.
        """
        try:
            await create_surely(self._blobs, f"{self._prefix}/{number(expected + 1)}", data)
        except Exists as error:
            raise Conflict(
                f"entry {expected + 1} of '{self._prefix}' was written by somebody else", reason="LOG_MOVED"
            ) from error
        return expected + 1

    async def read_all(self, start: int = 1) -> list[bytes]:
        """Return every entry from number `start` on."""
        found: list[bytes] = []
        while True:
            try:
                found.append(await self.read(start + len(found)))
            except Missing:
                return found
