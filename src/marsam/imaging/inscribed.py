"""The inscription of a picture file that may come from anyone: PNG, JPEG and WebP are walked chunk by chunk, within
bounds, and no pixel is decoded.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from marsam.core.errors import Corrupt, Invalid
from marsam.imaging.inscription import Inscription, of_packet, of_texts
from marsam.imaging.limits import MIB
from marsam.imaging.sniff import PROBE_BYTES, sniff

MOST_BYTES = 256 * MIB
"""Largest file that is looked at."""

_MOST_TEXT = MIB
_XMP_IN_PNG = "XML:com.adobe.xmp"
_XMP_IN_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
_PREFIX = "marsam:"
_TEXTS = ("request", "seed", "models")
_MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


@dataclass(frozen=True, kw_only=True)
class Inscribed:
    """What a file says: `signed` is whether it holds a C2PA manifest, true or not; no inscription is None."""

    media_type: str
    inscription: Inscription | None
    signed: bool


def read(data: bytes) -> Inscribed:
    """Read a picture file. Raises `Invalid` for what is no PNG, JPEG or WebP, `Corrupt` for one that is broken or whose
    inscription is.
    """
    kind = sniff(data[:PROBE_BYTES])
    if kind.format not in _MEDIA_TYPES or len(data) > MOST_BYTES:
        what = f"{len(data)} bytes" if kind.format in _MEDIA_TYPES else kind.label
        raise Invalid(
            f"this is {what}, and only PNG, JPEG and WebP up to {MOST_BYTES // MIB} MiB are read for what they say",
            reason="PICTURE_UNREADABLE",
        )
    inscription, signed = {"PNG": _png, "JPEG": _jpeg, "WEBP": _webp}[kind.format](data)
    return Inscribed(media_type=_MEDIA_TYPES[kind.format], inscription=inscription, signed=signed)


def _png(data: bytes) -> tuple[Inscription | None, bool]:
    texts: dict[str, str] = {}
    signed = False
    for kind, body in _chunks(data, 8, ">I4s", length_first=True):
        if kind == b"caBX":
            signed = True
        elif kind == b"iTXt":
            key, text = _itxt(body)
            texts.setdefault(key, text)
    if f"{_PREFIX}request" in texts:
        ours = {name: texts[f"{_PREFIX}{name}"] for name in _TEXTS if f"{_PREFIX}{name}" in texts}
        return of_texts(**ours), signed
    packet = texts.get(_XMP_IN_PNG, "")
    return (of_packet(packet.encode()) if packet else None), signed


def _itxt(body: bytes) -> tuple[str, str]:
    """Keyword and text of an iTXt chunk (PNG, 11.3.3.4); empty for one that is not ours to read."""
    keyword, _, rest = body.partition(b"\0")
    key = keyword.decode("latin-1")
    if not key.startswith(_PREFIX) and key != _XMP_IN_PNG:
        return "", ""
    compressed = rest[:1] == b"\1"
    text = rest[2:].split(b"\0", 2)[-1]
    if compressed:
        unpacker = zlib.decompressobj()
        try:
            text = unpacker.decompress(text, _MOST_TEXT)
        except zlib.error as error:
            raise _broken("PNG") from error
        if unpacker.unconsumed_tail:
            raise _broken("PNG")
    try:
        return key, text[: _MOST_TEXT + 1].decode()
    except UnicodeDecodeError as error:
        raise _broken("PNG") from error


def _webp(data: bytes) -> tuple[Inscription | None, bool]:
    packet, signed = b"", False
    for kind, body in _chunks(data, 12, "<4sI", length_first=False):
        if kind == b"XMP ":
            packet = packet or body
        signed = signed or kind == b"C2PA"
    return (of_packet(packet) if packet else None), signed


def _chunks(data: bytes, start: int, head: str, *, length_first: bool) -> Iterator[tuple[bytes, bytes]]:
    """Chunks with a head of length and kind; PNG's are followed by four bytes, WebP's are of even length."""
    place = start
    while place + 8 <= len(data):
        one, other = struct.unpack_from(head, data, place)
        length, kind = (one, other) if length_first else (other, one)
        if place + 8 + length > len(data):
            raise _broken("PNG" if length_first else "WebP")
        # Pixels are passed over; what is of use is small.
        yield kind, data[place + 8 : place + 8 + length] if length <= 4 * _MOST_TEXT else b""
        place += 8 + length + (4 if length_first else length % 2)
        if kind == b"IEND":
            return


def _jpeg(data: bytes) -> tuple[Inscription | None, bool]:
    packet, signed = b"", False
    place = 2
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            raise _broken("JPEG")
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        if marker in (0xDA, 0xD9):  # the pixels begin, and what comes after them is not looked at
            break
        (length,) = struct.unpack_from(">H", data, place + 2)
        body = data[place + 4 : place + 2 + length]
        if length < 2 or place + 2 + length > len(data):
            raise _broken("JPEG")
        if marker == 0xE1 and body.startswith(_XMP_IN_JPEG):
            packet = packet or body.removeprefix(_XMP_IN_JPEG)
        # JPEG XT boxes (ISO 19566-5) with a JUMBF superbox inside.
        signed = signed or (marker == 0xEB and body[:2] == b"JP" and b"c2pa" in body)
        place += 2 + length
    return (of_packet(packet) if packet else None), signed


def _broken(format: str) -> Corrupt:
    return Corrupt(f"the picture is cut off or broken: its {format} chunks do not add up", reason="PICTURE_BROKEN")
