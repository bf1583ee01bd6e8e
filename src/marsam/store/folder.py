"""A store in a folder: durable, atomic, safe among processes of one machine."""

import contextlib
import errno
import functools
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from marsam.core.errors import Exists, Expired, Invalid, Missing, OutcomeUnknown, Precondition, Unavailable
from marsam.store.blobs import CREATE_LIMIT, Entry, Stat
from marsam.store.keys import check_key, check_prefix
from marsam.store.staging import CHUNK, Staging, arrive, chunks, failure, fsync_folder, mismatch
from marsam.store.threads import offload

P = ParamSpec("P")
R = TypeVar("R")

# A key segment cannot begin with a dot, so no object can collide with it.
TEMPORARY = ".tmp"
_STALE_S = 24 * 3600


def _stated(work: Callable[P, R]) -> Callable[P, R]:
    """Turn what the operating system says about a key (the second argument of `work`) into a stated error."""

    @functools.wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return work(*args, **kwargs)
        except FileNotFoundError as error:
            raise Missing(f"no object '{args[1]}'", reason="OBJECT_MISSING") from error
        except OSError as error:
            raise failure(error, f"'{args[1]}'") from error

    return run


def _seen(path: Path) -> Stat:
    found = path.stat()
    return Stat(size=found.st_size, modified=datetime.fromtimestamp(found.st_mtime, UTC), now=datetime.now(UTC))


class FolderBlobs:
    """`Blobs` over the folder `root`, which is made when absent.

    An object is a file; its bytes are written aside, fsynced, then hard-linked (create) or renamed (put) into place,
    and the folder is fsynced: after a power cut there is either nothing or all of it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        try:
            (self.root / TEMPORARY).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise Precondition(f"{self.root} is not a folder", reason="STORE_NOT_A_FOLDER") from error
        except OSError as error:
            raise failure(error, f"the store folder {self.root}") from error

    def describe(self) -> str:
        """Return where the folder is."""
        return f"folder {self.root}"

    async def create(self, key: str, data: bytes) -> None:
        """See `Blobs.create`."""
        if len(data) > CREATE_LIMIT:
            raise Invalid(f"create takes at most {CREATE_LIMIT} bytes, got {len(data)} for '{key}'")
        await offload(self._create, check_key(key), data)

    async def put(self, key: str, source: bytes | Path | AsyncIterable[bytes], *, sha256: str | None = None) -> Stat:
        """See `Blobs.put`."""
        check_key(key)
        if isinstance(source, bytes | Path):
            return await offload(self._put, key, source, sha256)
        staging = await offload(self._stage, key)
        try:
            async for chunk in source:
                await offload(staging.write, chunk)
            return await offload(self._place, key, staging, sha256)
        finally:
            await offload(staging.discard)

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """See `Blobs.get`."""
        return await offload(self._get, check_key(key), start, length)

    async def stat(self, key: str) -> Stat:
        """See `Blobs.stat`."""
        return await offload(self._stat, check_key(key))

    async def fetch(self, key: str, into: Path, *, sha256: str, size: int) -> Path:
        """See `Blobs.fetch`."""
        return await offload(self._fetch, check_key(key), into, sha256, size)

    async def children(self, prefix: str) -> AsyncIterator[Entry]:
        """See `Blobs.children`."""
        for entry in await offload(self._children, check_prefix(prefix)):
            yield entry

    async def delete(self, keys: Sequence[str]) -> None:
        """See `Blobs.delete`."""
        for key in keys:
            check_key(key)
        for key in keys:
            await offload(self._delete, key)

    async def link(self, key: str, *, method: Literal["GET", "PUT"], ttl: timedelta) -> str | None:
        """Return None: a folder has no URLs, and callers stream instead."""
        check_key(key)
        return None

    def sweep(self) -> int:
        """Remove what writers that died left aside more than a day ago; return how many files that were."""
        removed = 0
        for file in (self.root / TEMPORARY).iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > _STALE_S:
                    file.unlink()
                    removed += 1
        return removed

    def _stage(self, key: str) -> Staging:
        return Staging(self.root / TEMPORARY, f"'{key}'")

    @_stated
    def _create(self, key: str, data: bytes) -> None:
        staging = self._stage(key)
        try:
            staging.write(data)
            staging.seal()
            try:
                while not self._linked(key, data, staging.path):
                    pass
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EMLINK):
                    raise Precondition(
                        f"the file system under {self.root} has no hard links: {error.strerror}",
                        reason="STORE_NO_HARD_LINKS",
                        remedy="put the store on a local file system such as ext4 or xfs",
                    ) from error
                raise
            self._make_durable(key)
        finally:
            staging.discard()

    def _linked(self, key: str, data: bytes, sealed: Path) -> bool:
        """Give sealed bytes their name. A taken name that holds the same bytes is the caller's own; False when the name
        was taken and has been deleted since: it is free again.
        """
        path = self.root / key
        try:
            self._into_folder(path, lambda: os.link(sealed, path))
        except FileExistsError as error:
            if path.is_dir():
                raise Precondition(f"'{key}' is a folder", reason="KEY_LAYOUT") from error
            try:
                held = path.read_bytes()
            except FileNotFoundError:
                return False
            if held != data:
                raise Exists(f"object '{key}' already exists", reason="OBJECT_EXISTS") from error
        return True

    def _make_durable(self, key: str) -> None:
        try:
            fsync_folder((self.root / key).parent)
        except FileNotFoundError:  # deleted and pruned meanwhile: nothing is left to make durable
            return
        except OSError as error:
            raise OutcomeUnknown(f"'{key}' was written, but may not survive a power cut: {error.strerror}") from error

    @_stated
    def _put(self, key: str, source: bytes | Path, sha256: str | None) -> Stat:
        staging = self._stage(key)
        try:
            for chunk in [source] if isinstance(source, bytes) else chunks(source):
                staging.write(chunk)
            return self._place(key, staging, sha256)
        finally:
            staging.discard()

    @_stated
    def _place(self, key: str, staging: Staging, sha256: str | None) -> Stat:
        found = staging.seal()
        if sha256 is not None and found != sha256:
            raise mismatch(f"'{key}'", sha256, found)
        path = self.root / key
        written = _seen(staging.path)  # a concurrent delete may take the name away again
        self._into_folder(path, lambda: os.replace(staging.path, path))
        self._make_durable(key)
        return written

    def _into_folder(self, path: Path, act: Callable[[], None]) -> None:
        """Run `act`, which names `path`, in a folder that exists: a concurrent delete may prune it, so try again."""
        for _ in range(100):
            self._make_folder(path.parent)
            try:
                return act()
            except FileNotFoundError:
                continue
        raise Unavailable(f"the folder of {path} vanishes again and again", reason="STORE_IO")

    def _make_folder(self, folder: Path) -> None:
        """Make `folder` and its parents, each durable in its own parent."""
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        try:
            folder.mkdir()
        except FileExistsError:
            if folder.exists() and not folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
            return
        except FileNotFoundError:  # the parent was pruned meanwhile: the caller tries again
            return
        with contextlib.suppress(FileNotFoundError):
            fsync_folder(folder.parent)

    @_stated
    def _get(self, key: str, start: int, length: int | None) -> bytes:
        with open(self.root / key, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if start < 0 or start > size or (length is not None and length < 0):
                raise Expired(f"'{key}' has {size} bytes; cannot read {length} from {start}", reason="RANGE_OUTSIDE")
            file.seek(start)
            return file.read() if length is None else file.read(length)

    @_stated
    def _stat(self, key: str) -> Stat:
        path = self.root / key
        if path.is_dir():
            raise Missing(f"no object '{key}', it is a folder", reason="OBJECT_MISSING")
        return _seen(path)

    @_stated
    def _fetch(self, key: str, into: Path, sha256: str, size: int) -> Path:
        with open(self.root / key, "rb") as source:
            pieces = iter(lambda: source.read(CHUNK), b"")
            return arrive(pieces, into, what=f"'{key}'", sha256=sha256, size=size)

    @_stated
    def _children(self, prefix: str) -> list[Entry]:
        found: list[Entry] = []
        try:
            with os.scandir(self.root / prefix) as scan:
                for entry in scan:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        found.append(Entry(name=entry.name, folder=True))
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        stat = entry.stat()
                        modified = datetime.fromtimestamp(stat.st_mtime, UTC)
                        found.append(Entry(name=entry.name, folder=False, size=stat.st_size, modified=modified))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return found

    @_stated
    def _delete(self, key: str) -> None:
        path = self.root / key
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return  # so that whoever writes here meets one pruned folder for one deleted object, not one for each call
        with contextlib.suppress(FileNotFoundError):
            fsync_folder(path.parent)
        for folder in path.parents:  # an empty folder is no folder: S3 has none either
            if folder == self.root:
                break
            try:
                folder.rmdir()
            except OSError:
                break
