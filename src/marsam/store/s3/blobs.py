"""`Blobs` over one bucket of an S3 server that honours If-None-Match: AWS, the MinIO line, SeaweedFS."""

import functools
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import urllib3.exceptions
from minio.deleteobjects import DeleteObject
from minio.error import MinioException, S3Error

from marsam.core.errors import Exists, Expired, Invalid, MarsamError, Missing, OutcomeUnknown, Precondition, Unavailable
from marsam.core.ids import sha256_hex
from marsam.store.blobs import CREATE_LIMIT, Entry, Stat
from marsam.store.keys import check_key, check_prefix
from marsam.store.s3 import client as connecting
from marsam.store.s3 import failures, ranges
from marsam.store.s3.patience import Pauses, patiently
from marsam.store.s3.sending import Outgoing, opened
from marsam.store.settings import S3Settings
from marsam.store.staging import CHUNK, Staging, arrive, mismatch
from marsam.store.threads import offload

P = ParamSpec("P")
R = TypeVar("R")

RESENDS = 3
_DELETED_AT_ONCE = 1000


def _stated(work: "Callable[Concatenate[S3Blobs, str, P], R]") -> "Callable[Concatenate[S3Blobs, str, P], R]":
    """Turn what the server, or the way to it, says about a key (the first argument) into a stated error."""

    @functools.wraps(work)
    def run(self: "S3Blobs", key: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return work(self, key, *args, **kwargs)
        except (MinioException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            what = f"'{key}'" if key else "the bucket"
            raise failures.translated(error, what=what, place=self.describe(), bucket=self.bucket) from error

    return run


class S3Blobs:
    """`Blobs` under `prefix` ('' or 'a/b') of the bucket `bucket`.

    What can be repeated is repeated for `patience_s` seconds while the server is away. Some servers go on listing a
    folder for a while after its last object is gone.
    """

    def __init__(self, bucket: str, prefix: str, settings: S3Settings, *, patience_s: float) -> None:
        self.bucket = bucket
        self._prefix = f"{check_key(prefix)}/" if prefix else ""
        self._url = connecting.endpoint(settings)
        self._patience_s = patience_s
        provider = connecting.credentials(settings)
        self._client = connecting.client(settings, url=self._url, provider=provider)
        self._sender = connecting.client(settings, url=self._url, provider=provider, parts=True)
        public = settings.s3_public_endpoint
        self._public = connecting.client(settings, url=public, provider=provider) if public else None

    def describe(self) -> str:
        """Return bucket, prefix and server."""
        return f"s3://{self.bucket}/{self._prefix}".rstrip("/") + f" at {self._url}"

    async def create(self, key: str, data: bytes) -> None:
        """See `Blobs.create`."""
        if len(data) > CREATE_LIMIT:
            raise Invalid(f"create takes at most {CREATE_LIMIT} bytes, got {len(data)} for '{key}'")
        check_key(key)
        pauses = Pauses(self._patience_s, at_least=RESENDS)
        unknown: MarsamError | None = None
        while True:
            try:
                taken = not await offload(self._create, key, data)
            except failures.NotSent as error:
                problem: MarsamError = error
            except Unavailable as error:
                problem = unknown = error
            else:
                if not taken:
                    return
                problem = unknown = OutcomeUnknown(f"the name '{key}' is taken, and nothing can be read there")
            # Whoever's answer was lost, or was told that the name is taken, looks whether those are its own bytes.
            if unknown is not None:
                try:
                    if await self.get(key) == data:
                        return
                    raise Exists(f"object '{key}' already exists", reason="OBJECT_EXISTS")
                except Missing:  # not written, or deleted meanwhile: it may be written now
                    pass
                except Unavailable as error:
                    raise OutcomeUnknown(
                        f"'{key}' may have been written: {error.message}", remedy=error.remedy
                    ) from error
            if not await pauses.another():
                raise await self._given_up(key, problem, unknown)

    async def put(self, key: str, source: bytes | Path | AsyncIterable[bytes], *, sha256: str | None = None) -> Stat:
        """See `Blobs.put`. A stream is spooled to a temporary file first."""
        check_key(key)
        if isinstance(source, bytes):
            if sha256 is not None and (found := await offload(sha256_hex, source)) != sha256:
                raise mismatch(f"'{key}'", sha256, found)
            return await patiently(self._patience_s, self._put, key, source, None)
        if isinstance(source, Path):
            return await patiently(self._patience_s, self._put, key, source, sha256)
        with tempfile.TemporaryDirectory(prefix="marsam-") as folder:
            staging = await offload(Staging, Path(folder), f"'{key}'")
            try:
                async for chunk in source:
                    await offload(staging.write, chunk)
                found = await offload(staging.seal)
                if sha256 is not None and found != sha256:
                    raise mismatch(f"'{key}'", sha256, found)
                return await patiently(self._patience_s, self._put, key, staging.path, found)
            finally:
                await offload(staging.discard)

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """See `Blobs.get`."""
        return await patiently(self._patience_s, self._get, check_key(key), start, length)

    async def stat(self, key: str) -> Stat:
        """See `Blobs.stat`."""
        return await patiently(self._patience_s, self._stat, check_key(key))

    async def fetch(self, key: str, into: Path, *, sha256: str, size: int) -> Path:
        """See `Blobs.fetch`. Large objects come in ranges side by side."""
        check_key(key)
        if size <= ranges.PART:
            data = await self.get(key)
            return await offload(arrive, [data], into, what=f"'{key}'", sha256=sha256, size=size)

        async def copy(file: Path, start: int, length: int) -> None:
            await patiently(self._patience_s, self._copy, key, file, start, length, size)

        return await ranges.fetch(copy, into, what=f"'{key}'", sha256=sha256, size=size)

    async def children(self, prefix: str) -> AsyncIterator[Entry]:
        """See `Blobs.children`."""
        for entry in await patiently(self._patience_s, self._children, check_prefix(prefix)):
            yield entry

    async def delete(self, keys: Sequence[str]) -> None:
        """See `Blobs.delete`."""
        for key in keys:
            check_key(key)
        for at in range(0, len(keys), _DELETED_AT_ONCE):
            some = keys[at : at + _DELETED_AT_ONCE]
            await patiently(self._patience_s, self._delete, some[0], some)

    async def link(self, key: str, *, method: Literal["GET", "PUT"], ttl: timedelta) -> str | None:
        """See `Blobs.link`: None unless a public endpoint is set."""
        check_key(key)
        if self._public is None:
            return None
        return await offload(self._link, key, method, ttl)

    async def _given_up(self, key: str, problem: MarsamError, unknown: MarsamError | None) -> MarsamError:
        """The error of a create that could not be settled."""
        if unknown is None:
            return problem
        if [entry async for entry in self.children(key)]:
            return Precondition(f"'{key}' is a folder", reason="KEY_LAYOUT")
        return OutcomeUnknown(f"'{key}' may have been written: {problem.message}", remedy=problem.remedy)

    def _name(self, key: str) -> str:
        return self._prefix + key

    @_stated
    def _create(self, key: str, data: bytes) -> bool:
        """Write `data` if the name is free, and say whether it was. Sent once.

        The only place that writes If-None-Match. The client's public `put_object(metadata=…)` would store the header as
        a note and overwrite; its request function passes it on.
        """
        try:
            self._client._put_object(self.bucket, self._name(key), data, {"If-None-Match": "*"})
        except S3Error as error:
            if error.code == failures.TAKEN:
                return False
            raise
        return True

    @_stated
    def _put(self, key: str, source: bytes | Path, sha256: str | None) -> Stat:
        if isinstance(source, bytes) and len(source) <= ranges.PART:  # without the machinery of parts
            size, result = len(source), self._client._put_object(self.bucket, self._name(key), source, {})
        else:
            with opened(source) as (file, size):
                result = self._sender.put_object(
                    self.bucket,
                    self._name(key),
                    Outgoing(file, size, what=f"'{key}'", sha256=sha256),
                    size,
                    part_size=ranges.part_size(size),
                )
        now = _date(result.http_headers)
        return Stat(size=size, modified=now, now=now)

    @_stated
    def _get(self, key: str, start: int, length: int | None) -> bytes:
        if start < 0 or (length is not None and length <= 0):
            return self._nothing(key, start, length)
        try:
            response = self._client.get_object(self.bucket, self._name(key), offset=start, length=length or 0)
        except S3Error as error:
            if error.code != failures.RANGE:
                raise
            return self._nothing(key, start, length)
        try:
            self._check_ranged(key, response, ranged=bool(start or length))
            data: bytes = response.read()
        except BaseException:
            response.close()
            raise
        finally:
            response.release_conn()
        return data

    def _nothing(self, key: str, start: int, length: int | None) -> bytes:
        """What lies in a range without bytes: nothing inside of the object, an error outside."""
        size = self._stat(key).size
        if start < 0 or start > size or (length is not None and length < 0):
            raise Expired(f"'{key}' has {size} bytes; cannot read {length} from {start}", reason="RANGE_OUTSIDE")
        return b""

    def _check_ranged(self, key: str, response: Any, *, ranged: bool) -> None:
        if ranged and response.status != 206:
            raise Precondition(f"{self.describe()} ignores ranges: it answers with the whole of '{key}'",
                               reason="STORE_RANGE", remedy="use a store that serves ranges")  # fmt: skip

    @_stated
    def _stat(self, key: str) -> Stat:
        found = self._client.stat_object(self.bucket, self._name(key))
        now = _date(found.metadata)
        return Stat(size=int(found.size or 0), modified=found.last_modified or now, now=now)

    @_stated
    def _copy(self, key: str, file: Path, start: int, length: int, size: int) -> None:
        """Write `length` bytes of the object from `start` on to the same place in `file`."""
        try:
            response = self._client.get_object(self.bucket, self._name(key), offset=start, length=length)
        except S3Error as error:
            if error.code != failures.RANGE:
                raise
            raise mismatch(f"'{key}'", f"{size} bytes", f"{self._stat(key).size} bytes") from error
        try:
            self._check_ranged(key, response, ranged=True)
            there = int(response.headers.get("Content-Range", "").rpartition("/")[2] or -1)
            if there != size:
                raise mismatch(f"'{key}'", f"{size} bytes", f"{there} bytes")
            with open(file, "r+b", buffering=0) as out:
                out.seek(start)
                for chunk in response.stream(CHUNK):
                    out.write(chunk)
        except BaseException:
            response.close()
            raise
        finally:
            response.release_conn()

    @_stated
    def _children(self, prefix: str) -> list[Entry]:
        above = self._name(f"{prefix}/" if prefix else "")
        found = []
        for item in self._client.list_objects(self.bucket, prefix=above):
            name = str(item.object_name).removeprefix(above)
            if not name or name.startswith("."):
                continue
            if item.is_dir:
                found.append(Entry(name=name.removesuffix("/"), folder=True))
            else:
                found.append(Entry(name=name, folder=False, size=int(item.size or 0), modified=item.last_modified))
        return found

    @_stated
    def _delete(self, _: str, keys: Sequence[str]) -> None:
        if len(keys) == 1:
            self._client.remove_object(self.bucket, self._name(keys[0]))
            return
        for error in self._client.remove_objects(self.bucket, [DeleteObject(self._name(key)) for key in keys]):
            raise Unavailable(f"'{error.name}' was not deleted: {error.code} ({error.message})", reason="STORE_REFUSED")

    @_stated
    def _link(self, key: str, method: Literal["GET", "PUT"], ttl: timedelta) -> str:
        assert self._public is not None
        return str(self._public.get_presigned_url(method, self.bucket, self._name(key), expires=ttl))


def _date(headers: Any) -> datetime:
    """The server's clock, as the answer says; this machine's if it does not."""
    said = headers.get("Date") if headers else None
    return parsedate_to_datetime(said) if said else datetime.now(UTC)
