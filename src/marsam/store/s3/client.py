"""The connection to one bucket: the `minio` client, its HTTP pool and where the credentials come from."""

import configparser
import io
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import certifi
import urllib3
from minio import Minio
from minio.credentials import (
    AWSConfigProvider,
    ChainedProvider,
    Credentials,
    EnvAWSProvider,
    IamAwsProvider,
    Provider,
    StaticProvider,
)

from marsam.core.errors import Precondition
from marsam.store.settings import S3Settings
from marsam.store.threads import THREADS

AWS = "https://s3.amazonaws.com"
CONNECT_S = 3.0
READ_S = 10.0
# A request's body goes out in blocks: the socket's timeout is for each of them, not for a whole part on a slow link.
BLOCK = 128 << 10
# Parts of an upload are sent again one by one: a broken part must not cost those that are there.
_PART_RETRIES = urllib3.Retry(total=6, backoff_factor=0.5, status_forcelist=[500, 502, 503, 504])


def endpoint(settings: S3Settings) -> str:
    """The URL of the server."""
    return settings.s3_endpoint or AWS


def client(settings: S3Settings, *, url: str, provider: Provider, parts: bool = False) -> Minio:
    """A client for the server at `url`. It sends every request once; with `parts`, parts of uploads several times."""
    split = urlsplit(url)
    pool = OneHost(
        timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
        maxsize=2 * THREADS,
        blocksize=BLOCK,
        retries=_PART_RETRIES if parts else False,
        cert_reqs="CERT_REQUIRED",
        ca_certs=str(settings.s3_ca_file or certifi.where()),
    )
    # The region is given: otherwise every first call would ask the server for it, with retries of its own.
    return Minio(
        split.netloc, secure=split.scheme == "https", region=settings.s3_region, credentials=provider, http_client=pool
    )


class _Patient:
    """Once a connection stands, sending on it may take as long as an answer: urllib3 leaves the connect timeout on."""

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        """See `http.client.HTTPConnection`; the body follows."""
        super().endheaders(*args, **kwargs)  # type: ignore[misc]
        self.sock.settimeout(READ_S)  # type: ignore[attr-defined]


class _Plain(_Patient, urllib3.connection.HTTPConnection):
    pass


class _Secure(_Patient, urllib3.connection.HTTPSConnection):
    pass


class OneHost(urllib3.PoolManager):
    """Goes straight to the connections of the one server that it is for, and follows no redirect: looking for them at
    every request shows in small reads, and a signed request cannot be sent on to another host.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._pools: dict[str, urllib3.HTTPConnectionPool] = {}

    def urlopen(self, method: str, url: str, redirect: bool = True, **rest: Any) -> urllib3.BaseHTTPResponse:  # type: ignore[override]
        """See the parent."""
        server, path = url.split("/", 3)[2:]
        if server not in self._pools:
            pool = self.connection_from_url(url)
            pool.ConnectionCls = _Secure if pool.scheme == "https" else _Plain
            self._pools[server] = pool
        body = rest.pop("body", None)
        if isinstance(body, bytes) and len(body) > BLOCK:
            body = io.BytesIO(body)
        return self._pools[server].urlopen(
            method, f"/{path}", body=body, redirect=False, assert_same_host=False, **rest
        )


def credentials(settings: S3Settings) -> Provider:
    """Where the keys come from: the settings, a file, or the chain that AWS's own tools use."""
    if settings.s3_access_key:
        return StaticProvider(settings.s3_access_key, settings.s3_secret_key)
    if settings.s3_credentials_file is not None:
        return FileProvider(settings.s3_credentials_file)
    # A machine that is not on AWS has no metadata service: a short wait tells.
    quick = urllib3.PoolManager(timeout=urllib3.Timeout(connect=1.0, read=5.0), retries=urllib3.Retry(total=1))
    return ChainedProvider([EnvAWSProvider(), AWSConfigProvider(), RoleProvider(http_client=quick)])


class RoleProvider(IamAwsProvider):  # type: ignore[misc]  # the client carries no types here
    """The machine's or the pod's role; that there is none is said as the chain wants to hear it."""

    def retrieve(self) -> Credentials:
        """See `Provider.retrieve`."""
        try:
            return super().retrieve()
        except urllib3.exceptions.HTTPError as error:
            raise ValueError(f"no credentials from a role: {error}") from error


class FileProvider(Provider):  # type: ignore[misc]
    """Keys from a file in AWS's format, read again when the file changes: a Secret may be renewed under a service."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._credentials: Credentials | None = None
        self.retrieve()

    def retrieve(self) -> Credentials:
        """See `Provider.retrieve`. Raises Precondition (STORE_NO_CREDENTIALS) when the file holds no keys."""
        try:
            found = os.stat(self._path)
            stamp = (found.st_mtime_ns, found.st_ino)
            if self._credentials is None or stamp != self._stamp:
                self._credentials, self._stamp = self._read(), stamp
        except (OSError, configparser.Error, UnicodeDecodeError, KeyError) as error:
            raise Precondition(
                f"no keys in {self._path}: {error}", reason="STORE_NO_CREDENTIALS", field="s3_credentials_file",
                remedy="it holds [default], aws_access_key_id = … and aws_secret_access_key = …",
            ) from error  # fmt: skip
        return self._credentials

    def _read(self) -> Credentials:
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(self._path.read_text(encoding="utf-8"))
        section = parser["default"]
        return Credentials(
            section["aws_access_key_id"],
            section["aws_secret_access_key"],
            session_token=section.get("aws_session_token"),
        )
