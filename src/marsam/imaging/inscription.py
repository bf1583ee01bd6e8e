"""What a drawn picture says about itself, as an XMP packet: the request that made it, its seed, the models by digest.

XMP (ISO 16684-1) fits into every format and outlives most editors. A packet may come from anyone: it is read by a bare
XML parser that knows no entities, and nothing that it says is believed to be true.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape

from marsam.core.errors import Corrupt

NAMESPACE = "https://marsam.dev/ns/picture/1/"
"""Of our own properties: `request`, `seed` and `models`, the first and last as JSON."""

TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for a picture that a trained model made; https://cv.iptc.org/newscodes/digitalsourcetype/"""

COMPOSED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's term for one in which something of another picture is left."""

DRAWING_LABEL = "dev.marsam.drawing"
"""Name of our own assertion in a C2PA manifest: the generation, its models by digest, the engine's fingerprint."""

MOST_BYTES = 65_502
"""Largest packet: a JPEG segment holds 65,533 bytes, and the first 29 (and two to spare) say that it is XMP."""

LARGEST_SEED = 2**53 - 1
"""JSON's readers hold no larger whole number exactly."""

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_OURS = {f"{NAMESPACE} {name}": name for name in ("request", "seed", "models")}
_MOST_MODELS = 64
_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{rdf}"><rdf:Description rdf:about="" \
xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" \
xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:marsam="{ours}">
{description}<xmp:CreatorTool>Marsam</xmp:CreatorTool>
<Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>
<marsam:request>{request}</marsam:request>
<marsam:seed>{seed}</marsam:seed>
<marsam:models>{models}</marsam:models>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""
_DESCRIPTION = """<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></dc:description>
"""


@dataclass(frozen=True, kw_only=True)
class Inscription:
    """`request` is the resolved request as a JSON object, `seed` the picture's own, `models` maps names to digests."""

    request: str
    seed: int
    models: Mapping[str, str]

    def fields(self) -> dict[str, Any]:
        """The request as plain data. Raises `Corrupt`."""
        return _object(self.request, what="request")

    @property
    def source_type(self) -> str:
        """IPTC's term for how the picture came to be."""
        request = self.fields()
        begun = bool(request.get("init_image")) and (bool(request.get("mask_image")) or request.get("strength") != 1)
        return COMPOSED if begun else TRAINED

    @property
    def models_json(self) -> str:
        """The models as JSON, the same for the same models."""
        return json.dumps(dict(self.models), sort_keys=True, ensure_ascii=False)

    def packet(self) -> bytes:
        """As an XMP packet of at most `MOST_BYTES`. The prompt is its description too, for other programs, where both
        have room."""
        prompt = str(self.fields().get("prompt", ""))
        for description in (_DESCRIPTION.format(_xml(prompt)) if prompt else "", ""):
            packet = _PACKET.format(
                rdf=_RDF, ours=NAMESPACE, source=self.source_type, description=description,
                request=_json_in_xml(self.request), seed=self.seed, models=_json_in_xml(self.models_json),
            ).encode()  # fmt: skip
            if len(packet) <= MOST_BYTES:
                break
        return packet


def of_packet(packet: bytes) -> Inscription | None:
    """What a packet says of the drawing; None when it says nothing. Raises `Corrupt` for one that is no packet."""
    said = _properties(packet)
    return of_texts(**said) if "request" in said else None


def of_texts(*, request: str, seed: str = "", models: str = "{}") -> Inscription:
    """From its three texts. Raises `Corrupt` when they are not what they should be."""
    if not seed.isascii() or not seed.isdigit() or len(seed) > 16 or int(seed) > LARGEST_SEED:
        raise _unreadable(f"its seed is '{seed[:40]}'")
    named = _object(models, what="models")
    if len(named) > _MOST_MODELS or not all(isinstance(digest, str) for digest in named.values()):
        raise _unreadable("its models are not names with digests")
    inscription = Inscription(request=request, seed=int(seed), models=named)
    inscription.fields()
    return inscription


def _properties(packet: bytes) -> dict[str, str]:
    """Our properties, whether they are written as elements or, as other programs do, as attributes."""
    found: dict[str, list[str]] = {}
    path: list[str] = []

    def start(name: str, attributes: Mapping[str, str]) -> None:
        path.append(name)
        for key, value in attributes.items() if name == f"{_RDF} Description" else ():
            if key in _OURS:
                found[_OURS[key]] = [value]
        if name in _OURS:
            found[_OURS[name]] = []

    def end(_: str) -> None:
        path.pop()

    def text(data: str) -> None:
        if path and path[-1] in _OURS:
            found[_OURS[path[-1]]].append(data)

    def refuse(*_: object) -> None:
        raise _unreadable("its XMP declares a document type, which none needs")

    parser = expat.ParserCreate("utf-8", namespace_separator=" ")
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(packet.rstrip(b" \n\r\t\0"), True)
    except expat.ExpatError as error:
        raise _unreadable(f"its XMP is no XML: {error}") from error
    return {name: "".join(parts) for name, parts in found.items()}


def _object(text: str, *, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
        # Half characters, and numbers beyond all numbers, which could not be written down again.
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise _unreadable(f"its {what} is no JSON") from error
    if not isinstance(found, dict):
        raise _unreadable(f"its {what} is no JSON object")
    return found


def _unreadable(why: str) -> Corrupt:
    return Corrupt(f"what the picture says about itself cannot be read: {why}", reason="INSCRIPTION_UNREADABLE")


def _json_in_xml(text: str) -> str:
    # JSON escapes what XML has no place for, but for these two.
    return escape(text.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff"))


def _xml(text: str) -> str:
    return escape("".join(c if (c >= " " and c not in "\ufffe\uffff") or c in "\n\t" else "\ufffd" for c in text))
