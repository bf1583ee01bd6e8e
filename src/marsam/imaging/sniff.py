"""What a file is, decided by its first bytes and never by its name."""

from dataclasses import dataclass

PROBE_BYTES = 64
"""How much of the start of a file `sniff` looks at."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """`format` is the decoder's name when the file is a picture we read, else empty; `label` is for people."""

    format: str
    label: str
    remedy: str = ""


def _picture(format: str) -> Kind:
    return Kind(format=format, label=format)


_PICTURES: tuple[tuple[bytes, Kind], ...] = (
    (b"\x89PNG\r\n\x1a\n", _picture("PNG")),
    (b"\xff\xd8\xff", _picture("JPEG")),
    (b"GIF87a", _picture("GIF")),
    (b"GIF89a", _picture("GIF")),
    (b"BM", _picture("BMP")),
    (b"II*\x00", _picture("TIFF")),
    (b"MM\x00*", _picture("TIFF")),
)

_CONVERT = "Convert it to PNG or JPEG first."
_OTHERS: tuple[tuple[bytes, Kind], ...] = (
    (b"PK\x03\x04", Kind(format="", label="a ZIP archive (or a PyTorch checkpoint)", remedy="Unpack it first.")),
    (b"%PDF-", Kind(format="", label="a PDF document", remedy="Export its pages as PNG.")),
    (b"8BPS", Kind(format="", label="a Photoshop document", remedy=_CONVERT)),
    (b"\x00\x00\x01\x00", Kind(format="", label="an icon file", remedy=_CONVERT)),
    (b"\xff\x0a", Kind(format="", label="a JPEG XL picture", remedy=_CONVERT)),
    (b"\x00\x00\x00\x0cJXL ", Kind(format="", label="a JPEG XL picture", remedy=_CONVERT)),
    (b"\x00\x00\x00\x0cjP  ", Kind(format="", label="a JPEG 2000 picture", remedy=_CONVERT)),
    (b"II+\x00", Kind(format="", label="a BigTIFF picture", remedy=_CONVERT)),
    (b"MM\x00+", Kind(format="", label="a BigTIFF picture", remedy=_CONVERT)),
    (b"\x7fELF", Kind(format="", label="a program")),
    (b"MZ", Kind(format="", label="a program")),
    (b"\x1f\x8b", Kind(format="", label="a gzip archive", remedy="Unpack it first.")),
    (
        b"version https://git-lfs",
        Kind(format="", label="a Git LFS pointer", remedy="Run `git lfs pull` in the folder."),
    ),
)


def sniff(head: bytes) -> Kind:
    """The kind of a file from its first `PROBE_BYTES` bytes.

    Only what starts with a known signature is a picture, so a file of two natures (a pickle with a PNG behind it, a
    script that carries a GIF) is what it starts as, and a decoder is never chosen by guessing.
    """
    if not head:
        return Kind(format="", label="empty", remedy="Copy the file again.")
    for magic, kind in _PICTURES + _OTHERS:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _picture("WEBP")
    if head[4:8] == b"ftyp":
        return _from_brand(head[8:12])
    if head[0] == 0x80 and len(head) > 1 and head[1] in (2, 3, 4, 5):
        return Kind(format="", label="a Python pickle", remedy="A pickle can run code when it is read: it is refused.")
    return _from_text(head)


def _from_brand(brand: bytes) -> Kind:
    if brand in (b"avif", b"avis"):
        return _picture("AVIF")
    if brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"):
        return Kind(format="", label="a HEIC picture", remedy=_CONVERT)
    return Kind(format="", label="a video", remedy="Export still frames as PNG.")


def _from_text(head: bytes) -> Kind:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<svg", b"<?xml")):
        return Kind(format="", label="an SVG or XML document", remedy="Render it to PNG first.")
    if start.startswith((b"<!doctype", b"<html")):
        return Kind(format="", label="a web page", remedy="The download saved a page in place of the picture.")
    if start.startswith((b"#!", b"<?php")):
        return Kind(format="", label="a script")
    return Kind(
        format="", label="not a picture of a known format", remedy="PNG, JPEG, WebP, AVIF, TIFF, GIF and BMP are read."
    )
