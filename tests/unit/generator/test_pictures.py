"""Pictures as files: what is inside of them, the same bytes for the same drawing, and what anyone may send instead."""

import contextlib
import io
import json
import struct
import zlib
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marsam_generator import forms
from marsam_generator.pictures import Form, encode
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from marsam.api.generator.v1 import generator_pb2
from marsam.client.remaking import remake
from marsam.core.errors import Corrupt, Invalid
from marsam.imaging.inscribed import read
from marsam.imaging.inscription import MOST_BYTES, NAMESPACE, TRAINED, Inscription, of_packet

ARABIC = "عالِمة في مختبر، «مجهر» & <زجاج> \x01\t\ufffe 🧪"
MODELS = {"projects/p/models/base": "sha256:" + "1" * 64, "projects/p/models/hayy": "sha256:" + "2" * 64}
FORMS = [Form(), Form(kind="jpeg", quality=90), Form(kind="webp"), Form(kind="webp", quality=60)]


def inscription(**fields: object) -> Inscription:
    request = {"prompt": ARABIC, "seed": "7", **fields}
    return Inscription(request=json.dumps(request, ensure_ascii=False), seed=8, models=MODELS)


def pixels() -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    return torch.stack([rows * 5, columns * 3, (rows + columns) * 2], dim=2).to(torch.uint8)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_picture_carries_its_request_in_any_script_and_the_same_bytes(form: Form) -> None:
    data = encode(pixels(), inscription(), form)
    assert data == encode(pixels(), inscription(), form)
    found = read(data)
    assert found.media_type == form.media_type and not found.signed
    assert found.inscription is not None
    assert found.inscription.fields()["prompt"] == ARABIC
    assert (found.inscription.seed, found.inscription.models) == (8, MODELS)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == (form.kind.upper(), (64, 48))
        lost = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8).view(48, 64, 3).int()
        worst = int((lost - pixels().int()).abs().max())
        assert worst == 0 if form.quality is None else 0 < worst < 40
        # Another program's reader: the term of IPTC, and what it shows as the description.
        packet = image.info["xmp"]
        xmp = ElementTree.fromstring(packet.decode() if isinstance(packet, bytes) else packet)
        (source,) = xmp.iter("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")
        assert source.text == TRAINED
        (described,) = xmp.iter("{http://purl.org/dc/elements/1.1/}description")
        assert "عالِمة في مختبر، «مجهر» & <زجاج>" in "".join(described.itertext())
        if form.kind == "png":
            assert json.loads(image.text["marsam:request"])["prompt"] == ARABIC


@pytest.mark.parametrize("letter", ["\x01", "&", "\U00020000", '"', "\uffff"])
def test_the_largest_request_fits_into_a_jpeg(letter: str) -> None:
    project = "projects/" + "p" * 63
    names = [f"{project}/models/{'m' * 61}-{number}" for number in range(9)]
    request = {
        "prompt": letter * 4096,
        "negative_prompt": letter * 4096,
        "adapters": [{"model": name, "weight": -3.1415926535897931} for name in names[1:]],
        "init_image": f"{project}/images/{'0' * 64}",
        "mask_image": f"{project}/images/{'1' * 64}",
        "parent": project,
        "model": names[0],
    }
    models = dict.fromkeys(names, "sha256:" + "2" * 64)
    large = Inscription(request=json.dumps(request, ensure_ascii=False), seed=2**53 - 1, models=models)
    assert len(large.packet()) <= MOST_BYTES
    found = read(encode(pixels(), large, Form(kind="jpeg", quality=90))).inscription
    assert found is not None and found.fields() == request and found.models == models


def test_a_packet_that_another_program_rewrote_is_understood() -> None:
    packet = f"""<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>
      <rdf:Description xmlns:m='{NAMESPACE}' m:request='{{"prompt":"a &amp; b"}}' m:seed='3' m:models='{{}}'/>
      </rdf:RDF></x:xmpmeta>"""
    found = of_packet(packet.encode())
    assert found is not None and (found.fields(), found.seed) == ({"prompt": "a & b"}, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_says_nothing(kind: str) -> None:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, format=kind)
    assert read(out.getvalue()).inscription is None


def png(**texts: str) -> bytes:
    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key.replace("_", ":", 1), text, zip=True)
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, format="PNG", pnginfo=info)
    return out.getvalue()


BOMB = "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;&a;'>]><x>&b;</x>"


@pytest.mark.parametrize(
    "data",
    [
        png(marsam_request='{"prompt": "x"}', marsam_seed="-1"),
        png(marsam_request='{"prompt": "x"}', marsam_seed="9" * 16),
        png(marsam_request='{"prompt": "x"}', marsam_seed="1" * 5000),
        png(marsam_request="[" * 100_000, marsam_seed="1"),
        png(marsam_request="[1]", marsam_seed="1"),
        png(marsam_request='{"prompt": "\\ud800"}', marsam_seed="1"),
        png(marsam_request='{"guidance": NaN}', marsam_seed="1"),
        png(marsam_request='{"guidance": 1e400}', marsam_seed="1"),
        png(marsam_request="{}", marsam_seed="1", marsam_models='{"a": 1}'),
        png(marsam_request=" " * (2 * 1024 * 1024) + "{}", marsam_seed="1"),
        png(**{"XML:com.adobe.xmp": BOMB}),
        png(**{"XML:com.adobe.xmp": "<x>"}),
        png(marsam_request="{}", marsam_seed="1")[:60],
        b"RIFF\x20\0\0\0WEBPXMP \xff\xff\xff\x7f",
        b"\xff\xd8\xff\xe1\x00\x00",
        b"\xff\xd8\xff\xe1\xff\xff1234",
    ],
)
def test_what_anyone_may_send_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(Corrupt) as caught:
        read(data)
    assert caught.value.reason in ("INSCRIPTION_UNREADABLE", "PICTURE_BROKEN")


DRAWN = [encode(pixels(), inscription(), form) for form in FORMS]


@given(
    which=st.sampled_from(DRAWN),
    changes=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=12),
    cut=st.integers(0, 2**20),
)
@settings(max_examples=100, deadline=None)
def test_a_file_that_was_tampered_with_is_read_or_refused_and_nothing_else(
    which: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(which)
    for place, value in changes:
        data[place % len(data)] = value
    del data[cut or len(data) :]
    with contextlib.suppress(Corrupt, Invalid):
        remake(bytes(data))


def test_text_that_is_not_packed_as_it_says_is_refused() -> None:
    body = b"marsam:request\0\1\0\0\0not zlib"
    chunk = struct.pack(">I", len(body)) + b"iTXt" + body + struct.pack(">I", zlib.crc32(b"iTXt" + body))
    with pytest.raises(Corrupt):
        read(b"\x89PNG\r\n\x1a\n" + chunk)


@pytest.mark.parametrize("data", [b"", b"GIF89a" + b"\0" * 60, b"\x80\x04\x95", b"%PDF-1.7"])
def test_what_is_no_picture_of_these_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        read(data)
    assert caught.value.reason == "PICTURE_UNREADABLE"


def test_forms_are_filled_in_and_checked() -> None:
    request = generator_pb2.GenerateRequest()
    forms.complete(request)
    assert forms.form_of(request) == Form(kind="png")
    request = generator_pb2.GenerateRequest(format=generator_pb2.FORMAT_JPEG)
    forms.complete(request)
    assert (request.quality, forms.form_of(request).suffix) == (90, ".jpg")
    request = generator_pb2.GenerateRequest(format=generator_pb2.FORMAT_WEBP)
    forms.complete(request)
    assert forms.form_of(request) == Form(kind="webp", quality=None)
    with pytest.raises(Invalid) as caught:
        forms.complete(generator_pb2.GenerateRequest(quality=80))
    assert caught.value.reason == "QUALITY_OF_PNG"
    with pytest.raises(Invalid) as caught:
        forms.complete(generator_pb2.GenerateRequest(format=9))
    assert caught.value.field == "format" and "png" in caught.value.remedy
