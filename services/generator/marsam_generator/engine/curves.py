"""Measured curves of ticks, kept from one process to the next: what a device does with a base does not change."""

import contextlib
import json
import math
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from marsam.core.ids import sha256_hex
from marsam.telemetry import Log

_log = Log(__name__)

Curve = Sequence[tuple[int, float]]
"""(rows, rows per second), in order of rows."""


class Curves:
    """A folder of small files. `of` says what was measured on what: build, device, base, widest tick. A file that
    cannot be read, or is of something else, is as if it were not there, and one that cannot be written is left out.
    """

    def __init__(self, folder: Path, of: str) -> None:
        self._folder = folder
        self._of = of

    def load(self, key: object) -> Curve | None:
        """The curve of `key`, if it was kept."""
        try:
            kept = json.loads(self._path(key).read_bytes())
            curve = [(int(rows), float(speed)) for rows, speed in kept["curve"]]
            of = kept["of"]
        except (OSError, ValueError, TypeError, KeyError):
            return None
        rows = [one for one, _ in curve]
        sound = (
            of == self._name(key)
            and rows
            and rows[0] >= 1
            and rows == sorted(set(rows))
            and all(0 < one < math.inf for _, one in curve)
        )
        return curve if sound else None

    def save(self, key: object, curve: Curve) -> None:
        """Keep a curve; processes that share the folder do not see it half written."""
        path = self._path(key)
        aside = path.with_suffix(f".{uuid.uuid4().hex}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps({"of": self._name(key), "curve": curve}))
            os.replace(aside, path)
        except OSError as error:
            _log.warning("engine.curve_not_kept", message=str(error))
            with contextlib.suppress(OSError):
                aside.unlink()

    def _name(self, key: object) -> str:
        return f"{self._of}; {key!r}"

    def _path(self, key: object) -> Path:
        return self._folder / f"{sha256_hex(self._name(key).encode())}.json"
