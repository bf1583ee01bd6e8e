"""Bases held in fewer bits, through the whole service: what is drawn, what is told, what they take."""

import io
from pathlib import Path

import pytest
from marsam_generator.settings import GeneratorSettings
from PIL import Image

from marsam.api.generator.v1 import generator_pb2
from marsam.core.errors import Invalid
from tests.integration.generator.support import generate, request, serving


def _pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({}, "in fp32"),
        ({"quantisation": "nf4+dq"}, ""),
        ({"quantisation": "nf4"}, "held as nf4:"),
        ({"quantisation": "int8", "precision": "bf16"}, "held as int8:"),
        ({"precision": "fp16"}, "in fp16"),
    ],
)
async def test_an_adapter_hears_of_another_base_than_it_was_trained_on(
    store: str, cache: Path, settings: dict[str, str], warned: str
) -> None:
    async with serving(store, cache, **settings) as served:
        answer = await generate(served.stub, request(adapters={"b": 1.0}, steps=2))
        warnings = " ".join(text for text in answer.accepted.warnings if "was trained on" in text)
        assert (warned in warnings) if warned else not warnings
        assert answer.done is not None
        assert " ".join(filter(None, [settings.get("precision", "fp32"), settings.get("quantisation")])) == (
            answer.done.fingerprint.split("; ")[-2].replace(" on ", " ")
        )
        # At weight 0 it is the base, in whatever bits.
        base, off = [
            _pixels((await generate(served.stub, request(steps=2, adapters=adapters))).images[0][1])
            for adapters in ({}, {"b": 0.0})
        ]
        assert base == off != _pixels(answer.images[0][1])
        found = await served.stub.ListCapabilities(generator_pb2.ListCapabilitiesRequest(), timeout=20)
        assert found.precision == settings.get("precision", "fp32")


@pytest.mark.slow
async def test_fewer_bits_take_less_memory_and_draw_something_else(store: str, cache: Path) -> None:
    drawn, sizes = {}, {}
    for held in ("", "int8", "nf4+dq"):
        async with serving(store, cache, quantisation=held) as served:
            drawn[held] = _pixels((await generate(served.stub, request(steps=2))).images[0][1])
            sizes[held] = served.meter.value("marsam_model_resident_bytes", kind="base") or 0.0
    assert 0 < sizes["nf4+dq"] < sizes["int8"] < sizes[""]
    assert len(set(drawn.values())) == 3


def test_another_way_to_hold_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"nf4\+dq, nf4, int8") as caught:
        GeneratorSettings(store="/s", cache=tmp_path, quantisation="int4")
    assert caught.value.field == "quantisation"
