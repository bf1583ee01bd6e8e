"""Datasets: the head record, items as imported, and immutable versions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal

from marsam.catalog.files import FileRef
from marsam.core.errors import Invalid
from marsam.core.ids import check_ulid, digest_hex, digest_of
from marsam.core.names import format_name, parse
from marsam.core.records import canonical, to_plain

Severity = Literal["info", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What one language ('en', 'ar', … BCP 47) says of a picture."""

    language: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Rights:
    """Under which licence and with whose consent a picture is held; '' is unknown."""

    licence: str = ""
    holder: str = ""
    source: str = ""
    consent: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check says of one item, or of the dataset. `related` names the other items that are concerned."""

    check: str
    severity: Severity
    reason: str
    message: str
    related: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Where a picture counts, for runs that ask: `image` is a normalised PNG of the picture's own size, white where it
    counts and black where it does not. `original_digest` is of the bytes that were sent."""

    image: FileRef
    original_digest: str


@dataclass(frozen=True, kw_only=True)
class Item:
    """A picture with its captions. `image` is the normalised PNG (sRGB, 8-bit RGB, upright, no metadata).

    `original_digest` is of the bytes that were sent, `pixel_digest` of the decoded pixels; `phash` and `dhash` are
    64-bit perceptual hashes, `width` and `height` pixels of `image`.
    """

    SCHEMA: ClassVar[str] = "marsam.item/1"

    id: str
    file_name: str
    image: FileRef
    original_digest: str
    pixel_digest: str
    width: int
    height: int
    phash: int
    dhash: int
    captions: tuple[Caption, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    rights: Rights = Rights()  # frozen, so sharing the default is safe
    split: str = "train"
    findings: tuple[Finding, ...] = ()
    mask: Mask | None = None

    def __post_init__(self) -> None:
        check_ulid(self.id)
        digest_hex(self.original_digest, field="original_digest")
        digest_hex(self.pixel_digest, field="pixel_digest")
        if self.width < 1 or self.height < 1:
            raise Invalid(f"item {self.id}: size must be positive, got {self.width}x{self.height}", field="width")
        for name in ("phash", "dhash"):
            if not 0 <= getattr(self, name) < 1 << 64:
                raise Invalid(f"item {self.id}: {name} must be an unsigned 64-bit number", field=name)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The head record of a dataset: what it is called and for. Items and versions lie beside it."""

    SCHEMA: ClassVar[str] = "marsam.dataset/1"

    name: str
    create_time: datetime
    display_name: str = ""
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parse(self.name, "dataset")


@dataclass(frozen=True, kw_only=True)
class DatasetVersion:
    """A frozen selection of items with final captions, ready for training.

    `digest` covers what training sees (pictures, masks, captions, attributes, splits), not ids, rights or findings:
    importing the same material twice gives equal digests. It is computed when left empty, and compared otherwise.
    """

    SCHEMA: ClassVar[str] = "marsam.dataset_version/1"

    name: str
    create_time: datetime
    items: tuple[Item, ...]
    excluded: tuple[tuple[str, str], ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    def __post_init__(self) -> None:
        parse(self.name, "version")
        if len({item.id for item in self.items}) != len(self.items):
            raise Invalid(f"{self.name} holds an item twice", field="items")
        digest = items_digest(self.items)
        if self.digest not in ("", digest):
            raise Invalid(f"{self.name}: its items hash to {digest}, not to {self.digest}", field="digest")
        object.__setattr__(self, "digest", digest)

    @property
    def dataset(self) -> str:
        """The dataset's id."""
        return parse(self.name, "version").ids[0]

    @property
    def version(self) -> str:
        """The version's id."""
        return parse(self.name, "version").ids[1]

    @property
    def dataset_name(self) -> str:
        """The dataset's resource name."""
        return format_name("dataset", parse(self.name, "version").project, self.dataset)


def items_digest(items: tuple[Item, ...]) -> str:
    """Return the digest of what training sees of `items`, whatever their order and ids."""
    return digest_of(b"\n".join(sorted(canonical(_seen(item)) for item in items)))


def _seen(item: Item) -> list[Any]:
    seen = [item.image.digest, to_plain(item.captions), to_plain(item.attributes), item.split, item.width, item.height]
    # Only where there is one: versions without keep the digests that they always had.
    return seen if item.mask is None else [*seen, item.mask.image.digest]
