"""Items for tests of what is done with them."""

from collections.abc import Mapping, Sequence

from marsam_dataset.ingest.records import item_id

from marsam.catalog.datasets import Caption, Finding, Item, Rights
from marsam.catalog.files import FileRef
from marsam.core.ids import digest_of

IMPORT = "01m8000000000000000000000z"
FREE = Rights(licence="CC0-1.0", holder="Mona Said")


def item(
    number: int,
    *,
    captions: Mapping[str, str] | Sequence[Caption] = (),
    attributes: Mapping[str, str] | None = None,
    pixels: str = "",
    original: str = "",
    file_name: str = "",
    size: int = 128,
    rights: Rights = FREE,
    findings: tuple[Finding, ...] = (),
    phash: int | None = None,
    dhash: int | None = None,
) -> Item:
    """An item; two with different numbers differ in everything that is not given."""
    name = file_name or f"{number:03d}.png"
    pixels, original = pixels or f"pixels {number}", original or f"file {number}"
    if isinstance(captions, Mapping):
        captions = tuple(Caption(language=language, text=text) for language, text in captions.items())
    spread = number * 0x9E3779B97F4A7C15
    return Item(
        id=item_id(IMPORT, number, name),
        file_name=name,
        image=FileRef(path=f"images/{number}.png", digest=digest_of(pixels.encode()), size=len(pixels)),
        original_digest=digest_of(original.encode()),
        pixel_digest=digest_of(pixels.encode()),
        width=size,
        height=size,
        phash=spread % 2**64 if phash is None else phash,
        dhash=(spread * 31) % 2**64 if dhash is None else dhash,
        captions=tuple(captions),
        attributes=attributes or {},
        rights=rights,
        findings=findings,
    )
