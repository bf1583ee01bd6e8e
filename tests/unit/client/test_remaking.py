"""From a picture back to the request: what it says is read, what it may not say is left out or refused."""

import importlib
import json

import pytest
import torch
from marsam_generator import wire
from marsam_generator.pictures import Form, encode
from marsam_generator.selfmade import self_made
from marsam_generator.signing import Signer

from marsam.api.generator.v1 import generator_pb2
from marsam.client.provenance import look
from marsam.client.remaking import remake
from marsam.core.errors import Corrupt, Invalid
from marsam.imaging.inscription import Inscription

PIXELS = torch.zeros(8, 8, 3, dtype=torch.uint8)
BASE = "projects/p/models/base"


def picture(request: str, *, kind: str = "png") -> bytes:
    form = {"png": Form(), "jpeg": Form(kind="jpeg", quality=90), "webp": Form(kind="webp")}[kind]
    return encode(PIXELS, Inscription(request=request, seed=9, models={BASE: "sha256:" + "1" * 64}), form)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_what_was_asked_is_asked_again_with_the_picture_s_own_seed(kind: str) -> None:
    asked = generator_pb2.GenerateRequest(
        parent="projects/p", model=BASE, prompt="طاهية «في» مطبخ", negative_prompt="ضباب", seed=7, steps=12,
        guidance=0.0, scheduler="euler", width=64, height=32, count=4, format="FORMAT_JPEG", quality=80,
        priority=3, tenant="t", detach=True, reproducibility="REPRODUCIBILITY_EXACT",
        adapters=[generator_pb2.AdapterUse(model="projects/p/models/hayy", weight=-0.5)],
    )  # fmt: skip
    again = remake(picture(wire.request_json(asked), kind=kind))
    assert again.arguments == {
        "model": BASE, "prompt": "طاهية «في» مطبخ", "negative_prompt": "ضباب", "seed": 9, "steps": 12, "guidance": 0.0,
        "scheduler": "euler", "width": 64, "height": 32, "format": "jpeg", "quality": 80, "exact": True,
        "adapters": {"projects/p/models/hayy": -0.5},
    }  # fmt: skip
    assert again.remarks == () and again.models == {BASE: "sha256:" + "1" * 64}


def test_what_is_not_known_is_left_out_with_a_word_and_what_is_not_of_the_picture_is_not_obeyed() -> None:
    again = remake(picture(json.dumps({"prompt": "x", "model": BASE, "shell": "rm", "detach": True, "tenant": "you"})))
    assert again.remarks == ("'shell' of the picture's request is not known here, and left out",)
    assert set(again.arguments) == {"prompt", "model", "adapters", "seed", "exact"}


@pytest.mark.parametrize(
    "request_json",
    [
        '{"steps": "many"}',
        '{"steps": 3.5}',
        '{"adapters": 3}',
        '{"adapters": [{"weight": {}}]}',
        '{"prompt": ["x"]}',
        '{"format": 99}',
        '{"format": "TIFF"}',
    ],
)
def test_a_request_of_another_shape_is_refused_in_words(request_json: str) -> None:
    with pytest.raises(Corrupt) as caught:
        remake(picture(request_json))
    assert caught.value.reason == "INSCRIPTION_UNREADABLE"


def test_a_picture_that_says_nothing_cannot_be_made_again() -> None:
    with pytest.raises(Invalid) as caught:
        remake(b"\x89PNG\r\n\x1a\n")
    assert caught.value.reason == "PICTURE_SAYS_NOTHING"


def test_a_signature_is_checked_where_it_can_be(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = picture('{"prompt": "x"}')
    inscription = look(plain).file.inscription
    assert look(plain).signature.state == "none" and inscription is not None
    files = self_made(tmp_path)
    generation = "projects/p/generations/01JD3V0000000000000000000Z"
    signed = Signer(files).sign(plain, "image/png", inscription, generation=generation, fingerprint="")
    seen = look(signed).signature
    assert (seen.state, seen.generation, seen.source) == ("valid", generation, "trainedAlgorithmicMedia")
    assert seen.models == ((BASE, "sha256:" + "1" * 64),) and seen.faults == ()
    assert "Marsam development certificate" in seen.signer and seen.program.startswith("Marsam ")
    authority = files.certificate.with_name("authority.pem").read_text()
    assert look(signed, trusting=authority).signature.state == "trusted"
    other = self_made(tmp_path / "other").certificate.with_name("authority.pem").read_text()
    assert look(signed, trusting=other).signature.state == "valid"

    changed = signed.replace(generation.encode(), generation.encode()[:-1] + b"Y")
    assert changed != signed
    seen = look(changed).signature
    assert seen.state == "invalid" and not seen.generation and "hashedURI.mismatch" in seen.faults[0]

    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    seen = look(signed).signature
    assert seen.state == "unchecked" and "marsam[provenance]" in seen.faults[0]
