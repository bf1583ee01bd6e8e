"""Exports by the name of their format: each is a module of this package with a function `layout`."""

import importlib
import pkgutil

from marsam.catalog.datasets import DatasetVersion
from marsam.catalog.files import FileRef
from marsam.core.errors import unknown_name
from marsam.core.names import parse
from marsam.store.blobs import Blobs
from marsam.store.content import put_blob
from marsam_dataset import export
from marsam_dataset.export.layout import Placed

_NOT_FORMATS = frozenset({"formats", "layout"})


def formats() -> tuple[str, ...]:
    """Return the known formats."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(export.__path__) if m.name not in _NOT_FORMATS))


async def files(blobs: Blobs, version: DatasetVersion, format: str) -> list[FileRef]:
    """Return the files of `version` in a format, every one of them stored. The same version gives the same files.

    Raises Invalid (UNKNOWN_EXPORT_FORMAT) with the known ones.
    """
    if format not in formats():
        raise unknown_name("export format", format, formats(), field="format")
    layout = importlib.import_module(f"{export.__name__}.{format}").layout
    project = parse(version.name, "version").project
    found = []
    for part in layout(version):
        if isinstance(part, Placed):
            found.append(FileRef(path=part.path, digest=part.digest, size=part.size, media_type="image/png"))
        else:
            stored = await put_blob(blobs, project, part.data)
            found.append(FileRef(path=part.path, digest=stored.digest, size=stored.size))
    return found
