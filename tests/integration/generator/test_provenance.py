"""What a picture is a file of, and what it says about itself."""

import io
import json
from pathlib import Path

import c2pa
import pytest
from PIL import Image

from marsam.api.generator.v1 import generator_pb2
from marsam.client.generation import Generation
from marsam.core.errors import Invalid
from marsam.core.ids import digest_of
from marsam.imaging.inscribed import read
from marsam.imaging.inscription import DRAWING_LABEL
from marsam.rpc.wire import error_of
from tests.integration.generator.support import Served, generate, model, request, serving

FORMATS = {
    "image/png": (generator_pb2.FORMAT_PNG, "000.png"),
    "image/jpeg": (generator_pb2.FORMAT_JPEG, "000.jpg"),
    "image/webp": (generator_pb2.FORMAT_WEBP, "000.webp"),
}


@pytest.mark.parametrize("media_type", FORMATS)
async def test_a_picture_in_each_format_with_what_made_it(served: Served, media_type: str) -> None:
    format, path = FORMATS[media_type]
    asked = request(prompt="طاهية في مطبخ", adapters={"a": 0.5}, format=format)
    answer = await generate(served.stub, asked)
    ((header, data),) = answer.images
    assert (header.file.media_type, header.file.path) == (media_type, path)
    assert answer.accepted.resolved.format == format
    found = read(data)
    assert found.media_type == media_type and found.inscription is not None
    assert found.inscription.fields()["prompt"] == "طاهية في مطبخ" and found.inscription.seed == 7
    known = await served.stub.GetGeneration(generator_pb2.GetGenerationRequest(name=answer.accepted.name), timeout=20)
    assert found.inscription.models == dict(known.generation.model_digests)
    assert set(found.inscription.models) == {model("base"), model("a")}
    again = await generate(served.stub, asked)
    assert again.images[0][1] == data
    with Image.open(io.BytesIO(data)) as picture:
        drawn = picture.convert("RGB").tobytes()
    bare = await generate(served.stub, request(prompt="طاهية في مطبخ", adapters={"a": 0.5}))
    with Image.open(io.BytesIO(bare.images[0][1])) as picture:
        same = picture.tobytes() == drawn
    assert same == (media_type != "image/jpeg")


async def test_a_file_is_found_among_the_newest_by_its_digest(served: Served) -> None:
    made = [await generate(served.stub, request(seed=seed, steps=1)) for seed in (101, 102, 103)]
    sdk = Generation(served.channel, project="default")
    for answer in made:
        found = await sdk.with_picture(answer.images[0][0].file.digest, most=1000)
        assert found is not None and found.name == answer.accepted.name
    assert await sdk.with_picture("sha256:" + "0" * 64, most=1000) is None


async def test_a_quality_of_png_is_refused(served: Served) -> None:
    with pytest.raises(Exception) as caught:
        await generate(served.stub, request(quality=80))
    error = error_of(caught.value)
    assert isinstance(error, Invalid) and error.reason == "QUALITY_OF_PNG"


async def test_pictures_are_signed_with_a_certificate_made_here(store: str, tmp_path: Path) -> None:
    async with serving(store, tmp_path, c2pa_self_made=True) as served:
        asked = request(request_id="signed", count=2, format=generator_pb2.FORMAT_JPEG)
        answer = await generate(served.stub, asked)
        for header, data in answer.images:
            assert digest_of(data) == header.file.digest
            with c2pa.Reader("image/jpeg", io.BytesIO(data)) as reader:
                told = json.loads(reader.json())
            assert told["validation_state"] == "Valid"
            stated = {one["label"]: one["data"] for one in told["manifests"][told["active_manifest"]]["assertions"]}
            assert stated[DRAWING_LABEL]["generation"] == answer.accepted.name
            assert stated[DRAWING_LABEL]["fingerprint"] == answer.done.fingerprint
            assert list(stated[DRAWING_LABEL]["models"]) == [model("base")]
        # Kept as it was signed, not signed anew.
        again = await generate(served.stub, asked)
        assert {data for _, data in again.images} == {data for _, data in answer.images}
