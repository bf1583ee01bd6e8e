"""Commits: what a dataset is at one moment, selected, digested, immutable. And what changed between two."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marsam.catalog.datasets import DatasetVersion, Item
from marsam.catalog.repository import list_models, list_versions, load_version, save_version
from marsam.core.clock import Clock
from marsam.core.errors import Exists, Missing, Precondition
from marsam.core.names import format_name, parse
from marsam.core.records import canonical
from marsam.jobs.requests import remember
from marsam.store.blobs import Blobs
from marsam_dataset.assess import Assessment, assess

RECIPE = "default/1"
"""Drop what a reviewer rejected or withdrew and what a check failed unless a reviewer accepted it; keep the rest."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """File names that only the newer version has, only the older, and those of which something but the picture
    changed.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def entries(self) -> tuple[tuple[str, str], ...]:
        """Every (kind of change, file name), in the order of the fields."""
        return tuple((kind, name) for kind in ("added", "removed", "changed") for name in getattr(self, kind))


async def commit(
    blobs: Blobs, dataset: str, *, version_id: str = "", message: str = "", request_id: str = "", clock: Clock
) -> DatasetVersion:
    """Freeze what the default selection keeps as version `version_id`, or the next of v1, v2, ….

    The same `request_id` again returns the first version. Raises Missing (DATASET_NOT_FOUND), Precondition
    (DATASET_EMPTY) when nothing is kept, Exists (VERSION_EXISTS, REQUEST_ID_REUSED).
    """
    parts = parse(dataset, "dataset")
    wanted = version_id
    known = {parse(v.name, "version").id for v in await list_versions(blobs, dataset)} if not wanted else set()
    if not wanted:
        wanted = next(f"v{n}" for n in range(1, len(known) + 2) if f"v{n}" not in known)
    if request_id:
        asked = canonical([dataset, version_id, message])
        wanted, new = await remember(
            blobs,
            parts.project,
            scope="commit version",
            request_id=request_id,
            content=asked,
            result=wanted,
            clock=clock,
        )
        if not new:
            try:
                return await load_version(blobs, format_name("version", parts.project, parts.id, wanted))
            except Missing:
                pass  # a crash came between the promise and the version: keep the promise now
    name = format_name("version", parts.project, parts.id, wanted)
    assessment = await assess(blobs, dataset, clock)
    if not assessment.kept:
        raise Precondition(
            f"{dataset} has no item that a version would keep",
            reason="DATASET_EMPTY",
            resource=dataset,
            remedy="import pictures, or accept items in review; CheckDataset says why each is left out",
        )
    version = DatasetVersion(
        name=name,
        create_time=clock.now(),
        items=assessment.kept,
        excluded=tuple(sorted(assessment.excluded.items())),
        report=_report(assessment, message),
    )
    try:
        await save_version(blobs, version)
    except Exists:
        stored = await load_version(blobs, name)
        if not request_id or stored.digest != version.digest:
            raise
        return stored
    return version


def _report(assessment: Assessment, message: str) -> Mapping[str, Any]:
    return {
        "recipe": RECIPE,
        "message": message,
        "warnings": list(assessment.warnings),
        "associations": [
            {"a": a.a, "b": a.b, "v": a.v, "items": a.items, "warns": a.warns, "message": a.message}
            for a in assessment.associations
        ],
        "coverage": [[attribute, value, count] for attribute, value, count in assessment.coverage],
    }


def excluded_by_reason(version: DatasetVersion) -> dict[str, int]:
    """Return how many items were left out, by reason."""
    return dict(Counter(reason for _, reason in version.excluded))


def licences(items: Sequence[Item]) -> list[str]:
    """Return the licences that the items are under; '' (unknown) is spelled out."""
    return sorted({item.rights.licence or "unknown" for item in items})


def difference(old: DatasetVersion, new: DatasetVersion) -> Difference:
    """Compare two versions by picture (its bytes in normal form) and by what is said of it."""
    before = {item.image.digest: item for item in old.items}
    after = {item.image.digest: item for item in new.items}
    return Difference(
        added=_names(after[d] for d in after.keys() - before.keys()),
        removed=_names(before[d] for d in before.keys() - after.keys()),
        changed=_names(after[d] for d in after.keys() & before.keys() if _said(before[d]) != _said(after[d])),
    )


async def trained_on(blobs: Blobs, project: str, dataset_id: str, item: Item) -> list[str]:
    """Return the models of which a dataset version that they saw holds the picture of `item`, by name."""
    dataset = format_name("dataset", project, dataset_id)
    holding = {
        version.name
        for version in await list_versions(blobs, dataset)
        if any(other.image.digest == item.image.digest for other in version.items)
    }
    return sorted(m.name for m in await list_models(blobs, project) if holding & m.lineage.versions.keys())


def _said(item: Item) -> tuple[Any, ...]:
    mask = item.mask.image.digest if item.mask is not None else ""
    return item.captions, dict(item.attributes), item.rights, item.split, mask


def _names(items: Any) -> tuple[str, ...]:
    return tuple(sorted(item.file_name for item in items))
