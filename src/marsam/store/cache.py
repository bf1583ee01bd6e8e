"""The local copy of blobs: verified on the way in, read-only, shared by every process on the machine."""

import asyncio
import contextlib
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from marsam.core.errors import Deadline, Precondition
from marsam.core.ids import digest_hex
from marsam.core.paths import check_relative
from marsam.store import keys
from marsam.store.blobs import Blobs
from marsam.store.lock import only_one
from marsam.store.staging import failure
from marsam.store.threads import offload

_PAUSE_S = 0.05
_STALE_S = 24 * 3600.0


class NamedBlob(Protocol):
    """A blob with a place in a folder tree, as manifests list them."""

    @property
    def path(self) -> str:
        """Where it goes, relative to the tree."""
        ...

    @property
    def digest(self) -> str:
        """What its bytes are called."""
        ...

    @property
    def size(self) -> int:
        """How many bytes it has."""
        ...


class Cache:
    """Blobs under `root/sha256/ab/<digest>`. Presence is proof: a file appears there only verified and complete.

    `budget` bounds its bytes whenever a user of the cache calls `trim`, which it does after having loaded what it
    fetched; None bounds nothing.
    """

    def __init__(self, root: Path, *, budget: int | None = None) -> None:
        self.root = root.absolute()
        self._budget = budget
        try:
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise failure(error, f"the cache folder {self.root}") from error

    def path(self, digest: str) -> Path:
        """Return where the blob `digest` is, or would be."""
        digits = digest_hex(digest)
        return self.root / "sha256" / digits[:2] / digits

    async def fetch(self, blobs: Blobs, project: str, digest: str, size: int, *, timeout_s: float = 3600.0) -> Path:
        """Return a local read-only file with the blob's bytes, copying it when absent; processes copy each blob once.

        The modified time of a hit is renewed, so that `trim` drops the least recently used first. It may drop this file
        too, at any time: `lay_out` what is to stay.

        Raises Missing, Corrupt (DIGEST_MISMATCH), Exhausted, Deadline (CACHE_BUSY) after `timeout_s` seconds.
        """
        target = self.path(digest)
        if await offload(_hit, target, size):
            return target
        async with self._only_one(digest, timeout_s):
            if not await offload(_hit, target, size):
                await blobs.fetch(keys.blob(project, digest), target, sha256=digest_hex(digest), size=size)
        return target

    async def lay_out(self, blobs: Blobs, project: str, files: Sequence[NamedBlob], into: Path) -> Path:
        """Make `into` a folder tree of `files` (hard links into the cache, copies across file systems); return it.

        Raises Invalid (PATH_UNSAFE) before anything is written when a path leaves the tree, and as for `fetch`.
        """
        places = [(file, into / check_relative(file.path)) for file in files]
        for file, place in places:
            # Dropped by another process between the two: fetched again.
            while not await offload(_link, await self.fetch(blobs, project, file.digest, file.size), place):
                pass
        return into

    async def trim(self) -> int:
        """Drop the least recently used files until the budget holds, and return how many bytes went.

        A file that is laid out somewhere is in use and stays: dropping its name would free nothing. One process trims
        at a time; another that comes meanwhile has nothing to do.
        """
        return await offload(self._trim, self._budget) if self._budget is not None else 0

    def _trim(self, budget: int) -> int:
        freed = 0
        with only_one(self.root / "locks" / "trim") as free:
            if not free:
                return 0
            found = sorted(self._stats(), key=lambda pair: pair[0].st_mtime)
            total = sum(stat.st_size for stat, _ in found)
            for stat, path in found:
                if total - freed <= budget:
                    break
                if stat.st_nlink > 1:
                    continue
                path.unlink(missing_ok=True)
                freed += stat.st_size
        return freed

    def _stats(self) -> Iterator[tuple[os.stat_result, Path]]:
        """Every cached file; what a killed fetch left aside a day ago goes."""
        for path in (self.root / "sha256").glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                if len(path.name) == 64:
                    yield stat, path
                elif time.time() - stat.st_mtime > _STALE_S:
                    path.unlink()

    @contextlib.asynccontextmanager
    async def _only_one(self, digest: str, timeout_s: float) -> AsyncIterator[None]:
        """Hold the digest's lock among all processes; the wait is polled so that no thread is held by it."""
        lock = self.root / "locks" / digest_hex(digest)
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while True:
            with only_one(lock) as free:
                if free:
                    yield
                    return
            if loop.time() > end:
                raise Deadline(
                    f"another process has been fetching {digest} for over {timeout_s:g} s", reason="CACHE_BUSY"
                )
            await asyncio.sleep(_PAUSE_S)


def _hit(path: Path, size: int) -> bool:
    """Say whether the cache holds the file; one of another size (a damaged disk) is dropped."""
    try:
        if path.stat().st_size != size:
            path.unlink()
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise failure(error, f"{path.name} in the cache") from error
    return True


def _link(cached: Path, place: Path) -> bool:
    """Put a cached file at `place`; False when it is no longer cached."""
    if place.is_dir():
        raise Precondition(f"{place.name} is a folder where a file belongs", reason="PATH_TAKEN")
    aside = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists() and place.samefile(cached):
            return True
        try:
            os.link(cached, aside)
        except OSError:
            shutil.copyfile(cached, aside)
        os.replace(aside, place)
        return True
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not cached.exists():
            return False
        raise failure(error, place.name) from error
    finally:
        aside.unlink(missing_ok=True)
