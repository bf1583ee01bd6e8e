"""What the records of a project refer to: each manifest and job, read by the reader of its own type."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from marsam.catalog.datasets import Dataset, DatasetVersion, Item
from marsam.catalog.evaluations import SuiteVersion
from marsam.catalog.files import FileRef
from marsam.catalog.generations import GenerationRecord
from marsam.catalog.imports import VocabularyRecord
from marsam.catalog.models import AliasEntry, Model
from marsam.catalog.repository import read_manifest
from marsam.core.errors import Corrupt, MarsamError, Missing
from marsam.core.names import format_name, parse
from marsam.core.records import load
from marsam.store import keys
from marsam.store.blobs import Blobs, names, walk
from marsam.store.numbered import NumberedLog

T = TypeVar("T")

AT_ONCE = 16
"""Records that are read side by side: as many as the store has threads."""

_SUFFIX = ".json"
_FOLDERS = frozenset(
    {
        *("blobs", "condemned", "requests", "datasets", "models", "reservations", "tombstones", "aliases", "suites"),
        *("generations", "drawing", "runs", "evaluations", "imports", "open", "ended"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record. `digests` maps the blobs it refers to onto their size in bytes (None where it does not say), `uses`
    are the resource names it was made from or points at. Unless it is `settled` it may refer to more later on; of a job
    that is alive, `needs` are the names it cannot do without.
    """

    name: str
    key: str
    digests: Mapping[str, int | None] = field(default_factory=dict)
    uses: tuple[str, ...] = ()
    settled: bool = True
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A record that is there and cannot be read: what it refers to is not known."""

    name: str
    key: str
    error: MarsamError


Found = Record | Unreadable
Reading = tuple[str, str, Callable[[], Awaitable[Record | None]]]
"""A record to read: its resource name, the key at which it stands or falls, and how. None: there is nothing yet."""


async def gathered(blobs: Blobs, readings: AsyncIterator[Reading]) -> AsyncIterator[Found]:
    """Read records, some at a time. One that is damaged, or is there and lacks a part, is `Unreadable`; one that was
    deleted meanwhile is left out. Raises what else the store says.
    """
    batch: list[Reading] = []
    async for reading in readings:
        batch.append(reading)
        if len(batch) == AT_ONCE:
            for found in await asyncio.gather(*(_one(blobs, *each) for each in batch)):
                if found is not None:
                    yield found
            batch = []
    for found in await asyncio.gather(*(_one(blobs, *each) for each in batch)):
        if found is not None:
            yield found


async def _one(blobs: Blobs, name: str, key: str, read: Callable[[], Awaitable[Record | None]]) -> Found | None:
    try:
        return await read()
    except Corrupt as error:
        return Unreadable(name=name, key=key, error=error)
    except Missing as error:
        try:
            await blobs.stat(key)
        except Missing:
            return None
        return Unreadable(name=name, key=key, error=error)


async def manifests(blobs: Blobs, project: str, known: Collection[str]) -> AsyncIterator[Reading]:
    """Every record of `project` that is no job, but those under the keys `known`."""
    async for name, key, read in _all(blobs, project):
        if key not in known:
            yield name, key, read


async def strangers(blobs: Blobs, project: str) -> list[str]:
    """Return what lies in `project` and is of no kind that is known here: a key of each."""
    root, found = keys.project(project), []
    for entry in [e async for e in blobs.children(root) if not e.folder or e.name not in _FOLDERS]:
        key = f"{root}/{entry.name}"
        if entry.folder:  # an empty one is a store's memory of what was deleted
            found += [key async for key in _first(walk(blobs, key))]
        else:
            found.append(key)
    return sorted(found)


async def _first(found: AsyncIterator[T]) -> AsyncIterator[T]:
    """Yield the first of what `found` yields, if there is any."""
    async for each in found:
        yield each
        return


async def _all(blobs: Blobs, project: str) -> AsyncIterator[Reading]:
    for id_ in await _ids(blobs, keys.models(project)):
        yield _manifest(blobs, project, format_name("model", project, id_), keys.model(project, id_), Model, _model)
    for dataset in await names(blobs, keys.datasets(project), folders=True):
        async for reading in _dataset(blobs, project, dataset):
            yield reading
    for suite in await names(blobs, keys.suites(project), folders=True):
        for id_ in await _ids(blobs, keys.suite(project, suite)):
            key, name = keys.suite_version(project, suite, id_), format_name("suite_version", project, suite, id_)
            yield _manifest(blobs, project, name, key, SuiteVersion, lambda _: ({}, ()))
    for id_ in await _ids(blobs, keys.generations(project)):
        key, name = keys.generation(project, id_), format_name("generation", project, id_)
        yield _manifest(blobs, project, name, key, GenerationRecord, _generation)
    for id_ in await names(blobs, keys.aliases(project), folders=True):
        yield _alias(blobs, project, id_)


async def _dataset(blobs: Blobs, project: str, dataset: str) -> AsyncIterator[Reading]:
    head, name = keys.dataset_head(project, dataset), format_name("dataset", project, dataset)
    yield _manifest(blobs, project, name, head, Dataset, lambda _: ({}, ()))
    for id_ in await _ids(blobs, keys.items(project, dataset)):
        key, name = keys.item(project, dataset, id_), format_name("item", project, dataset, id_)
        yield _manifest(blobs, project, name, key, Item, lambda item: (sizes(_files([item])), ()))
    for id_ in await _ids(blobs, keys.versions(project, dataset)):
        key, name = keys.version(project, dataset, id_), format_name("version", project, dataset, id_)
        yield _manifest(blobs, project, name, key, DatasetVersion, lambda v: (sizes(_files(v.items)), ()))
    log, name = keys.vocabularies(project, dataset), format_name("dataset", project, dataset)
    for entry in await names(blobs, log, folders=False):
        yield _manifest(
            blobs, project, name, f"{log}/{entry}", VocabularyRecord, lambda record: ({record.digest: None}, ())
        )


def _files(items: Iterable[Item]) -> Iterator[FileRef]:
    for item in items:
        yield item.image
        if item.mask is not None:
            yield item.mask.image


def _manifest(
    blobs: Blobs,
    project: str,
    name: str,
    key: str,
    cls: type[T],
    refers: Callable[[T], tuple[Mapping[str, int | None], Iterable[str]]],
) -> Reading:
    async def read() -> Record:
        data, holder = await read_manifest(blobs, project, key)
        digests, uses = refers(load(cls, data, what=name))
        if holder:
            digests = {**digests, holder: len(data)}
        return Record(name=name, key=key, digests=digests, uses=tuple(uses))

    return name, key, read


def _alias(blobs: Blobs, project: str, id_: str) -> Reading:
    log, name = keys.alias(project, id_), format_name("alias", project, id_)
    first = f"{log}/{keys.number(1)}"

    async def read() -> Record | None:
        head = await NumberedLog(blobs, log).head()
        target = load(AliasEntry, head[1], what=name).target if head else None
        return Record(name=name, key=first, uses=(target,), settled=False) if target else None

    return name, first, read


def sizes(files: Iterable[FileRef]) -> dict[str, int | None]:
    """The digests of files, with their sizes."""
    return {file.digest: file.size for file in files}


def _model(model: Model) -> tuple[Mapping[str, int | None], Iterable[str]]:
    lineage = (*model.lineage.versions, model.lineage.run)
    return sizes([*model.files, *model.samples]), [name for name in (model.base, *lineage) if name]


def _generation(record: GenerationRecord) -> tuple[Mapping[str, int | None], Iterable[str]]:
    started_from = [record.request.get(field) for field in ("init_image", "mask_image")]
    images = {f"sha256:{parse(name, 'image').id}": None for name in started_from if name}
    return {**images, **sizes(picture.file for picture in record.pictures)}, record.models


async def _ids(blobs: Blobs, folder: str) -> list[str]:
    return [n.removesuffix(_SUFFIX) for n in await names(blobs, folder, folders=False) if n.endswith(_SUFFIX)]
