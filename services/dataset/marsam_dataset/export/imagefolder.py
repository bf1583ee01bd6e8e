"""The ImageFolder layout of Hugging Face datasets: `<split>/metadata.jsonl` beside the pictures of the split.

Readers silently ignore a metadata file at the root, or paths relative to it; so both lie inside the split's folder.
Our own importer reads it back with captions, attributes, rights and masks.
"""

from collections import defaultdict
from collections.abc import Iterator

from marsam.catalog.datasets import DatasetVersion, Item
from marsam.core.records import canonical, to_plain
from marsam_dataset.export.layout import Content, Placed
from marsam_dataset.ingest import masks


def layout(version: DatasetVersion) -> Iterator[Placed | Content]:
    """Yield where each picture goes, and the metadata of each split."""
    splits: dict[str, list[Item]] = defaultdict(list)
    for item in version.items:
        splits[item.split].append(item)
    for split, items in sorted(splits.items()):
        lines = []
        for item in items:
            name = f"{item.id}.png"
            yield Placed(path=f"{split}/{name}", digest=item.image.digest, size=item.image.size)
            row = _line(name, item)
            if item.mask is not None:
                row["mask_file_name"] = f"{item.id}{masks.ENDINGS[0]}.png"
                yield Placed(
                    path=f"{split}/{row['mask_file_name']}", digest=item.mask.image.digest, size=item.mask.image.size
                )
            lines.append(canonical(row) + b"\n")
        yield Content(path=f"{split}/metadata.jsonl", data=b"".join(lines))


def _line(name: str, item: Item) -> dict[str, object]:
    """One row. `text` is the English caption, else the first: trainers of one language read that column."""
    main = next((c for c in item.captions if c.language == "en"), item.captions[0] if item.captions else None)
    row: dict[str, object] = {"file_name": name, "text": main.text if main else ""}
    for caption in item.captions:
        if caption is not main:
            row.setdefault(f"text_{caption.language}", caption.text)
    row["captions"] = to_plain(item.captions)
    row["attributes"] = dict(item.attributes)
    row["rights"] = to_plain(item.rights)
    row["source_file"] = item.file_name
    return row
