"""What is told of committed versions in pages: they never change, so it is worked out once and a few are kept."""

import asyncio
import time
from collections.abc import Sequence

from marsam.catalog.files import FileRef
from marsam.catalog.repository import load_version
from marsam.core.memory import make_room
from marsam.store.blobs import Blobs
from marsam.store.content import FRESH_S
from marsam.telemetry import Meter, Span, span
from marsam_dataset import versions
from marsam_dataset.export import formats

_KEPT = 8


class Settled:
    """Differences and exports of versions."""

    def __init__(self, blobs: Blobs, meter: Meter) -> None:
        self._blobs = blobs
        self._meter = meter
        self._differences: dict[tuple[str, str], Sequence[tuple[str, str]]] = {}
        self._exports: dict[tuple[str, str], tuple[float, Sequence[FileRef]]] = {}

    async def difference(self, old: str, new: str) -> Sequence[tuple[str, str]]:
        """What changed between two versions: (kind of change, file name). Raises Missing (VERSION_NOT_FOUND)."""
        if (entries := self._differences.get((old, new))) is None:
            before, after = await load_version(self._blobs, old), await load_version(self._blobs, new)
            entries = (await asyncio.to_thread(versions.difference, before, after)).entries
            make_room(self._differences, _KEPT)
            self._differences[old, new] = entries
        return entries

    async def export(self, name: str, format: str) -> Sequence[FileRef]:
        """The files of a version in a format. Raises Missing (VERSION_NOT_FOUND), Invalid (UNKNOWN_EXPORT_FORMAT)."""
        known = self._exports.get((name, format))
        if known is None or time.monotonic() - known[0] > FRESH_S:
            # Nothing refers to an export's own files: they are stored anew before a collector takes them for old.
            began = time.monotonic()
            version = await load_version(self._blobs, name)
            with span(self._meter, Span.DATASET_EXPORT, version=name):
                files = await formats.files(self._blobs, version, format)
            make_room(self._exports, _KEPT)
            known = self._exports[name, format] = began, files
        return known[1]
