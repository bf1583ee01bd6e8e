"""What a file says about its own origin, read before its metadata is stripped."""

from dataclasses import dataclass
from typing import Any

from PIL import ExifTags

_LONGEST = 300


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """`creator` and `copyright` as EXIF states them (empty when silent); `has_location` when GPS coordinates were
    present: the coordinates themselves are not kept.
    """

    creator: str = ""
    copyright: str = ""
    has_location: bool = False


def read(exif: Any) -> Provenance:
    """Provenance from Pillow's EXIF mapping of an opened picture."""
    return Provenance(
        creator=_text(exif.get(ExifTags.Base.Artist)),
        copyright=_text(exif.get(ExifTags.Base.Copyright)),
        has_location=bool(exif.get_ifd(ExifTags.IFD.GPSInfo)),
    )


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if not isinstance(value, str):
        return ""
    return "".join(c for c in value if c.isprintable()).strip()[:_LONGEST]
