"""From a store's URL to a store, and the proof that it keeps what the whole system rests on."""

import asyncio
import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from marsam.core.errors import Deadline, Exists, Invalid, MarsamError, Missing, Precondition, Unsupported
from marsam.core.ids import new_ulid
from marsam.store import keys
from marsam.store.blobs import Blobs, names
from marsam.store.folder import FolderBlobs
from marsam.store.settings import s3_settings

RACERS = 8
_S3_URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/(?P<prefix>.*))?")


def open_store(url: str, environment: Mapping[str, str] | None = None) -> Blobs:
    """Return the store at `url`: an absolute path, 'file:///absolute/path' or 's3://bucket[/prefix]'.

    How S3 is reached is said by the `MARSAM_S3_*` variables of `environment` (this process's by default). Nothing is
    asked of the server yet: see `prove`.

    Raises Invalid (STORE_URL) for a URL that names no store, Unsupported (STORE_KIND) when the S3 client is not
    installed.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return _open_s3(url, os.environ if environment is None else environment)
    path = Path(unquote(parts.path) if parts.scheme == "file" else url)
    if parts.scheme not in ("", "file") or parts.netloc or not path.is_absolute():
        raise Invalid(f"'{url}' names no store", reason="STORE_URL", field="store",
                      remedy="use an absolute path, file:///absolute/path or s3://bucket/prefix")  # fmt: skip
    store = FolderBlobs(path)
    store.sweep()
    return store


def _open_s3(url: str, environment: Mapping[str, str]) -> Blobs:
    found = _S3_URL.fullmatch(url)
    if found is None:
        raise Invalid(f"'{url}' names no store", reason="STORE_URL", field="store",
                      remedy="use s3://bucket or s3://bucket/prefix, in small letters")  # fmt: skip
    try:
        from marsam.store.s3.blobs import S3Blobs
    except ModuleNotFoundError as error:
        raise Unsupported(f"the S3 client is not installed ({error.name} is missing)", reason="STORE_KIND",
                          field="store", remedy="pip install 'marsam[s3]'") from error  # fmt: skip
    return S3Blobs(found["bucket"], (found["prefix"] or "").strip("/"), s3_settings(environment))


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
