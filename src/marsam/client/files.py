"""Folders on this machine ⇄ streams of FileHeader and chunks."""

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marsam.api.common.v1 import common_pb2
from marsam.core.errors import Corrupt, Exhausted, Exists, Invalid, Precondition, did_you_mean
from marsam.core.paths import check_relative
from marsam.imaging.inscribed import MOST_BYTES

CHUNK_BYTES = 256 * 1024
# Small files are read, hashed and cut in one trip to a thread.
_WHOLE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How far a transfer is."""

    files: int
    files_total: int
    bytes: int
    bytes_total: int


Report = Callable[[Transfer], None]


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """A file to send: where it lies, what it is called on the other side."""

    source: Path
    path: str
    size: int


async def gather(root: Path, *, without: Collection[str] = ()) -> list[LocalFile]:
    """The files under a folder (or the one file), sorted by path; names that begin with a dot, or end as one of
    `without` does, are left out of a folder.

    Raises Invalid when there is nothing, naming what lies beside a misspelt path.
    """
    return await asyncio.to_thread(_gather, root, tuple(without))


def _gather(root: Path, without: tuple[str, ...]) -> list[LocalFile]:
    if root.is_file():
        return [LocalFile(source=root, path=root.name, size=root.stat().st_size)]
    if not root.is_dir():
        beside = sorted(p.name for p in root.parent.iterdir()) if root.parent.is_dir() else []
        raise Invalid(
            f"{root} is not there", field="path", reason="PATH_MISSING", remedy=did_you_mean(root.name, beside)
        )
    found: list[LocalFile] = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            source = Path(folder) / name
            if not name.startswith(".") and not name.lower().endswith(without) and source.is_file():
                path = source.relative_to(root).as_posix()
                found.append(LocalFile(source=source, path=path, size=source.stat().st_size))
    if not found:
        raise Invalid(f"{root} holds no files", field="path", reason="FOLDER_EMPTY")
    return sorted(found, key=lambda file: file.path)


async def sent(files: Sequence[LocalFile], *, wrap: Callable[..., Any], report: Report | None) -> AsyncIterator[Any]:
    """The requests that carry `files`, a header and chunks each; `wrap(file=…)` and `wrap(chunk=…)` build them."""
    total = sum(file.size for file in files)
    bytes_done = 0
    for index, file in enumerate(files):
        digest, whole = await asyncio.to_thread(_digest, file)
        header = common_pb2.FileHeader(path=file.path, size_bytes=file.size, digest=digest)
        yield wrap(file=header)
        chunks = _cut(whole) if whole is not None else _read_chunks(file)
        async for chunk in chunks:
            yield wrap(chunk=chunk)
            bytes_done += len(chunk)
            if report is not None:
                report(Transfer(files=index, files_total=len(files), bytes=bytes_done, bytes_total=total))
        if report is not None:
            report(Transfer(files=index + 1, files_total=len(files), bytes=bytes_done, bytes_total=total))


def _digest(file: LocalFile) -> tuple[str, bytes | None]:
    """The file's digest, and its bytes when it is small."""
    try:
        if file.size > _WHOLE_BYTES:
            with file.source.open("rb") as opened:
                return f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}", None
        whole = file.source.read_bytes()
    except OSError as error:
        raise Invalid(
            f"cannot read {file.source}: {error.strerror}",
            field="path",
            reason="FILE_UNREADABLE",
            remedy="make it readable, or move it out of the folder",
        ) from error
    if len(whole) != file.size:
        raise _changed(file)
    return f"sha256:{hashlib.sha256(whole).hexdigest()}", whole


def read_whole(path: Path, *, field: str) -> bytes:
    """The bytes of a picture or a certificate, of a file that is too large to be one as many as show it. Raises Invalid
    (PATH_MISSING) with what is called alike."""
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        beside = sorted(one.name for one in path.parent.iterdir()) if path.parent.is_dir() else []
        raise Invalid(
            f"cannot read {path}: {error.strerror}",
            field=field,
            reason="PATH_MISSING",
            remedy=did_you_mean(path.name, beside),
        ) from error


async def _cut(whole: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(whole), CHUNK_BYTES):
        yield whole[start : start + CHUNK_BYTES]


async def _read_chunks(file: LocalFile) -> AsyncIterator[bytes]:
    left = file.size
    opened = await asyncio.to_thread(file.source.open, "rb")
    try:
        while left:
            chunk = await asyncio.to_thread(opened.read, min(CHUNK_BYTES, left))
            if not chunk:
                raise _changed(file)
            left -= len(chunk)
            yield chunk
    finally:
        opened.close()


def _changed(file: LocalFile) -> Precondition:
    return Precondition(f"{file.source} changed while it was being sent", reason="FILE_CHANGED", remedy="send it again")


async def received(messages: AsyncIterable[Any], *, into: Path, report: Report | None = None) -> list[Path]:
    """Writes a stream of headers and chunks as files under the new folder `into`; gives their paths.

    The folder appears only when the whole stream has arrived and every size and digest is right. Raises Exists when
    `into` is there already, Corrupt when the bytes are not the announced ones, Exhausted when the disk is full.
    """
    try:
        partial = await asyncio.to_thread(_make_room, into)
        try:
            writer = _Writer(partial, report)
            async for message in messages:
                await asyncio.to_thread(writer.take, message)
            await asyncio.to_thread(writer.close)
            await asyncio.to_thread(partial.replace, into)
        finally:
            await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)
    except OSError as error:
        raise Exhausted(f"cannot write below {into.parent}: {error.strerror}", reason="DISK_WRITE_FAILED") from error
    return [into / path for path in writer.paths]


def _make_room(into: Path) -> Path:
    """A new empty folder beside `into`, on the same file system, to be renamed when it is complete."""
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise Exists(
            f"{into} is there already", reason="DESTINATION_EXISTS", remedy="name another folder, or remove it"
        )
    into.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{into.name}.", dir=into.parent))
    partial.chmod(0o755)
    return partial


class _Writer:
    """One file open at a time; all methods block."""

    def __init__(self, root: Path, report: Report | None) -> None:
        self._root = root
        self._report = report
        self._header: common_pb2.FileHeader | None = None
        self._opened: Any = None
        self._hash = hashlib.sha256()
        self._size = 0
        self._bytes = 0
        self.paths: list[str] = []

    def take(self, message: Any) -> None:
        if message.WhichOneof("part") == "file":
            self.close()
            self._header = message.file
            target = self._root / check_relative(message.file.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._opened = target.open("xb")
            self._hash = hashlib.sha256()
            self._size = 0
            return
        if self._opened is None:
            raise Corrupt("the service sent a chunk before any file", reason="STREAM_MALFORMED")
        self._opened.write(message.chunk)
        self._hash.update(message.chunk)
        self._size += len(message.chunk)
        self._bytes += len(message.chunk)
        if self._report is not None:
            self._report(Transfer(files=len(self.paths), files_total=0, bytes=self._bytes, bytes_total=0))

    def close(self) -> None:
        if self._header is None:
            return
        self._opened.close()
        announced, digest = self._header.digest, f"sha256:{self._hash.hexdigest()}"
        if self._size != self._header.size_bytes or (announced and announced != digest):
            raise Corrupt(
                f"'{self._header.path}' arrived as {self._size} bytes of {digest},"
                f" announced as {self._header.size_bytes} bytes of {announced or 'no digest'}",
                reason="DIGEST_MISMATCH",
            )
        self.paths.append(self._header.path)
        self._header = None
