"""Files that arrive in chunks, laid out in a folder of their own and verified while they pass."""

import asyncio
import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from marsam.core.errors import Corrupt, Exhausted, Invalid
from marsam.core.ids import digest_hex
from marsam.core.paths import check_relative
from marsam.store.staging import failure

MOST_FILES = 1000
_FLUSH = 4 << 20
"""Chunks are gathered to this many bytes before a thread hashes and writes them: one hop per 16 messages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """A file of the folder: its relative path, where it lies, and what was counted while it arrived."""

    path: str
    file: Path
    digest: str
    size: int


class Upload:
    """One folder being received. Single use, single task; `close` must be called whatever happens."""

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._total = 0
        self._done: dict[str, Received] = {}
        self._open: _Partial | None = None

    async def begin(self, path: str, *, size: int, digest: str = "") -> None:
        """Start the next file of `size` bytes; the one before must be whole. Raises `Invalid`, `Exhausted`."""
        await self._finish()
        relative = check_relative(path, field="file.path")
        if any(part.startswith(".") for part in relative.parts):
            raise Invalid(f"hidden files are not part of a model: '{path}'", field="file.path", reason="PATH_UNSAFE")
        if path in self._done:
            raise Invalid(f"'{path}' was sent twice", field="file.path", reason="FILE_TWICE")
        if len(self._done) >= MOST_FILES:
            raise Exhausted(f"a model may have {MOST_FILES} files", reason="MODEL_TOO_MANY_FILES")
        if digest:
            digest_hex(digest, field="file.digest")
        self._total += size
        if self._total > self._limit:
            raise Exhausted(
                f"the files make {self._total} bytes or more; this service takes {self._limit}",
                reason="MODEL_TOO_LARGE",
                remedy="raise max_import_bytes in the trainer's settings",
            )
        target = self._folder.joinpath(*relative.parts)
        self._open = await asyncio.to_thread(_Partial.begin, path, target, size, digest)

    async def write(self, chunk: bytes) -> None:
        """Append `chunk` to the file begun last."""
        partial = self._open
        if partial is None:
            raise Invalid("a chunk arrived before any file header", field="chunk", reason="STREAM_ORDER")
        partial.gather(chunk)
        if partial.waiting >= _FLUSH:
            await asyncio.to_thread(partial.flush)

    async def finish(self) -> Sequence[Received]:
        """Verify the last file and return all, in path order."""
        await self._finish()
        return [self._done[path] for path in sorted(self._done)]

    async def close(self) -> None:
        """Drop the handle of a file that never became whole."""
        partial, self._open = self._open, None
        if partial is not None:
            with contextlib.suppress(OSError):  # a full disk refuses the last buffer again
                await asyncio.to_thread(partial.stream.close)

    async def _finish(self) -> None:
        partial = self._open
        if partial is not None:
            received = await asyncio.to_thread(partial.seal)
            self._done[received.path] = received
            self._open = None


class _Partial:
    """A file on its way; every method but `gather` blocks."""

    def __init__(self, path: str, target: Path, stream: BinaryIO, size: int, digest: str) -> None:
        self.stream = stream
        self.waiting = 0
        self._path = path
        self._target = target
        self._size = size
        self._expected = digest
        self._seen = 0
        self._chunks: list[bytes] = []
        self._sha = hashlib.sha256()

    @classmethod
    def begin(cls, path: str, target: Path, size: int, digest: str) -> "_Partial":
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            return cls(path, target, target.open("xb"), size, digest)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise Invalid(
                f"'{path}' is a file and a folder at once", field="file.path", reason="PATH_UNSAFE"
            ) from error
        except OSError as error:
            raise failure(error, f"'{path}' in the cache") from error

    def gather(self, chunk: bytes) -> None:
        self._seen += len(chunk)
        if self._seen > self._size:
            raise Invalid(
                f"'{self._path}' was announced with {self._size} bytes and has more",
                field="chunk",
                reason="SIZE_MISMATCH",
            )
        self._chunks.append(chunk)
        self.waiting += len(chunk)

    def flush(self) -> None:
        data = b"".join(self._chunks)
        self._chunks.clear()
        self.waiting = 0
        self._sha.update(data)
        try:
            self.stream.write(data)
            self.stream.flush()
        except OSError as error:
            raise failure(error, f"'{self._path}' in the cache") from error

    def seal(self) -> Received:
        self.flush()
        self.stream.close()
        if self._seen != self._size:
            raise Invalid(
                f"'{self._path}' was announced with {self._size} bytes and ended after {self._seen}",
                field="file.size_bytes",
                reason="SIZE_MISMATCH",
            )
        digest = f"sha256:{self._sha.hexdigest()}"
        if self._expected and digest != self._expected:
            raise Corrupt(
                f"'{self._path}' arrived as {digest}, announced as {self._expected}",
                reason="DIGEST_MISMATCH",
                remedy="read the file again and send it again",
            )
        return Received(path=self._path, file=self._target, digest=digest, size=self._size)
