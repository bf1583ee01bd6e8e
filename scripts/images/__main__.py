"""Builds the images for the processor, weighs them, and tells the demo's story through them."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts.images import building, story
from scripts.images.containers import Container, Image, read_image

_WEIGHTS = (".safetensors", ".ckpt", ".gguf", ".pt", ".pth", ".bin")
_LARGE = 1_000_000  # smaller files of these names are fixtures of libraries, or lines of paths


def main() -> int:
    """The exit status is 1 when an image is over its budget, holds weights, or its program does not work."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # where debootstrap lies, in nobody's path but root's
    building.tidy()
    building.make_base()
    for recipe in building.RECIPES:
        started = time.monotonic()
        building.build(recipe)
        print(f"built {recipe.name} in {time.monotonic() - started:.0f} s", flush=True)
    building.tidy()
    faults: list[str] = []
    with contextlib.ExitStack() as held:
        scratch = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="marsam-images-")))
        scratch.chmod(0o755)
        base_mb = building.size_mb(held.enter_context(building.mounted(building.BASE)))
        print(f"{'image':<10} {'MB':>6} {'over base':>10} {'budget':>7}   (base {base_mb:.0f} MB)")
        images: dict[str, Image] = {}
        for recipe in building.RECIPES:
            root = held.enter_context(building.mounted(recipe.tag))
            images[recipe.name] = read_image(root, building.buildah("inspect", "--type=image", recipe.tag))
            added = building.size_mb(root) - base_mb
            print(f"{recipe.name:<10} {base_mb + added:>6.0f} {added:>10.0f} {recipe.budget_mb:>7}")
            if added > recipe.budget_mb:
                faults.append(f"{recipe.name} adds {added:.0f} MB to its base, its budget is {recipe.budget_mb}")
            faults += [f"{recipe.name} holds weights: {path}" for path in _weights(root)]
        for name, image in images.items():
            _helps(name, image, scratch)
        _check_cluster_settings(images["trainer"], scratch)
        print(story.tell(images, scratch=scratch))
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def _weights(root: Path) -> list[str]:
    return [
        str(path.relative_to(root))
        for path in (root / "venv").rglob("*")
        if path.suffix in _WEIGHTS and path.is_file() and path.stat().st_size > _LARGE
    ]


def _helps(name: str, image: Image, scratch: Path) -> None:
    said = _said(Container(name=f"marsam-help-{name}", image=image, environment={}, folder=scratch / f"help-{name}",
                           cache=scratch / "cache", arguments=["--help"]))  # fmt: skip
    if "usage" not in said.lower():
        raise RuntimeError(f"{name} --help says: {said}")
    print(f"{name}: starts as user 10001 on a read-only root")


def _check_cluster_settings(image: Image, scratch: Path) -> None:
    """A cluster's trainer takes no part in the story: it has the Kubernetes client, and reads the cluster's file."""
    cluster = scratch / "cluster.yaml"
    cluster.write_text("{namespace: studio, image: marsam/run:check, default: cpu, profiles: {cpu: {}}}\n")
    environment = {
        "MARSAM_STORE": "/cache/store",
        "MARSAM_CACHE": "/cache",
        "MARSAM_LAUNCHER": "kubernetes",
        "MARSAM_KUBERNETES_FILE": "/etc/marsam/cluster.yaml",
    }
    for arguments, entrypoint in (
        (["--check-config"], ()),
        (["-c", "import kubernetes; print(kubernetes.__version__)"], ["/venv/bin/python"]),
    ):
        folder = scratch / f"cluster-{len(entrypoint)}"
        _said(Container(name="marsam-check-cluster", image=image, environment=environment, folder=folder,
                        cache=scratch / "cache", mounts={cluster: "/etc/marsam/cluster.yaml"},
                        arguments=arguments, entrypoint=entrypoint))  # fmt: skip
    print("trainer: takes a cluster's settings, has the Kubernetes client")


def _said(container: Container) -> str:
    """What a container that ends by itself prints. Raises RuntimeError when it does not end well."""
    container.folder.mkdir()
    process = container.start()
    try:
        said, _ = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        container.stop(process)
        raise
    if process.returncode != 0:
        raise RuntimeError(
            f"{container.name} ended with {process.returncode}: {said}{(container.folder / 'log').read_text()}"
        )
    return said


if __name__ == "__main__":
    sys.exit(main())
