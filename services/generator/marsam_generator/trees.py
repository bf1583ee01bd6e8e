"""A model's files as a folder, for as long as it takes to load them."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from marsam.catalog.files import FileRef
from marsam.catalog.models import Model
from marsam.store.blobs import Blobs
from marsam.store.cache import Cache

_PREFIX = "trees-"
_KEPT_S = 24 * 3600.0


class Trees:
    """Folders of links into the cache, beside the cached files so that laying a model out costs links; gone with this
    process.
    """

    def __init__(self, blobs: Blobs, cache: Cache) -> None:
        self._blobs = blobs
        self._cache = cache
        _sweep(cache.root)
        self._root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=cache.root))

    @asynccontextmanager
    async def laid_out(self, model: Model, files: Sequence[FileRef]) -> AsyncIterator[Path]:
        """A model's files as a folder tree, gone after the block: what is loaded is in memory. The cache is cut to its
        budget then.
        """
        folder = await asyncio.to_thread(self._folder)
        try:
            yield await self._cache.lay_out(self._blobs, model.project, files, folder)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        await self._cache.trim()

    def _folder(self) -> Path:
        # A process that laid nothing out for a day looks dead to the next one that starts beside it: see `_sweep`.
        self._root.mkdir(exist_ok=True)
        return Path(tempfile.mkdtemp(dir=self._root))

    async def close(self) -> None:
        """Remove every tree."""
        await asyncio.to_thread(shutil.rmtree, self._root, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Remove the folder trees that killed processes left. A tree in use is younger: loading takes minutes."""
    for trees in root.glob(f"{_PREFIX}*"):
        if time.time() - trees.stat().st_mtime > _KEPT_S:
            shutil.rmtree(trees, ignore_errors=True)
