"""Manifests in the store: saved once, loaded strictly, listed, and suggested when a name is nearly right."""

import asyncio
from typing import TypeVar

from marsam.catalog.datasets import Dataset, DatasetVersion, Item
from marsam.catalog.evaluations import SuiteVersion
from marsam.catalog.generations import GenerationRecord
from marsam.catalog.models import Model
from marsam.core.errors import Corrupt, Exists, Invalid, Missing, Precondition, did_you_mean
from marsam.core.ids import digest_hex
from marsam.core.names import ResourceName, parse
from marsam.core.records import dump, load
from marsam.store import keys
from marsam.store.blobs import CREATE_LIMIT, Blobs, names
from marsam.store.content import put_blob, read_blob

T = TypeVar("T")

# A manifest too large for a create-only write lies in a blob, and this much is written under its key instead.
_POINTER = b"blob sha256:"
_SUFFIX = ".json"
_BATCH = 32


async def save_model(blobs: Blobs, model: Model) -> None:
    """Publish a model; its files must be stored before. The same manifest again is done already.

    Raises Exists (MODEL_EXISTS) when the id holds another model, Precondition (MODEL_DELETED) when it was deleted.
    """
    name = parse(model.name, "model")
    if await _is_there(blobs, keys.tombstone(name.project, "models", name.id)):
        raise Precondition(f"{model.name} was deleted, and ids are not used twice", reason="MODEL_DELETED",
                           resource=model.name, remedy="choose another model id")  # fmt: skip
    await _save(blobs, name, keys.model(name.project, name.id), dump(model))


async def load_model(blobs: Blobs, name: str) -> Model:
    """Return the model called `name`. Raises Missing (MODEL_NOT_FOUND) with the nearest names, Corrupt."""
    parts = parse(name, "model")
    data = await _load(blobs, parts, keys.model(parts.project, parts.id), keys.models(parts.project))
    return load(Model, data, what=name)


async def list_models(blobs: Blobs, project: str) -> list[Model]:
    """Return every model of the project, by id."""
    ids = await _ids(blobs, keys.models(project))
    return await _all(blobs, project, Model, [keys.model(project, id_) for id_ in ids])


async def save_dataset(blobs: Blobs, dataset: Dataset) -> None:
    """Create a dataset. Raises Exists (DATASET_EXISTS) when the id is taken."""
    name = parse(dataset.name, "dataset")
    await _save(blobs, name, keys.dataset_head(name.project, name.id), dump(dataset))


async def load_dataset(blobs: Blobs, name: str) -> Dataset:
    """Return the dataset called `name`. Raises Missing (DATASET_NOT_FOUND) with the nearest names."""
    parts = parse(name, "dataset")
    data = await _load(blobs, parts, keys.dataset_head(parts.project, parts.id), keys.datasets(parts.project), True)
    return load(Dataset, data, what=name)


async def list_datasets(blobs: Blobs, project: str) -> list[Dataset]:
    """Return every dataset of the project, by id."""
    found = []
    for id_ in await names(blobs, keys.datasets(project), folders=True):
        try:
            found.append(load(Dataset, await blobs.get(keys.dataset_head(project, id_)), what=id_))
        except Missing:  # half-deleted: its head goes first
            continue
    return found


async def save_item(blobs: Blobs, dataset: str, item: Item) -> None:
    """Add an item to the dataset called `dataset`."""
    parts = parse(dataset, "dataset")
    await blobs.create(keys.item(parts.project, parts.id, item.id), dump(item))


async def load_item(blobs: Blobs, name: str) -> Item:
    """Return the item called `name`. Raises Missing (ITEM_NOT_FOUND)."""
    parts = parse(name, "item")
    key = keys.item(parts.project, parts.ids[0], parts.id)
    return load(Item, await _load(blobs, parts, key, keys.items(parts.project, parts.ids[0])), what=name)


async def list_items(blobs: Blobs, dataset: str) -> list[Item]:
    """Return every item of the dataset called `dataset`, by id: in order of arrival."""
    parts = parse(dataset, "dataset")
    ids = await _ids(blobs, keys.items(parts.project, parts.id))
    return await _all(blobs, parts.project, Item, [keys.item(parts.project, parts.id, id_) for id_ in ids])


async def save_version(blobs: Blobs, version: DatasetVersion) -> None:
    """Commit a dataset version. Raises Exists (VERSION_EXISTS) when the id holds another one."""
    parts = parse(version.name, "version")
    await _save(blobs, parts, keys.version(parts.project, *parts.ids), dump(version))


async def load_version(blobs: Blobs, name: str) -> DatasetVersion:
    """Return the dataset version called `name`. Raises Missing (VERSION_NOT_FOUND) with the nearest names, Corrupt."""
    parts = parse(name, "version")
    key = keys.version(parts.project, *parts.ids)
    data = await _load(blobs, parts, key, keys.versions(parts.project, parts.ids[0]))
    return load(DatasetVersion, data, what=name)


async def list_versions(blobs: Blobs, dataset: str) -> list[DatasetVersion]:
    """Return every version of the dataset called `dataset`, oldest first."""
    parts = parse(dataset, "dataset")
    ids = await _ids(blobs, keys.versions(parts.project, parts.id))
    version_keys = [keys.version(parts.project, parts.id, id_) for id_ in ids]
    found = await _all(blobs, parts.project, DatasetVersion, version_keys)
    return sorted(found, key=lambda version: (version.create_time, version.name))


async def load_generation(blobs: Blobs, name: str) -> GenerationRecord:
    """Return the record of a generation that ended. Raises Missing (GENERATION_NOT_FOUND)."""
    parts = parse(name, "generation")
    try:
        data = await blobs.get(keys.generation(parts.project, parts.id))
    except Missing as error:
        raise Missing(
            f"{name} does not exist, or did not end yet", reason="GENERATION_NOT_FOUND", resource=name
        ) from error
    return load(GenerationRecord, data, what=name)


async def save_suite(blobs: Blobs, suite: SuiteVersion) -> None:
    """Register a suite version. Raises Exists (SUITE_VERSION_EXISTS) when the id holds another one."""
    parts = parse(suite.name, "suite_version")
    await _save(blobs, parts, keys.suite_version(parts.project, *parts.ids), dump(suite))


async def load_suite(blobs: Blobs, name: str) -> SuiteVersion:
    """Return the suite version called `name`. Raises Missing (SUITE_VERSION_NOT_FOUND) with the nearest names."""
    parts = parse(name, "suite_version")
    key = keys.suite_version(parts.project, *parts.ids)
    return load(SuiteVersion, await _load(blobs, parts, key, keys.suite(parts.project, parts.ids[0])), what=name)


async def list_suites(blobs: Blobs, project: str) -> list[SuiteVersion]:
    """Return every version of every suite of the project."""
    found: list[SuiteVersion] = []
    for suite in await names(blobs, keys.suites(project), folders=True):
        ids = await _ids(blobs, keys.suite(project, suite))
        found += await _all(blobs, project, SuiteVersion, [keys.suite_version(project, suite, id_) for id_ in ids])
    return found


async def _ids(blobs: Blobs, folder: str) -> list[str]:
    return [n.removesuffix(_SUFFIX) for n in await names(blobs, folder, folders=False) if n.endswith(_SUFFIX)]


async def _all(blobs: Blobs, project: str, cls: type[T], manifests: list[str]) -> list[T]:
    """Load the manifests under the given keys, some at a time; one that was deleted meanwhile is left out."""
    found: list[T] = []
    for at in range(0, len(manifests), _BATCH):
        batch = manifests[at : at + _BATCH]
        outcomes = await asyncio.gather(*(_bytes(blobs, project, key) for key in batch), return_exceptions=True)
        for key, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Missing):
                continue
            if isinstance(outcome, BaseException):
                raise outcome
            found.append(load(cls, outcome, what=key))
    return found


async def _is_there(blobs: Blobs, key: str) -> bool:
    try:
        await blobs.stat(key)
    except Missing:
        return False
    return True


async def _save(blobs: Blobs, name: ResourceName, key: str, data: bytes) -> None:
    if len(data) > CREATE_LIMIT:
        data = _POINTER + digest_hex((await put_blob(blobs, name.project, data)).digest).encode()
    try:
        await blobs.create(key, data)
    except Exists as error:
        raise Exists(f"{name} already exists", reason=f"{name.kind.upper()}_EXISTS", resource=str(name),
                     remedy="it is immutable: choose another id, or use what is there") from error  # fmt: skip


async def read_manifest(blobs: Blobs, project: str, key: str) -> tuple[bytes, str]:
    """Return (the bytes of the manifest under `key`, the digest of the blob that they lie in or '').

    Raises Missing when the manifest is not there, Corrupt when it, or the blob it lies in, is damaged or lost.
    """
    data = await blobs.get(key)
    if not data.startswith(_POINTER):
        return data, ""
    digest = "sha256:" + data.removeprefix(_POINTER).decode("ascii", errors="replace")
    try:
        return await read_blob(blobs, project, digest), digest
    except Invalid as error:
        raise Corrupt(f"{key}: {error.message}", reason="MANIFEST_UNREADABLE") from error
    except Missing as error:
        raise Corrupt(f"{key} lies in {digest}, which is lost", reason="MANIFEST_UNREADABLE",
                      remedy="restore that blob from a backup") from error  # fmt: skip


async def _bytes(blobs: Blobs, project: str, key: str) -> bytes:
    return (await read_manifest(blobs, project, key))[0]


async def _load(blobs: Blobs, name: ResourceName, key: str, folder: str, folders: bool = False) -> bytes:
    try:
        return await _bytes(blobs, name.project, key)
    except Missing as error:
        known = await names(blobs, folder, folders=True) if folders else await _ids(blobs, folder)
        raise Missing(f"{name} does not exist", reason=f"{name.kind.upper()}_NOT_FOUND", resource=str(name),
                      remedy=did_you_mean(name.id, known)) from error  # fmt: skip
