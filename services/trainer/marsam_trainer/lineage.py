"""Where a model, or a picture that was drawn, comes from: run, base, dataset version, photographs with their rights.

Asked of a dataset version or of a picture in it, the other way round: which models saw it.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from marsam.catalog.aliases import resolve
from marsam.catalog.datasets import DatasetVersion, Item
from marsam.catalog.generations import GenerationRecord
from marsam.catalog.models import Model
from marsam.catalog.repository import list_models, load_generation, load_item, load_model, load_version
from marsam.core.errors import Missing
from marsam.core.names import format_name, parse
from marsam.store.blobs import Blobs

MOST_ITEMS = 2000
"""Pictures that are named one by one, so that the answer stays far below a message's limit; the rest is counted."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One thing in a lineage, and what it was made from."""

    name: str
    kind: str
    digest: str = ""
    summary: str = ""
    parents: tuple[str, ...] = ()


async def trace(blobs: Blobs, name: str) -> list[Node]:
    """The lineage of a model, alias or generation, or what came of a dataset version or item; nearest first. Raises
    Missing."""
    segments = name.split("/")
    if segments[2:3] == ["generations"]:
        return await _of_generation(blobs, await load_generation(blobs, name))
    if segments[2:3] != ["datasets"]:
        return await _of_model(blobs, await resolve(blobs, name))
    if segments[4:5] == ["items"]:
        parts = parse(name, "item")
        item = await load_item(blobs, name)
        descendants = await _descendants(
            blobs, parts.project, lambda seen: seen.startswith(f"{_dataset(name)}/"), image=item.image.digest
        )
        return [_item_node(name, item), *descendants]
    version = await load_version(blobs, name)
    project = parse(name, "version").project
    return [_version_node(version), *await _descendants(blobs, project, lambda seen: seen == name, image=None)]


async def _of_generation(blobs: Blobs, record: GenerationRecord) -> list[Node]:
    pictures, asked = len(record.pictures), str(record.request.get("prompt", ""))
    summary = f"{pictures} pictures of '{asked[:80]}', seed {record.request.get('seed', 0)}, {record.fingerprint}"
    parents = tuple(record.models)
    nodes = {record.name: Node(name=record.name, kind="generation", summary=summary, parents=parents)}
    for name, digest in record.models.items():
        try:
            model = await load_model(blobs, name)
        except Missing:
            nodes[name] = Node(name=name, kind="model", digest=digest, summary="deleted")
            continue
        for node in await _of_model(blobs, model):
            nodes.setdefault(node.name, node)
    return list(nodes.values())


async def _of_model(blobs: Blobs, model: Model) -> list[Node]:
    nodes = [_model_node(model)]
    lineage = model.lineage
    if lineage.run:
        summary = f"{model.method} on {model.family}, seed {lineage.seed}, Marsam {lineage.code_version}"
        parents = tuple(name for name in (model.base, *lineage.versions) if name)
        nodes.append(Node(name=lineage.run, kind="run", summary=summary, parents=parents))
    if model.base:
        nodes += await _known(blobs, model.base)
    for name, digest in lineage.versions.items():
        nodes += await _version_and_items(blobs, name, digest)
    return nodes


async def _known(blobs: Blobs, base: str) -> list[Node]:
    """The base and what it came from itself; a deleted one is named all the same."""
    try:
        return await _of_model(blobs, await load_model(blobs, base))
    except Missing:
        return [Node(name=base, kind="base", summary="deleted")]


async def _version_and_items(blobs: Blobs, name: str, digest: str) -> list[Node]:
    try:
        version = await load_version(blobs, name)
    except Missing:
        return [Node(name=name, kind="dataset_version", digest=digest, summary="deleted")]
    project = parse(name, "version").project
    items = [
        _item_node(format_name("item", project, version.dataset, item.id), item) for item in version.items[:MOST_ITEMS]
    ]
    return [_version_node(version), *items]


async def _descendants(blobs: Blobs, project: str, meant: Callable[[str], bool], *, image: str | None) -> list[Node]:
    """Models that saw a version whose name is `meant` and, if `image` is given, that holds that picture."""
    nodes = []
    holds: dict[str, bool] = {}
    for model in await list_models(blobs, project):
        wanted = [name for name in model.lineage.versions if meant(name)]
        for seen in wanted if image is not None else ():
            if seen not in holds:
                version = await load_version(blobs, seen)
                holds[seen] = any(item.image.digest == image for item in version.items)
        if any(image is None or holds[seen] for seen in wanted):
            nodes.append(_model_node(model))
    return nodes


def _dataset(item: str) -> str:
    return "/".join(item.split("/")[:4])


def _model_node(model: Model) -> Node:
    parents = tuple(name for name in (model.lineage.run, model.base) if name)
    summary = f"licence: {model.licence or 'not stated'}"
    if model.accepted is not None:
        summary += f", accepted by {model.accepted.by} on {model.accepted.at:%Y-%m-%d}"
    if model.lineage.source:
        summary += f"; from {model.lineage.source}"
    return Node(name=model.name, kind=model.kind, digest=model.digest, summary=summary, parents=parents)


def _version_node(version: DatasetVersion) -> Node:
    licences = Counter(item.rights.licence or "not stated" for item in version.items)
    counted = ", ".join(f"{count} under {licence}" for licence, count in licences.most_common(5))
    return Node(
        name=version.name,
        kind="dataset_version",
        digest=version.digest,
        summary=f"{len(version.items)} pictures: {counted}" if counted else "no pictures",
    )


def _item_node(name: str, item: Item) -> Node:
    rights = item.rights
    told = (
        ("licence", rights.licence),
        ("holder", rights.holder),
        ("consent", rights.consent),
        ("from", rights.source),
    )
    summary = "; ".join(f"{word}: {text[:80]}" for word, text in told if text) or "rights not stated"
    return Node(name=name, kind="item", digest=item.image.digest, summary=summary)
