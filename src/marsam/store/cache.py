"""The local copy of blobs: verified on the way in, read-only, shared by every process on the machine."""

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

from marsam.core.errors import Deadline, Precondition
from marsam.core.ids import digest_hex
from marsam.core.paths import check_relative
from marsam.store import keys
from marsam.store.blobs import Blobs
from marsam.store.content import digest_file
from marsam.store.staging import failure
from marsam.store.threads import offload

_PAUSE_S = 0.05


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
    """Blobs under `root/sha256/ab/<digest>`. Presence is proof: a file appears there only verified and complete."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
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

        The modified time of a hit is renewed, so that `trim` drops the least recently used first.

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
            cached = await self.fetch(blobs, project, file.digest, file.size)
            await offload(_link, cached, place)
        return into

    async def verify(self) -> list[str]:
        """Hash every cached file again, drop those that are not what they are called, and return their digests."""
        bad = []
        for file in await offload(self._files):
            if (await offload(digest_file, file)).digest != f"sha256:{file.name}":
                await offload(file.unlink)
                bad.append(f"sha256:{file.name}")
        return bad

    async def trim(self, budget: int) -> int:
        """Drop the least recently used files until at most `budget` bytes are cached; return how many bytes went."""
        return await offload(self._trim, budget)

    def _files(self) -> list[Path]:
        return sorted(p for p in (self.root / "sha256").glob("??/*") if len(p.name) == 64)

    def _trim(self, budget: int) -> int:
        stats = sorted(((p.stat(), p) for p in self._files()), key=lambda pair: pair[0].st_mtime)
        total = sum(stat.st_size for stat, _ in stats)
        freed = 0
        for stat, path in stats:
            if total - freed <= budget:
                break
            path.unlink(missing_ok=True)
            freed += stat.st_size
        return freed

    @contextlib.asynccontextmanager
    async def _only_one(self, digest: str, timeout_s: float) -> AsyncIterator[None]:
        """Hold the digest's lock among all processes; the wait is polled so that no thread is held by it."""
        lock = self.root / "locks" / digest_hex(digest)
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise failure(error, f"the lock of {digest} in the cache") from error
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if loop.time() > end:
                        raise Deadline(f"another process has been fetching {digest} for over {timeout_s:g} s",
                                       reason="CACHE_BUSY") from None  # fmt: skip
                    await asyncio.sleep(_PAUSE_S)
            yield
        finally:
            os.close(descriptor)


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


def _link(cached: Path, place: Path) -> None:
    if place.is_dir():
        raise Precondition(f"{place.name} is a folder where a file belongs", reason="PATH_TAKEN")
    aside = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists() and place.samefile(cached):
            return
        try:
            os.link(cached, aside)
        except OSError:
            shutil.copyfile(cached, aside)
        os.replace(aside, place)
    except OSError as error:
        raise failure(error, place.name) from error
    finally:
        aside.unlink(missing_ok=True)
