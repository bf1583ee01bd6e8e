"""The samples of a dataset version: its pictures with the captions that a run may use."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from marsam.catalog.datasets import DatasetVersion, Item
from marsam.catalog.files import FileRef
from marsam.core.errors import Invalid
from marsam.core.ids import sha256_hex
from marsam.core.records import canonical
from marsam.diffusion import buckets
from marsam.diffusion.buckets import Cut, Size


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One picture of a version with the captions that a run may use. `key` is a digest of exactly that; `width` and
    `height` are the picture's, in pixels. `mask` says where it counts, and is None where it has none."""

    key: str
    item: str
    file_name: str
    image: FileRef
    width: int
    height: int
    captions: tuple[str, ...]
    mask: FileRef | None = None

    def cut(self, sizes: Sequence[Size]) -> Cut:
        """How its picture is cut, where it may become any of `sizes`."""
        return buckets.cut(self.width, self.height, sizes)


def samples_of(version: DatasetVersion, languages: Sequence[str]) -> list[Sample]:
    """The version's training samples in the order of their keys, with captions of `languages` only (all when empty).

    Raises `Invalid` when nothing is left to train on, or no caption is in a language asked for.
    """
    items = [item for item in version.items if item.split == "train"]
    if not items:
        raise Invalid(f"{version.name} has no training items", field="dataset_version", reason="DATASET_EMPTY")
    spoken = Counter(caption.language for item in items for caption in item.captions)
    for language in languages:
        if not spoken[language]:
            raise Invalid(
                f"no caption is in {language!r}",
                field="languages",
                reason="LANGUAGE_ABSENT",
                remedy=f"the version speaks {', '.join(sorted(spoken)) or 'no language'}",
            )
    return _samples(items, languages)


def regularisation_of(version: DatasetVersion, languages: Sequence[str]) -> list[Sample]:
    """Likewise the training samples of a version of what must not be forgotten. It need not speak every language.

    Raises `Invalid` when nothing is left, or no caption is in any language asked for.
    """
    items = [item for item in version.items if item.split == "train"]
    if not items:
        raise Invalid(f"{version.name} has no training items", field="regularisation", reason="DATASET_EMPTY")
    spoken = {caption.language for item in items for caption in item.captions}
    if languages and not spoken & {*languages}:
        raise Invalid(
            f"no caption of {version.name} is in {' or '.join(languages)}",
            field="regularisation",
            reason="LANGUAGE_ABSENT",
            remedy=f"the version speaks {', '.join(sorted(spoken)) or 'no language'}",
        )
    return _samples(items, languages)


def held_out_of(version: DatasetVersion, languages: Sequence[str]) -> list[Sample]:
    """The version's samples of the split `validation`, likewise; none when it has none."""
    return _samples([item for item in version.items if item.split == "validation"], languages)


def _samples(items: Sequence[Item], languages: Sequence[str]) -> list[Sample]:
    seen: Counter[str] = Counter()
    samples = []
    for item in sorted(items, key=lambda item: (_content(item), _mask_digest(item))):
        content = sha256_hex(_content(item))
        seen[content] += 1
        captions = tuple(caption.text for caption in item.captions if not languages or caption.language in languages)
        # Twins keep apart: each has noise of its own.
        samples.append(
            Sample(
                key=f"{content}-{seen[content]}",
                item=item.id,
                file_name=item.file_name,
                image=item.image,
                width=item.width,
                height=item.height,
                captions=captions,
                mask=item.mask.image if item.mask is not None else None,
            )
        )
    return samples


def _content(item: Item) -> bytes:
    return canonical([item.image.digest, [[caption.language, caption.text] for caption in item.captions]])


def _mask_digest(item: Item) -> str:
    return item.mask.image.digest if item.mask is not None else ""
