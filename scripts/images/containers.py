"""Containers by crun, as the chart runs them: user 10001, read-only root, no capability; /tmp, /cache and /dev/shm are
writable. They share this machine's network, and are not in a control group."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.images.building import FOLDER

USER = 10001
# Where version 2 of control groups is mounted beside version 1, crun refuses to work: it does not get to see it.
_UNSEEN = 'if mountpoint -q /sys/fs/cgroup/unified; then umount -l /sys/fs/cgroup/unified; fi; exec "$@"'
_CRUN = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    _UNSEEN,
    "sh",
    "crun",
    "--cgroup-manager=disabled",
    f"--root={FOLDER / 'crun'}",
]
_STOP_SECONDS = 90.0


@dataclass(frozen=True, kw_only=True)
class Image:
    """A mounted image and what its configuration says."""

    root: Path
    entrypoint: Sequence[str]
    environment: Mapping[str, str]


def read_image(root: Path, inspected: str) -> Image:
    """The image mounted at `root`, from what `buildah inspect` printed. Raises ValueError when its user is another."""
    config = json.loads(inspected)["OCIv1"]["config"]
    if config["User"] != f"{USER}:{USER}":
        raise ValueError(f"the image's user is {config['User']!r}, not {USER}:{USER}")
    pairs = (variable.partition("=") for variable in config["Env"])
    return Image(root=root, entrypoint=config["Entrypoint"], environment={name: value for name, _, value in pairs})


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container to be; `cache` and `tmp` are folders here that user 10001 may write."""

    name: str
    image: Image
    environment: Mapping[str, str]
    folder: Path
    cache: Path
    arguments: Sequence[str] = ()
    entrypoint: Sequence[str] = ()
    mounts: Mapping[Path, str] = field(default_factory=dict)

    def start(self) -> subprocess.Popen[str]:
        """Runs it as a child of this program; its standard output is a pipe, its log a file in `folder`."""
        tmp = self.folder / "tmp"
        for writable in (tmp, self.cache):
            writable.mkdir(parents=True, exist_ok=True)
            os.chown(writable, USER, USER)
        (self.folder / "config.json").write_text(json.dumps(self._config(tmp)))
        with (self.folder / "log").open("ab") as log:
            words = [*_CRUN, "run", f"--bundle={self.folder}", self.name]
            return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)

    def stop(self, process: subprocess.Popen[str]) -> int:
        """SIGTERM, patience, and its exit code; killed when it does not end."""
        subprocess.run([*_CRUN, "kill", self.name, "SIGTERM"], check=False, stderr=subprocess.DEVNULL)
        try:
            return process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            subprocess.run([*_CRUN, "delete", "--force", self.name], check=False)
            return process.wait(_STOP_SECONDS)

    def _config(self, tmp: Path) -> dict[str, Any]:
        variables = {**self.image.environment, **self.environment}
        return {
            "ociVersion": "1.0.0",
            "process": {
                "terminal": False,
                "user": {"uid": USER, "gid": USER},
                "args": [*(self.entrypoint or self.image.entrypoint), *self.arguments],
                "env": [f"{name}={value}" for name, value in variables.items()],
                "cwd": "/tmp",
                "capabilities": {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")},
                "noNewPrivileges": True,
            },
            "root": {"path": str(self.image.root), "readonly": True},
            "hostname": self.name,
            "mounts": [
                _mount("/proc", "proc"),
                _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
                _mount("/dev/shm", "tmpfs", "nosuid", "nodev", "mode=1777", "size=256m"),
                _bind(tmp, "/tmp", "rw"),
                _bind(self.cache, "/cache", "rw"),
                *(_bind(source, target, "ro") for source, target in self.mounts.items()),
            ],
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
        }


def _mount(target: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": kind, "options": list(options)}


def _bind(source: Path, target: str, access: str) -> dict[str, Any]:
    return {
        "destination": target,
        "type": "bind",
        "source": str(source),
        "options": ["rbind", "nosuid", "nodev", access],
    }
