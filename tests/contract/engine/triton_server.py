"""A real Triton Inference Server on loopback with our model in it, out of the environment that `make .triton` makes."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MODELS = ROOT / "services" / "generator" / "model_repository"
MODEL = "marsam_diffusion"
START_S = 200.0

_SITE = next((ROOT / ".triton").glob("lib/python*/site-packages"), ROOT / ".triton" / "missing")
_SERVER = _SITE / "pytriton" / "tritonserver"
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def site() -> str:
    """Where this project's packages are: what MARSAM_SITE says. The stub has a standard library of its own."""
    own = [path for path in sys.path if path and not Path(path).is_relative_to(Path(sys.base_prefix))]
    return os.pathsep.join(own)


@dataclass(kw_only=True)
class Triton:
    """A running server. `grpc` and `http` are its addresses, `page` the address of the engine's own HTTP."""

    process: subprocess.Popen[bytes]
    grpc: str
    http: str
    page: str
    log: Path
    folder: Path

    def ready(self) -> bool:
        """Whether Triton says that our model is ready."""
        try:
            with urllib.request.urlopen(f"http://{self.http}/v2/models/{MODEL}/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stub(self) -> int:
        """The process that our model runs in."""
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=True
        )
        return int(found.stdout.split()[0])

    def shared_memory(self) -> int:
        """Bytes of /dev/shm that this server's models take."""
        return sum(path.stat().st_blocks * 512 for path in Path("/dev/shm").glob(f"marsam{self.process.pid}*"))

    def value(self, name: str) -> float:
        """The sum of one metric's samples on the engine's own page."""
        with urllib.request.urlopen(f"http://{self.page}/metrics", timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def _ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def started(folder: Path, *, models: Path = MODELS, like: Triton | None = None, **variables: str) -> Iterator[Triton]:
    """A server with `models`, given `variables`, that is gone after the block; not awaited. Its files lie in `folder`;
    its addresses are those of `like`, which is gone."""
    backends = folder / "backends" / "python"
    backends.mkdir(parents=True)
    for file in (_SERVER / "backends" / "python").glob("*.*"):
        (backends / file.name).symlink_to(file)
    stub = "triton_python_backend_stub"
    (backends / stub).symlink_to(_SERVER / "python_backend_stubs" / _PYTHON / stub)
    shutil.copytree(models, folder / "models", ignore=shutil.ignore_patterns("__pycache__"))
    grpc, http, metrics, page = _ports(4)
    if like is not None:
        grpc, http, page = (int(address.rpartition(":")[2]) for address in (like.grpc, like.http, like.page))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MARSAM_", "PYTHON"))}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            # Its own process id in the name of its shared memory: whoever looks for leaks sees only this server's.
            ["/bin/sh", "-c", 'exec "$0" --backend-config=python,shm-region-prefix-name=marsam$$ "$@"',
                str(_SERVER / "bin" / "tritonserver"),
                f"--model-repository={folder / 'models'}",
                f"--backend-directory={folder / 'backends'}",
                *(f"--{kind}-address=127.0.0.1" for kind in ("grpc", "http", "metrics")),
                f"--grpc-port={grpc}",
                f"--http-port={http}",
                f"--metrics-port={metrics}",
                "--exit-timeout-secs=5",
                "--exit-on-error=false",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={
                **environment,
                # The stub takes the standard library of the first python3 on the path for that of its libpython.
                "PATH": "/usr/bin:/bin",
                "LD_LIBRARY_PATH": str(_SITE / "nvidia_pytriton.libs"),
                "OMP_NUM_THREADS": "1",
                "MARSAM_HTTP_LISTEN": f"127.0.0.1:{page}",
                **variables,
            },
        )  # fmt: skip
        try:
            yield Triton(
                process=process,
                grpc=f"127.0.0.1:{grpc}",
                http=f"127.0.0.1:{http}",
                page=f"127.0.0.1:{page}",
                log=folder / "log",
                folder=folder,
            )
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            # The model's process outlives a server that was killed.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for left in Path("/dev/shm").glob(f"marsam{process.pid}*"):
                left.unlink()


@contextlib.contextmanager
def serving(folder: Path, *, store: str, like: Triton | None = None, **variables: str) -> Iterator[Triton]:
    """`started`, with our packages and a cache, and ready."""
    given = {"MARSAM_SITE": site(), "MARSAM_STORE": store, "MARSAM_CACHE": str(folder / "cache"), **variables}
    folder.mkdir(exist_ok=True)
    with started(folder, models=MODELS, like=like, **given) as server:
        until = time.monotonic() + START_S
        while not server.ready():
            text = server.log.read_text(errors="replace")
            assert server.process.poll() is None and "failed to load" not in text, text
            assert time.monotonic() < until, text
            time.sleep(0.1)
        yield server
