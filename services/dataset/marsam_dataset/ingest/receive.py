"""Takes the files of an import as they stream in, and stores them content-addressed.

A file that cannot be taken costs its own verdict; only a stream that breaks the protocol ends the import.
"""

import asyncio
from collections.abc import Sequence

from marsam.catalog.imports import Received
from marsam.core.errors import Corrupt, Exhausted, Invalid
from marsam.core.paths import check_relative
from marsam.store.blobs import Blobs
from marsam.store.content import put_blob

_IN_FLIGHT = 16
_LARGE = 4 << 20
"""Files over this size are stored one at a time, so that what waits in memory stays bounded."""


class Receiver:
    """One import's files. Single use, single task; call `close` whatever happens."""

    def __init__(self, blobs: Blobs, project: str, *, max_files: int, max_file_bytes: int) -> None:
        self._blobs = blobs
        self._project = project
        self._max_files = max_files
        self._max_file_bytes = max_file_bytes
        self._files: dict[str, Received] = {}
        self._repeated: list[Received] = []
        self._current: _Partial | None = None
        self._storing: set[asyncio.Task[None]] = set()

    async def begin(self, path: str, *, size: int, digest: str = "") -> None:
        """Start the next file. Raises Invalid when the one before is not whole, Exhausted when there are too many."""
        await self._finish_current()
        if len(self._files) + len(self._repeated) >= self._max_files:
            raise Exhausted(
                f"an import takes at most {self._max_files} files",
                reason="IMPORT_TOO_MANY_FILES",
                remedy="send the folder in several imports",
            )
        self._current = _Partial(path, size, digest, refusal=self._refusal(path, size))

    def write(self, chunk: bytes) -> None:
        """Append to the file begun last. Raises Invalid when there is none, or when it was announced shorter."""
        if self._current is None:
            raise Invalid("a chunk arrived before any file header", field="chunk", reason="STREAM_ORDER")
        self._current.take(chunk)

    async def finish(self) -> Sequence[Received]:
        """Return every file in path order, when all are stored."""
        await self._finish_current()
        if self._storing:
            await asyncio.gather(*self._storing)
        return [*(self._files[path] for path in sorted(self._files)), *self._repeated]

    async def close(self) -> None:
        """Stop what is still being stored."""
        for task in self._storing:
            task.cancel()
        await asyncio.gather(*self._storing, return_exceptions=True)

    def _refusal(self, path: str, size: int) -> tuple[str, str] | None:
        try:
            check_relative(path)
        except Invalid as error:
            return "PATH_UNSAFE", error.message
        if path in self._files:
            return "FILE_TWICE", "A file of this path was sent before; the first one counts."
        if size > self._max_file_bytes:
            return "FILE_TOO_LARGE", f"The file has {size:,} bytes; at most {self._max_file_bytes:,} are taken."
        return None

    async def _finish_current(self) -> None:
        partial, self._current = self._current, None
        if partial is None:
            return
        partial.check_whole()
        if partial.refusal is not None:
            reason, message = partial.refusal
            if reason == "FILE_TWICE":
                # Every verdict has a place of its own: that of the first file is its path.
                place = f"{partial.path} (sent again, {len(self._repeated) + 1})"
                self._repeated.append(Received(path=place, size=partial.size, reason=reason, message=message))
            else:
                self._files[partial.path] = Received(
                    path=partial.path, size=partial.size, reason=reason, message=message
                )
            return
        self._files[partial.path] = Received(path=partial.path, size=partial.size)  # its path is taken from now on
        if partial.size > _LARGE:
            await self._store(partial)
            return
        while len(self._storing) >= _IN_FLIGHT:
            done, _ = await asyncio.wait(self._storing, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self._storing.discard(task)
                task.result()
        self._storing.add(asyncio.create_task(self._store(partial), name="import.store"))

    async def _store(self, partial: "_Partial") -> None:
        try:
            stored = await put_blob(
                self._blobs, self._project, b"".join(partial.chunks), expected=partial.digest or None
            )
        except Corrupt:
            message = "Its bytes are not those of the digest that was announced. Send it again."
            verdict = Received(path=partial.path, size=partial.size, reason="DIGEST_MISMATCH", message=message)
        else:
            verdict = Received(path=partial.path, size=partial.size, digest=stored.digest)
        self._files[partial.path] = verdict


class _Partial:
    """A file on its way. The chunks of one that is refused are counted and dropped."""

    def __init__(self, path: str, size: int, digest: str, *, refusal: tuple[str, str] | None) -> None:
        self.path = path
        self.size = size
        self.digest = digest
        self.refusal = refusal
        self.chunks: list[bytes] = []
        self._seen = 0

    def take(self, chunk: bytes) -> None:
        self._seen += len(chunk)
        if self._seen > self.size:
            raise _mismatch(self.path, self.size, "has more")
        if self.refusal is None:
            self.chunks.append(chunk)

    def check_whole(self) -> None:
        if self._seen != self.size:
            raise _mismatch(self.path, self.size, f"ended after {self._seen}")


def _mismatch(path: str, size: int, what: str) -> Invalid:
    return Invalid(
        f"'{path[:200]}' was announced with {size} bytes and {what}",
        field="file.size_bytes",
        reason="SIZE_MISMATCH",
        remedy="the file changed while it was sent; send it again",
    )
