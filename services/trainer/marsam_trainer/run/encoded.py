"""Encoded pictures and captions on the local disk, so that neither encoder runs in a training step, nor twice at all.

An entry's key is a digest of all that its content depends on: the input, the encoder's own files, the size, and
`CODE`, which changes with the way inputs are prepared. So an entry is never stale; it can only be unused.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from marsam.core.ids import sha256_hex

CODE = "2"
"""Version of everything between a stored picture or caption and its encoding."""

_STALE_S = 24 * 3600.0


class EncodedCache:
    """Named tensors under `root/encoded/ab/<digest>.safetensors`; an entry appears whole or not at all."""

    def __init__(self, root: Path) -> None:
        self._root = root / "encoded"

    def path(self, *key: str) -> Path:
        """Where the entry of `key` is, or would be."""
        digest = sha256_hex("\x1f".join((CODE, *key)).encode())
        return self._root / digest[:2] / f"{digest}.safetensors"

    def get(self, *key: str) -> dict[str, torch.Tensor] | None:
        """The tensors of an entry; None when it is absent or cannot be read (it is dropped then)."""
        path = self.path(*key)
        with contextlib.suppress(OSError):
            os.utime(path)  # what is used stays longest
        try:
            return dict(load_file(path))
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError):
            path.unlink(missing_ok=True)
            return None

    def put(self, tensors: Mapping[str, torch.Tensor], *key: str) -> None:
        """Keep an entry. A disk without room is no reason to fail: the tensors are in memory already."""
        path = self.path(*key)
        aside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: value.detach().to("cpu").contiguous() for name, value in tensors.items()}, aside)
            os.replace(aside, path)
        except (OSError, SafetensorError):
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)

    def trim(self, budget: int) -> int:
        """Drop the entries that were not used for longest until all take at most `budget` bytes, and return how many
        bytes went. An entry that somebody still wants is made again."""
        found = []
        for path in self._root.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                if not path.name.startswith("."):
                    found.append((stat.st_mtime_ns, stat.st_size, path))
                elif time.time() - stat.st_mtime > _STALE_S:  # of a process that was killed
                    path.unlink()
        over = total = sum(size for _, size, _ in found) - budget
        for _, size, path in sorted(found):
            if over <= 0:
                break
            path.unlink(missing_ok=True)
            over -= size
        return total - over
