"""REST as OpenAI's own client calls it, against a real generator."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import openai
import pytest
from marsam_generator import pictures
from PIL import Image

from marsam.api.generator.v1 import generator_pb2
from marsam.core.tokens import Principal, entry_of, new_token
from tests.integration.generator.support import Served, generate, request, serving, tiny_models

pytestmark = pytest.mark.slow

PROMPT = "عالِمة عربية في مختبر"


@pytest.fixture
async def rest(store: str, cache: Path) -> AsyncIterator[Served]:
    async with serving(store, cache, rest=True) as generator:
        yield generator


def client(served: Served, *, key: str = "none", project: str | None = None) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{served.http}/v1", api_key=key, max_retries=0, project=project, timeout=60)


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.convert("RGB").tobytes()


async def test_openais_client_draws_what_grpc_draws(rest: Served) -> None:
    async with client(rest) as api:
        answer = await api.images.generate(
            model="base+a:0.5+b:0.25",
            prompt=PROMPT,
            n=2,
            size="16x16",
            output_format="png",
            response_format="b64_json",
            user="maha",
            extra_body={"seed": 7, "steps": 3, "guidance": 3.0, "scheduler": "euler", "negative_prompt": "blurry"},
        )
    asked = request(
        adapters={"a": 0.5, "b": 0.25}, prompt=PROMPT, count=2, width=16, height=16, scheduler="euler",
        negative_prompt="blurry",
    )  # fmt: skip
    same = await generate(rest.stub, asked)
    assert answer.data is not None and (answer.size, answer.output_format) == ("16x16", "png")
    assert [pixels(base64.b64decode(one.b64_json or "")) for one in answer.data] == [
        pixels(data) for _, data in same.images
    ]
    said = answer.model_extra["marsam"]
    assert [one.model_extra["marsam"]["seed"] for one in answer.data] == [7, 8]
    assert said["resolved"]["prompt"] == PROMPT and said["resolved"]["tenant"] == "maha"
    assert [text for text in said["warnings"] if "nf4+dq" in text]


async def test_a_stream_has_partial_images_then_the_picture(rest: Served) -> None:
    async with client(rest) as api:
        stream = await api.images.generate(
            model="base",
            prompt="a chef",
            stream=True,
            partial_images=2,
            extra_body={"steps": 9, "seed": 3, "guidance": 3.0},
        )
        events = [event async for event in stream]
    kinds = [event.type for event in events]
    looks, done = events[:-1], events[-1]
    assert kinds[-1] == "image_generation.completed" and 1 <= len(looks) <= 2
    assert set(kinds[:-1]) == {"image_generation.partial_image"}
    assert [look.partial_image_index for look in looks] == list(range(len(looks)))
    with Image.open(io.BytesIO(base64.b64decode(looks[0].b64_json))) as look:
        assert look.format == "JPEG"
    same = await generate(rest.stub, request(prompt="a chef", seed=3, steps=9, guidance=3.0))
    assert pixels(base64.b64decode(done.b64_json)) == pixels(same.images[0][1])


async def test_a_stream_that_breaks_off_says_so_and_the_log_says_why(
    rest: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> bytes:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(pictures, "encode", broken)
    async with client(rest) as api:
        stream = await api.images.generate(model="base", prompt="breaks", stream=True, extra_body={"steps": 2})
        with pytest.raises(openai.APIError) as caught:
            _ = [event async for event in stream]
    made = await ended(rest, "breaks")
    assert caught.value.code == "INTERNAL" and made.name in caught.value.message
    assert (made.state, made.error_reason) == (generator_pb2.GENERATION_STATE_FAILED, "INTERNAL")
    logged = next(record for record in caplog.records if record.message == "generation.bug")
    assert "planted" in str(logged.exc_info)


async def test_quality_chooses_steps_of_the_bases_own(rest: Served) -> None:
    async with client(rest) as api:
        steps = {}
        for quality in ("low", "auto"):
            answer = await api.images.generate(model="base", prompt="x", quality=quality, extra_body={"seed": 1})
            steps[quality] = answer.model_extra["marsam"]["resolved"]["steps"]
    assert steps == {"low": 10, "auto": 20}


@pytest.mark.parametrize(
    ("body", "status", "code", "param", "words"),
    [
        ({"size": "17x16"}, 400, "SIZE_UNSUPPORTED", "size", "multiple"),
        ({"size": "big"}, 400, "SIZE_MALFORMED", "size", "512x512"),
        ({"model": "base+nobody:0.8"}, 404, "MODEL_NOT_FOUND", "model", "nobody"),
        ({"model": "base+alien"}, 400, "ADAPTER_OF_ANOTHER_BASE", "model", "sha256:"),
        ({"model": "base+a:much"}, 400, "MODEL_MALFORMED", "model", "a number"),
        ({"model": "a"}, 400, "MODEL_KIND", "model", "under adapters"),
        ({"model": "a", "quality": "low"}, 400, "MODEL_KIND", "model", "under adapters"),
        ({"model": ""}, 400, "MODEL_MISSING", "model", "/v1/models"),
        ({"n": 99}, 400, "REQUEST_INVALID", "n", "16"),
        ({"scheduler": "magic"}, 400, "UNKNOWN_SCHEDULER", "scheduler", "euler"),
        ({"response_format": "url"}, 501, "PARAMETER_UNSUPPORTED", "response_format", "b64_json"),
        ({"sed": 3}, 400, "PARAMETER_UNKNOWN", "sed", "'seed'"),
        ({"seed": "seven"}, 400, "PARAMETER_TYPE", "seed", "seven"),
        ({"marsam": {"streng": 1}}, 400, "PARAMETER_TYPE", "streng", "streng"),
        ({"marsam": {"parent": "projects/other"}}, 400, "PARAMETER_TWICE", "marsam", "OpenAI-Project"),
        ({"partial_images": 9, "stream": True}, 400, "PARAMETER_OUT_OF_RANGE", "partial_images", "3"),
        ({"prompt": "x" * 5000}, 400, "REQUEST_INVALID", "prompt", "4096"),
        ({"prompt": "x" * 2_000_000}, 400, "BODY_TOO_LARGE", None, "bytes"),
        ({"model": "+".join("a" * 10)}, 400, "REQUEST_INVALID", "model", "8"),
        ({"model": "+".join("a" * 40_000)}, 400, "MODEL_MALFORMED", "model", "4096"),
    ],
)
async def test_bad_input_is_openais_error_with_the_parameter(
    rest: Served, body: dict[str, object], status: int, code: str, param: str | None, words: str
) -> None:
    async with httpx.AsyncClient(base_url=rest.http) as api:
        answer = await api.post("/v1/images/generations", json={"model": "base", "prompt": "x", **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert words in error["message"] and error["type"] in ("invalid_request_error", "not_found_error")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"marsam":' + '{"a":' * 20_000, "too deeply"),
        ('{"\\ud800": 1}', "surrogates"),
        ('{"model": "base", "prompt": "x", "size": "\\udfff"}', "surrogates"),
        ('{"model": "base", "prompt": "\\ud83c"}', "surrogates"),
        ('{"model": "base"', "no JSON"),
        ("[]", "JSON object"),
    ],
    ids=["deep", "name", "value", "prompt", "cut", "list"],
)
async def test_a_body_that_is_no_json_for_us_is_refused_as_such(rest: Served, body: str, words: str) -> None:
    async with httpx.AsyncClient(base_url=rest.http) as api:
        answer = await api.post("/v1/images/generations", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "BODY_MALFORMED")
    assert words in answer.json()["error"]["message"]


async def test_openais_client_raises_its_own_errors(rest: Served) -> None:
    async with client(rest) as api:
        with pytest.raises(openai.NotFoundError) as caught:
            await api.images.generate(model="base+nobody", prompt="x")
        assert caught.value.code == "MODEL_NOT_FOUND"
        with pytest.raises(openai.BadRequestError) as refused:
            await api.images.generate(model="base", prompt="x", size="1x1")
        assert refused.value.param == "size"


async def ended(served: Served, prompt: str) -> generator_pb2.Generation:
    """The generation of this prompt, once it has ended."""
    for _ in range(200):
        listed = await served.stub.ListGenerations(generator_pb2.ListGenerationsRequest(parent="projects/default"))
        for one in listed.generations:
            if one.request.prompt == prompt:
                return one
        await asyncio.sleep(0.05)
    raise AssertionError("it never ended")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_place(rest: Served, stream: bool) -> None:
    body = {"model": "base", "prompt": f"leaves {stream}", "steps": 250, "n": 16, "seed": 1, "stream": stream}
    body["marsam"] = {"preview": {"every_steps": 1}} if stream else {}
    async with httpx.AsyncClient(base_url=rest.http) as api:
        if stream:
            async with api.stream("POST", "/v1/images/generations", json=body, timeout=60) as answer:
                async for line in answer.aiter_lines():
                    if "partial_image" in line:
                        break
        else:
            with pytest.raises(httpx.ReadTimeout):
                await api.post("/v1/images/generations", json=body, timeout=1.0)
    made = await ended(rest, f"leaves {stream}")
    assert made.state == generator_pb2.GENERATION_STATE_CANCELLED and made.error_reason == "GENERATION_ABANDONED"


async def test_a_generation_and_its_pictures_are_found_again(rest: Served) -> None:
    async with client(rest) as api:
        drawn = await api.images.generate(model="base", prompt="kept", n=2, extra_body={"seed": 5, "steps": 2})
    name = drawn.model_extra["marsam"]["name"].rsplit("/", 1)[1]
    async with httpx.AsyncClient(base_url=rest.http) as http:
        found = (await http.get(f"/v1/generations/{name}")).json()
        assert (found["state"], found["request"]["prompt"]) == ("GENERATION_STATE_SUCCEEDED", "kept")
        for image, one in zip(found["images"], drawn.data or (), strict=True):
            picture = await http.get(image["url"])
            assert picture.headers["content-type"] == "image/png"
            assert picture.content == base64.b64decode(one.b64_json or "")
        first = (await http.get("/v1/generations", params={"limit": 1})).json()
        assert first["data"][0]["id"] == name
        missing = await http.get(f"/v1/generations/{name}/images/7")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "PICTURE_NOT_FOUND")
        cancelled = await http.post(f"/v1/generations/{name}/cancel")
        assert cancelled.status_code == 200


@pytest.fixture
def few(tmp_path: Path) -> Iterator[str]:
    """A store with nothing in it but its models: other tests add theirs to the common one."""
    with tiny_models(tmp_path) as url:
        yield url


async def test_models_and_adapters_are_listed(few: str, tmp_path: Path) -> None:
    async with serving(few, tmp_path / "cache", rest=True) as rest, client(rest) as api:
        listed = [model.id async for model in await api.models.list()]
        assert listed == ["base", "other", "tuned"]
        tuned = await api.models.retrieve("tuned")
        assert tuned.model_extra["base_id"] == "base" and "euler" in tuned.model_extra["defaults"]["schedulers"]
        with pytest.raises(openai.BadRequestError, match="name projects/default/models/base as the model"):
            await api.models.retrieve("a")
        async with httpx.AsyncClient(base_url=rest.http) as http:
            adapters = (await http.get("/v1/adapters")).json()["data"]
            assert {one["id"]: one["base_id"] for one in adapters if one["kind"] == "adapter"} == {
                "a": "base", "alien": "other", "b": "base", "stretched": "base",
            }  # fmt: skip
            grpc = (await http.get("/v1/capabilities")).json()["grpc"]
            assert grpc == {"port": int(rest.target.rpartition(":")[2]), "tls": False}


async def test_a_service_that_ends_waits_for_what_it_draws(store: str, cache: Path) -> None:
    body = {"model": "base", "prompt": "the last one", "steps": 250, "n": 16, "stream": True, "seed": 1}
    async with httpx.AsyncClient(timeout=120) as http:
        async with serving(store, cache, rest=True, grace_seconds=100.0) as served:
            asked = http.build_request("POST", f"{served.http}/v1/images/generations", json=body)
            answer = await http.send(asked, stream=True)
            lines = answer.aiter_lines()
            await anext(lines)
        kinds = [line.removeprefix("event: ") async for line in lines if line.startswith("event: ")]
    assert kinds == ["image_generation.completed"] * 16


async def test_a_full_queue_says_when_to_come_again(store: str, cache: Path) -> None:
    async with serving(store, cache, rest=True, queue_pictures=4) as served, client(served) as api:
        long = {"steps": 250, "seed": 1}
        stream = await api.images.generate(model="base", prompt="x", n=4, stream=True, extra_body=long)
        with pytest.raises(openai.RateLimitError) as caught:
            await api.images.generate(model="base", prompt="x", extra_body=long)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert caught.value.type == "rate_limit_error"
        await stream.close()


@pytest.mark.parametrize(("kind", "fields"), [("jpeg", {"output_compression": 80}), ("webp", {})])
async def test_formats_are_those_of_grpc(rest: Served, kind: str, fields: dict[str, int]) -> None:
    async with client(rest) as api:
        answer = await api.images.generate(
            model="base", prompt="x", output_format=kind, extra_body={"seed": 7, "steps": 2, "guidance": 3.0}, **fields
        )
    assert answer.data and answer.output_format == kind
    with Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or ""))) as picture:
        assert picture.format == kind.upper()
    async with httpx.AsyncClient(base_url=rest.http) as http:
        refused = await http.post(
            "/v1/images/generations", json={"model": "base", "prompt": "x", "output_compression": 5}
        )
    assert refused.json()["error"]["param"] == "output_compression"


async def test_it_is_off_unless_it_is_wanted(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.http) as http:
        assert (await http.get("/v1/models")).status_code == 404
        assert (await http.get("/")).status_code == 404


async def test_tokens_scopes_and_projects_are_those_of_grpc(store: str, cache: Path, tmp_path: Path) -> None:
    reader, painter = new_token(), new_token()
    reads = Principal(name="reader", scopes=frozenset({"generations.read"}))
    paints = Principal(name="painter", projects=frozenset({"default"}))
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({"tokens": [entry_of(reads, reader), entry_of(paints, painter)]}))
    async with serving(store, cache, rest=True, token_file=tokens) as served:
        body = {"model": "base", "prompt": "x", "extra_body": {"steps": 1}}
        async with client(served) as nobody:
            with pytest.raises(openai.AuthenticationError):
                await nobody.models.list()
        async with client(served, key=reader) as api:
            assert (await api.models.list()).data
            with pytest.raises(openai.PermissionDeniedError):
                await api.images.generate(**body)
        async with client(served, key=painter) as api:
            assert (await api.images.generate(**body)).data
        async with client(served, key=painter, project="other") as api:
            with pytest.raises(openai.NotFoundError):
                await api.models.list()
            with pytest.raises(openai.NotFoundError):
                await api.images.generate(**body)


async def test_pages_of_other_origins_cannot_make_it_draw(rest: Served) -> None:
    body = '{"model": "base", "prompt": "x"}'
    async with httpx.AsyncClient(base_url=rest.http) as http:
        # What a form or a script of another origin can send without being asked first.
        plain = await http.post("/v1/images/generations", content=body, headers={"content-type": "text/plain"})
        assert (plain.status_code, plain.json()["error"]["code"]) == (400, "BODY_TYPE")
        # A name of theirs that leads to this machine.
        led = await http.get("/v1/models", headers={"host": "attacker.example"})
        assert (led.status_code, led.json()["error"]["code"]) == (403, "HOST_NOT_LOCAL")
