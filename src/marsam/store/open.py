"""From a store's URL to a store, and the proof that it keeps what the whole system rests on."""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from marsam.core.errors import Deadline, Exists, Invalid, MarsamError, Missing, Precondition, Unsupported
from marsam.core.ids import new_ulid, sha256_hex
from marsam.store import keys
from marsam.store.blobs import Blobs, names
from marsam.store.folder import FolderBlobs
from marsam.store.settings import s3_settings

PATIENCE_S = 10.0
RACERS = 8
ROUNDS = 10
LARGE = 40 << 20
_S3_URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/(?P<prefix>.*))?")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One property of a store: whether it holds, and the fact or the fault."""

    name: str
    holds: bool
    fact: str
    seconds: float = 0.0
    reason: str = ""
    remedy: str = ""


def open_store(url: str, environment: Mapping[str, str] | None = None, *, patience_s: float = PATIENCE_S) -> Blobs:
    """Return the store at `url`: an absolute path, 'file:///absolute/path' or 's3://bucket[/prefix]'.

    How S3 is reached is said by the `MARSAM_S3_*` variables of `environment` (this process's by default). What can be
    repeated is repeated for `patience_s` seconds while the server is away. Nothing is asked of it yet: see `prove`.

    Raises Invalid (STORE_URL) for a URL that names no store, Unsupported (STORE_KIND) when the S3 client is not
    installed.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return _open_s3(url, os.environ if environment is None else environment, patience_s)
    path = Path(unquote(parts.path) if parts.scheme == "file" else url)
    if parts.scheme not in ("", "file") or parts.netloc or not path.is_absolute():
        raise Invalid(f"'{url}' names no store", reason="STORE_URL", field="store",
                      remedy="use an absolute path, file:///absolute/path or s3://bucket/prefix")  # fmt: skip
    store = FolderBlobs(path)
    store.sweep()
    return store


def _open_s3(url: str, environment: Mapping[str, str], patience_s: float) -> Blobs:
    found = _S3_URL.fullmatch(url)
    if found is None:
        raise Invalid(f"'{url}' names no store", reason="STORE_URL", field="store",
                      remedy="use s3://bucket or s3://bucket/prefix, in small letters")  # fmt: skip
    try:
        from marsam.store.s3.blobs import S3Blobs
    except ModuleNotFoundError as error:
        raise Unsupported(f"the S3 client is not installed ({error.name} is missing)", reason="STORE_KIND",
                          field="store", remedy="pip install 'marsam[s3]'") from error  # fmt: skip
    prefix = (found["prefix"] or "").strip("/")
    return S3Blobs(found["bucket"], prefix, s3_settings(environment), patience_s=patience_s)


async def prove(blobs: Blobs, *, timeout_s: float = 30.0) -> None:
    """Try, under a fresh prefix, every property that the numbered logs rest on; services call it before they serve.

    Raises Precondition whose reason names the property that failed: STORE_READ_AFTER_WRITE, STORE_CREATE_ONLY,
    STORE_CREATE_RACE, STORE_LIST_AFTER_WRITE, STORE_DELETE; Deadline (STORE_SLOW) after `timeout_s` seconds.
    """
    folder = keys.probe(new_ulid())
    try:
        async with asyncio.timeout(timeout_s):
            probes = [f"{folder}/once", f"{folder}/race"]
            try:
                await _create_only(blobs, probes[0])
                await _race(blobs, probes[1])
                if await names(blobs, folder, folders=False) != ["once", "race"]:
                    raise _broken(blobs, "LIST_AFTER_WRITE", "a listing lacks objects that were just written")
            except MarsamError:
                with contextlib.suppress(MarsamError):
                    await blobs.delete(probes)
                raise
            await blobs.delete(probes)
            await _gone(blobs, probes[0])
    except TimeoutError as error:
        raise Deadline(f"the store ({blobs.describe()}) did not answer the start-up proof within {timeout_s:g} s",
                       reason="STORE_SLOW") from error  # fmt: skip


async def examine(blobs: Blobs, scratch: Path) -> AsyncIterator[Finding]:
    """Yield one finding a property, the whole probe: what `prove` tries, races again and again, ranges, overwrites, a
    large object and links. `scratch` is a local folder. After the first that fails nothing more is tried.
    """
    folder = keys.probe(new_ulid())
    held = [f"{folder}/{name}" for name in ("once", "race", "range", "large", *(f"race-{n}" for n in range(ROUNDS)))]

    async def races() -> None:
        for n in range(ROUNDS):
            await _race(blobs, f"{folder}/race-{n}")

    async def listing() -> None:
        found = await names(blobs, folder, folders=False)
        if found != ["once", *sorted(f"race-{n}" for n in range(ROUNDS))]:
            raise _broken(blobs, "LIST_AFTER_WRITE", "a listing lacks objects that were just written")

    async def deleting() -> None:
        await blobs.delete(held)
        await _gone(blobs, held[0])

    steps: list[tuple[str, str, Callable[[], Awaitable[None]]]] = [
        ("create-only", "a second create of a key fails", lambda: _create_only(blobs, held[0])),
        ("create-race", f"{ROUNDS} times {RACERS} creates at once: one winner each, who knows it", races),
        ("list-after-write", "a listing shows what was just written", listing),
        ("overwrite", "a put overwrites, and a read returns the new bytes", lambda: _overwrite(blobs, held[2])),
        ("range", "a range of an object is read alone", lambda: _ranges(blobs, held[2])),
        ("large", f"{LARGE >> 20} MiB come back whole and verified", lambda: _large(blobs, held[3], scratch)),
        ("delete", "what is deleted is gone", deleting),
    ]
    for name, fact, step in steps:
        begin = time.monotonic()
        try:
            await step()
        except MarsamError as error:
            yield Finding(name=name, holds=False, fact=error.message, remedy=error.remedy, reason=error.reason)
            with contextlib.suppress(MarsamError):
                await blobs.delete(held)
            return
        yield Finding(name=name, holds=True, fact=fact, seconds=time.monotonic() - begin)
    linked = await blobs.link(held[0], method="GET", ttl=timedelta(minutes=1))
    yield Finding(name="links", holds=True, fact="are given" if linked else "are not given; nothing needs them")


def _broken(blobs: Blobs, property_name: str, what: str) -> Precondition:
    return Precondition(
        f"the store ({blobs.describe()}) cannot hold Marsam's state: {what}",
        reason=f"STORE_{property_name}",
        remedy="use a store that honours create-only writes: a local folder, or S3 with If-None-Match",
    )


async def _create_only(blobs: Blobs, key: str) -> None:
    await blobs.create(key, b"first")
    if await blobs.get(key) != b"first":
        raise _broken(blobs, "READ_AFTER_WRITE", "a read does not return what was just written")
    try:
        await blobs.create(key, b"second")
    except Exists:
        if await blobs.get(key) == b"first":
            return
    raise _broken(blobs, "CREATE_ONLY", "a second create overwrote the first instead of failing")


async def _race(blobs: Blobs, key: str) -> None:
    entries = [f"racer {n}".encode() for n in range(RACERS)]
    outcomes = await asyncio.gather(*(blobs.create(key, entry) for entry in entries), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exists):
            raise outcome
    winners = [entry for entry, outcome in zip(entries, outcomes, strict=True) if outcome is None]
    if len(winners) != 1 or await blobs.get(key) != winners[0]:
        raise _broken(blobs, "CREATE_RACE", f"{len(winners)} of {RACERS} concurrent creates of one key succeeded")


async def _gone(blobs: Blobs, key: str) -> None:
    try:
        await blobs.get(key)
    except Missing:
        return
    except MarsamError as error:
        raise _broken(blobs, "DELETE", f"reading a deleted object fails otherwise than by absence: {error}") from error
    raise _broken(blobs, "DELETE", "a deleted object can still be read")


async def _overwrite(blobs: Blobs, key: str) -> None:
    for data in (b"first", b"0123456789"):
        await blobs.put(key, data)
        if await blobs.get(key) != data:
            raise _broken(blobs, "READ_AFTER_WRITE", "a read does not return what was just written over another")


async def _ranges(blobs: Blobs, key: str) -> None:
    if await blobs.get(key, start=3, length=4) != b"3456":
        raise _broken(blobs, "RANGE", "a read of a range returns other bytes")


async def _large(blobs: Blobs, key: str, scratch: Path) -> None:
    data = os.urandom(1 << 20) * (LARGE >> 20)
    digest = sha256_hex(data)
    await blobs.put(key, data, sha256=digest)
    await blobs.fetch(key, scratch / "large", sha256=digest, size=LARGE)
