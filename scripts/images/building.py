"""Images by buildah in a storage of their own, on a base by debootstrap: no registry of images is needed."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".tools" / "images"
BASE = "localhost/marsam/base:bookworm"
_SUITE = "bookworm"
_PACKAGES = "python3-minimal,python3-venv,ca-certificates"
_LOCAL_PATH = re.compile(r"/\S+")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An image of ours, and the most that it may add to its base, in MB (10^6 bytes, unpacked)."""

    name: str
    dockerfile: str
    budget_mb: int

    @property
    def tag(self) -> str:
        return f"localhost/marsam/{self.name}:check"


RECIPES = (
    Recipe(name="dataset", dockerfile="services/dataset/Dockerfile", budget_mb=200),
    Recipe(name="trainer", dockerfile="services/trainer/Dockerfile", budget_mb=200),
    Recipe(name="run", dockerfile="services/trainer/run.Dockerfile", budget_mb=1350),
    Recipe(name="generator", dockerfile="services/generator/Dockerfile", budget_mb=1350),
)


def buildah(*words: str) -> str:
    """What buildah prints; raises CalledProcessError with its complaint shown."""
    storage = ["--root", str(FOLDER / "storage"), "--runroot", str(FOLDER / "running"), "--storage-driver", "overlay"]
    return subprocess.run(["buildah", *storage, *words], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def tidy() -> None:
    """Removes what a build that was interrupted left, and images that newer ones replaced."""
    buildah("rm", "--all")
    buildah("rmi", "--prune", "--force")


def make_base() -> None:
    """The base image: Debian with Python, from the mirror that this machine's apt uses. Made once, then kept."""
    if _exists(BASE):
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        root = Path(scratch) / "root"
        words = ["--variant=minbase", f"--include={_PACKAGES}", _SUITE, str(root), _mirror()]
        subprocess.run(["debootstrap", *words], check=True, stdout=subprocess.DEVNULL)
        for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man"):
            shutil.rmtree(root / waste, ignore_errors=True)
        container = buildah("from", "scratch")
        try:
            buildah("copy", "--quiet", container, f"{root}/", "/")
            buildah("commit", "--quiet", container, BASE)
        finally:
            buildah("rm", container)


def build(recipe: Recipe) -> None:
    """Builds one image on the base; pip inside is configured as it is here."""
    with _pip_settings() as mounts:
        variables = {"BASE": BASE, "REVISION": _revision()}
        if "TORCH_INDEX" in os.environ:
            variables["TORCH_INDEX"] = os.environ["TORCH_INDEX"]
        words = [f"--build-arg={name}={value}" for name, value in variables.items()]
        words += [f"--volume={source}:{target}:ro" for source, target in mounts.items()]
        buildah(
            "bud", "--quiet", "--isolation=chroot", "--network=host", "--pull=never", *words,
            f"--file={ROOT / recipe.dockerfile}", f"--tag={recipe.tag}", str(ROOT),
        )  # fmt: skip


@contextlib.contextmanager
def mounted(tag: str) -> Iterator[Path]:
    """The files of an image as a folder, until the block ends."""
    container = buildah("from", "--pull=never", tag)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("umount", container)
        buildah("rm", container)


def size_mb(folder: Path) -> float:
    """Disk that the files of a mounted image take, in MB."""
    said = subprocess.run(["du", "--summarize", "--block-size=1", "--one-file-system", folder],
                          check=True, stdout=subprocess.PIPE, text=True).stdout  # fmt: skip
    return int(said.split()[0]) / 1e6


def _exists(tag: str) -> bool:
    return tag in buildah("images", "--format", "{{.Name}}:{{.Tag}}").split()


def _mirror() -> str:
    words = ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"]
    lines = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    known = [line.split()[1] for line in lines if line.split()[0] == _SUITE]
    return known[0] if known else "http://deb.debian.org/debian"


def _revision() -> str:
    words = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@contextlib.contextmanager
def _pip_settings() -> Iterator[Mapping[Path, str]]:
    """This machine's own pip settings as read-only mounts (here -> there): a file of them, and the local paths they
    name. Nothing of them stays in an image."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    # An environment variable is listed after the files, and wins here as it does there.
    settings = dict(re.findall(r"^(?:global|install|:env:)\.([a-z-]+)='(.*)'$", listed, flags=re.MULTILINE))
    paths = {Path(found) for value in settings.values() for found in _LOCAL_PATH.findall(value) if "://" not in value}
    # The links of an index in a folder may lead to files beside it.
    paths |= {Path(found).parent for value in settings.values() for found in re.findall(r"file://(/\S+)", value)}
    mounts = {path.resolve(): str(path) for path in paths if path.exists()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pip.conf"
        file.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
        yield {file: "/etc/pip.conf", **mounts}
