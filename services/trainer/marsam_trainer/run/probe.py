"""The language probe: how the base's own tokenizers read a version's captions, in each language. Loads no weights."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from marsam.catalog.datasets import DatasetVersion
from marsam.catalog.runs import RunSpec
from marsam.core.errors import Invalid, Violation
from marsam.core.records import to_plain
from marsam.diffusion import reading, registry
from marsam.diffusion.reading import Reading, readings_of
from marsam.diffusion.spec import BaseFacts, Part
from marsam.store.blobs import Blobs
from marsam.store.cache import Cache
from marsam_trainer.run.bridge import Bridge
from marsam_trainer.run.work import load_order


def probe(bridge: Bridge, blobs: Blobs, spec: RunSpec, *, cache: Path) -> dict[str, Any]:
    """What the tokenizers make of the captions that a run would use, as plain data: `readings`, `faults`,
    `warnings`."""
    base, *versions = load_order(bridge, blobs, spec)
    family = registry.family_facts(base.family)
    wanted = {*family.config_files}
    folders = family.tokenizers()
    files = [file for file in base.files if file.path in wanted or file.path.split("/")[0] in folders]
    with tempfile.TemporaryDirectory(prefix="probe-") as folder:
        source = bridge.call(Cache(cache).lay_out(blobs, base.project, files, Path(folder)))
        facts = registry.read_base_folder(base.family, source)
        readings = _readings(source, facts, captions_of(versions, spec.languages))
    return {
        "readings": [to_plain(entry) for entry in readings],
        "faults": [_told(violation, remedy) for violation, remedy in reading.faults(readings)],
        "warnings": [_told(violation) for violation in reading.warnings(readings)],
    }


def check(
    source: Path, facts: BaseFacts, versions: Iterable[DatasetVersion | None], languages: Sequence[str]
) -> list[str]:
    """What is worth saying of how the base in `source` reads a run's captions. Raises `Invalid` when it does not."""
    readings = _readings(source, facts, captions_of(versions, languages))
    found = reading.faults(readings)
    if found:
        violation, remedy = found[0]
        raise Invalid(
            violation.message,
            field=violation.field,
            reason=violation.reason,
            remedy=remedy,
            violations=[violation for violation, _ in found],
        )
    return [violation.message for violation in reading.warnings(readings)]


def captions_of(versions: Iterable[DatasetVersion | None], languages: Sequence[str]) -> dict[str, list[str]]:
    """The captions of `versions` that a run on `languages` (all when empty) may use, by language."""
    found: dict[str, list[str]] = {}
    for item in (item for version in versions if version is not None for item in version.items):
        for caption in item.captions if item.split == "train" else ():
            if not languages or caption.language in languages:
                found.setdefault(caption.language, []).append(caption.text)
    return dict(sorted(found.items()))


def _readings(source: Path, facts: BaseFacts, captions: Mapping[str, Sequence[str]]) -> list[Reading]:
    """Of the base in `source`, whose tokenizers are loaded as its family does for training. Raises `Corrupt`."""
    if not captions:
        return []
    parts = registry.family(facts.family).load(source, parts=frozenset({Part.WORDS}))
    return readings_of(parts.text, registry.family_facts(facts.family), facts, captions)


def _told(violation: Violation, remedy: str = "") -> dict[str, str]:
    return {"field": violation.field, "reason": violation.reason, "message": violation.message, "remedy": remedy}
