"""A large object, copied in ranges side by side and hashed in order while the rest is still arriving."""

import asyncio
import hashlib
import os
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

from marsam.store.staging import CHUNK, failure, fsync_folder, mismatch
from marsam.store.threads import offload

PART = 16 << 20
AT_ONCE = 4

_MOST_PARTS = 9_000


def part_size(size: int) -> int:
    """How large the parts of an upload of `size` bytes are: S3 takes ten thousand of them at most."""
    return max(PART, -(-size // (_MOST_PARTS << 20)) << 20)


# (file, start, length): copy that range of the object to the same place in the file.
Copy = Callable[[Path, int, int], Awaitable[None]]


async def fetch(copy: Copy, into: Path, *, what: str, sha256: str, size: int) -> Path:
    """Make `into` from an object of `size` bytes; it appears there only verified, durable and read-only.

    Raises what `copy` raises, Corrupt (DIGEST_MISMATCH), Exhausted when the disk is full.
    """
    aside = into.parent / f"{os.getpid()}-{secrets.token_hex(8)}"
    starts = range(0, size, PART)
    arrived = [asyncio.Event() for _ in starts]
    waiting = iter(enumerate(starts))

    async def work() -> None:
        for number, start in waiting:
            await copy(aside, start, min(PART, size - start))
            arrived[number].set()

    async def digest() -> str:
        found = hashlib.sha256()
        for number, start in enumerate(starts):
            await arrived[number].wait()
            await offload(_hash, found, aside, start, min(PART, size - start))
        return found.hexdigest()

    try:
        await offload(_allocate, aside, size)
        try:
            async with asyncio.TaskGroup() as group:
                hashing = group.create_task(digest())
                for _ in range(min(AT_ONCE, len(starts))):
                    group.create_task(work())
        except ExceptionGroup as failures:  # not `except*`, which wraps what it raises in Python 3.11.2
            raise failures.exceptions[0] from None
        if hashing.result() != sha256:
            raise mismatch(what, sha256, hashing.result())
        await offload(_place, aside, into)
    finally:
        aside.unlink(missing_ok=True)
    return into


def _allocate(aside: Path, size: int) -> None:
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "xb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise failure(error, f"a file of {size} bytes in {aside.parent}") from error


def _hash(found: "hashlib._Hash", aside: Path, start: int, length: int) -> None:
    with open(aside, "rb", buffering=0) as file:
        file.seek(start)
        while length and (chunk := file.read(min(CHUNK, length))):
            found.update(chunk)
            length -= len(chunk)


def _place(aside: Path, into: Path) -> None:
    try:
        with open(aside, "rb") as file:
            os.fchmod(file.fileno(), 0o444)
            os.fsync(file.fileno())
        os.replace(aside, into)
        fsync_folder(into.parent)
    except OSError as error:
        raise failure(error, into.name) from error
