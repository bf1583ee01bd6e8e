"""Generate over gRPC: what comes back, what is kept, and what happens when the caller goes."""

import asyncio
import io
import json
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from PIL import Image

from marsam.api.generator.v1 import generator_pb2
from marsam.catalog.repository import load_model, save_model
from marsam.core.errors import Cancelled, Deadline, Exhausted, Exists
from marsam.core.ids import digest_of
from marsam.rpc.wire import error_of
from marsam.store import keys
from tests.integration.generator.support import PROJECT, Served, generate, model, request, serving


async def until(condition, *, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def row_steps(served: Served) -> float:
    return served.meter.value("marsam_generation_steps_total", base=model("base")) or 0.0


async def test_a_picture_from_request_to_record(served: Served) -> None:
    answer = await generate(served.stub, request(prompt="طاهية في مطبخ", count=2, request_id="first"))
    assert answer.accepted.name.startswith(f"{PROJECT}/generations/")
    assert any("the Arabic words of the prompt" in warning for warning in answer.accepted.warnings)
    resolved = answer.accepted.resolved
    assert (resolved.steps, resolved.width, resolved.height, resolved.scheduler) == (3, 16, 16, "ddim")
    assert answer.progress[0] == (0, 6) and answer.progress[-1] == (6, 6)
    assert [header.seed for header, _ in sorted(answer.images, key=lambda one: one[0].index)] == [7, 8]
    for header, data in answer.images:
        assert digest_of(data) == header.file.digest and len(data) == header.file.size_bytes
        with Image.open(io.BytesIO(data)) as picture:
            assert (picture.format, picture.size, picture.mode) == ("PNG", (16, 16), "RGB")
            kept = json.loads(picture.text["marsam:request"])
            assert kept["prompt"] == "طاهية في مطبخ" and kept["seed"] == "7" and "request_id" not in kept
            assert picture.text["marsam:seed"] == str(header.seed)
    assert answer.done is not None and "torch" in answer.done.fingerprint
    assert answer.done.total_seconds >= answer.done.denoise_seconds > 0

    found = await served.stub.GetGeneration(generator_pb2.GetGenerationRequest(name=answer.accepted.name), timeout=20)
    assert found.generation.request == resolved
    assert list(found.generation.model_digests) == [model("base")]
    read = [
        part
        async for part in served.stub.ReadGeneration(generator_pb2.ReadGenerationRequest(name=found.generation.name))
    ]
    assert [part.image.index for part in read if part.HasField("image")] == [0, 1]
    assert {digest_of(part.chunk) for part in read if not part.HasField("image")} == {
        header.file.digest for header, _ in answer.images
    }

    again = await generate(served.stub, request(prompt="طاهية في مطبخ", count=2, request_id="first"))
    assert again.accepted.name == answer.accepted.name
    assert {data for _, data in again.images} == {data for _, data in answer.images}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(served.stub, request(prompt="another", request_id="first"))
    assert isinstance(error_of(caught.value), Exists)


async def test_defaults_are_filled_in_and_the_seed_is_told(served: Served) -> None:
    bare = generator_pb2.GenerateRequest(parent=PROJECT, model=model("base"), prompt="a chef")
    answer = await generate(served.stub, bare)
    resolved = answer.accepted.resolved
    assert (resolved.steps, resolved.guidance, resolved.count, resolved.HasField("seed")) == (20, 5.0, 1, True)
    same = await generate(served.stub, resolved)
    assert same.images[0][1] == answer.images[0][1]
    other = await generate(served.stub, bare)
    assert other.accepted.resolved.seed != resolved.seed


async def test_a_base_that_is_said_to_be_distilled_is_drawn_in_few_steps_without_guidance(served: Served) -> None:
    base = await load_model(served.blobs, model("base"))
    await save_model(served.blobs, replace(base, name=model("said"), params={"distilled": True}))
    for drawn_by, drawn in ((base.name, (20, 5.0)), (model("said"), (4, 1.0)), (base.name, (20, 5.0))):
        bare = generator_pb2.GenerateRequest(parent=PROJECT, model=drawn_by, prompt="a chef")
        resolved = (await generate(served.stub, bare)).accepted.resolved
        assert (resolved.steps, resolved.guidance) == drawn


@pytest.mark.slow
async def test_exact_pictures_are_the_same_bytes_alone_and_in_a_crowd(served: Served) -> None:
    exact = generator_pb2.REPRODUCIBILITY_EXACT
    wanted = request(steps=12, adapters={"a": 0.5, "b": 0.5}, reproducibility=exact, count=2)
    alone = await generate(served.stub, wanted)
    assert alone.accepted.resolved.reproducibility == exact
    crowd = [request(steps=8 + one, adapters={"b": 0.3 * one}, seed=one) for one in range(3)]
    crowd += [request(steps=6 + one, adapters={"a": 1.0}, seed=one, reproducibility=exact) for one in range(5)]
    first, *_ = await asyncio.gather(*(generate(served.stub, asked) for asked in [wanted, *crowd]))
    assert [data for _, data in first.images] == [data for _, data in alone.images]
    assert crowd[0].reproducibility == generator_pb2.REPRODUCIBILITY_UNSPECIFIED
    shared = await generate(served.stub, crowd[0])
    assert shared.accepted.resolved.reproducibility == generator_pb2.REPRODUCIBILITY_SHARED


@pytest.mark.slow
async def test_base_two_adapters_and_a_tuned_model_at_once(served: Served) -> None:
    wanted = {
        "base": request(steps=24),
        "a": request(steps=24, adapters={"a": 1.0}),
        "b": request(steps=24, adapters={"b": 0.8}),
        "both": request(steps=24, adapters={"a": 0.5, "b": 0.5}),
        "off": request(steps=24, adapters={"a": 0.0}),
        "stretched": request(steps=24, adapters={"stretched": 0.9}),
        "tuned": request(steps=24, model=model("tuned")),
    }
    alone = {key: (await generate(served.stub, asked)).images[0] for key, asked in wanted.items()}
    pixels = {key: Image.open(io.BytesIO(data)).tobytes() for key, (_, data) in alone.items()}
    assert pixels["off"] == pixels["base"]
    assert len(set(pixels.values())) == 6
    together = await asyncio.gather(*(generate(served.stub, asked) for asked in wanted.values()))
    for key, answer in zip(wanted, together, strict=True):
        mixed = Image.open(io.BytesIO(answer.images[0][1])).tobytes()
        assert max(abs(x - y) for x, y in zip(mixed, pixels[key], strict=True)) <= 1
    assert (served.meter.value("marsam_generation_tick_rows_bucket", base=model("base"), le="4.0") or 0) < (
        served.meter.value("marsam_generation_tick_rows_count", base=model("base")) or 0
    )  # ticks wider than two pictures happened
    assert any("nf4+dq" in text for text in together[2].accepted.warnings)
    assert not any("trained" in text for text in together[1].accepted.warnings)
    listed = await served.stub.ListAdapters(generator_pb2.ListAdaptersRequest(parent=PROJECT), timeout=20)
    states = {state.model: state for state in listed.adapters}
    assert states[model("a")].resident and states[model("a")].uses == 6
    assert not states[model("alien")].resident and states[model("alien")].base == model("other")
    assert states[model("tuned")].resident


async def test_a_vanished_caller_frees_the_device(served: Served) -> None:
    await generate(served.stub, request())  # the base is loaded
    call = served.stub.Generate(request(steps=250, count=4), timeout=60)
    async for message in call:
        if message.HasField("progress") and message.progress.step >= 8:
            break
    call.cancel()
    await until(
        lambda: (served.meter.value("marsam_generation_seconds_count", base=model("base"), outcome="cancelled")) == 1
    )
    settled = row_steps(served)
    await generate(served.stub, request(steps=2))
    assert row_steps(served) - settled <= 4 + 8  # two guided steps, and at most the tick that was under way
    assert row_steps(served) < 2 * 4 * 250 / 2


async def test_cancel_by_name(served: Served) -> None:
    call, asked = served.stub.Generate(request(steps=250), timeout=60), False
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for message in call:
            if message.HasField("accepted"):
                name = message.accepted.name
            if message.HasField("progress") and message.progress.step >= 2 and not asked:
                asked = True
                live = await served.stub.GetGeneration(generator_pb2.GetGenerationRequest(name=name), timeout=20)
                assert live.generation.request.steps == 250 and not live.generation.images
                await served.stub.CancelGeneration(generator_pb2.CancelGenerationRequest(name=name), timeout=20)
    error = error_of(caught.value)
    assert isinstance(error, Cancelled) and error.reason == "GENERATION_CANCELLED"
    assert row_steps(served) < 2 * 200
    saved = "marsam_generation_steps_saved_total"
    await until(lambda: served.meter.value(saved, base=model("base")) == 2 * 250 - row_steps(served))


async def test_a_deadline_reaches_the_denoising_step(served: Served) -> None:
    await served.stub.LoadAdapter(generator_pb2.LoadAdapterRequest(model=model("base")), timeout=60)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(served.stub, request(steps=250, count=16), timeout_s=0.5)
    assert isinstance(error_of(caught.value), Deadline)
    await until(lambda: not served.meter.value("marsam_queue_depth", queue="pictures"))
    settled = row_steps(served)
    await asyncio.sleep(0.2)
    assert row_steps(served) - settled <= 32


async def test_work_is_predicted_and_a_hopeless_deadline_is_refused_at_once(served: Served) -> None:
    first = await generate(served.stub, request())
    assert first.accepted.work_seconds == 0  # nothing was measured yet
    seen: list[generator_pb2.StepProgress] = []
    async for message in served.stub.Generate(request(steps=40), timeout=60):
        if message.HasField("accepted"):
            accepted = message.accepted
        if message.HasField("progress") and message.progress.step:
            seen.append(message.progress)
    assert accepted.work_seconds > 0 and accepted.wait_seconds == 0
    assert seen[-1].eta_seconds < seen[0].eta_seconds < 10 * accepted.work_seconds
    taken = row_steps(served)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(served.stub, request(steps=250, count=16), timeout_s=1.0)
    assert error_of(caught.value).reason == "DEADLINE_HOPELESS"
    assert row_steps(served) == taken
    assert (served.meter.value("marsam_generation_width_limit_rows", base=model("base")) or 0) >= 1


async def test_a_full_queue_says_when_to_come_again(store: str, cache: Path) -> None:
    async with serving(store, cache, queue_pictures=4) as served:
        await generate(served.stub, request())
        call = served.stub.Generate(request(steps=250, count=3), timeout=60)
        await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(served.stub, request(count=2))
        error = error_of(caught.value)
        assert isinstance(error, Exhausted) and error.reason == "QUEUE_FULL"
        assert error.retry_after_s is not None and error.retry_after_s >= 0.5
        call.cancel()
        await until(
            lambda: (
                (served.meter.value("marsam_generation_seconds_count", base=model("base"), outcome="cancelled")) == 1
            )
        )
        assert len((await generate(served.stub, request(count=4))).images) == 4


async def test_generations_are_listed_newest_first_in_pages(served: Served, store: str) -> None:
    made = [(await generate(served.stub, request(steps=1))).accepted.name for _ in range(3)]
    first = await served.stub.ListGenerations(
        generator_pb2.ListGenerationsRequest(parent=PROJECT, page_size=2), timeout=20
    )
    assert [one.name for one in first.generations] == [made[2], made[1]]
    second = await served.stub.ListGenerations(
        generator_pb2.ListGenerationsRequest(parent=PROJECT, page_size=2, page_token=first.next_page_token), timeout=20
    )
    assert second.generations[0].name == made[0]


async def test_load_and_evict(served: Served) -> None:
    state = await served.stub.LoadAdapter(generator_pb2.LoadAdapterRequest(model=model("a")), timeout=60)
    assert state.adapter.resident and state.adapter.size_bytes > 0
    assert served.meter.value("marsam_adapters_loaded", base=model("base")) == 1
    await served.stub.EvictAdapter(generator_pb2.EvictAdapterRequest(model=model("a")), timeout=20)
    assert served.meter.value("marsam_adapters_loaded", base=model("base")) == 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.EvictAdapter(generator_pb2.EvictAdapterRequest(model=model("a")), timeout=20)
    assert error_of(caught.value).reason == "MODEL_NOT_RESIDENT"
    call = served.stub.Generate(request(steps=250, adapters={"a": 1.0}), timeout=60)
    async for message in call:
        if message.HasField("progress") and message.progress.step >= 1:
            break
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.EvictAdapter(generator_pb2.EvictAdapterRequest(model=model("a")), timeout=20)
    assert error_of(caught.value).reason == "MODEL_IN_USE"
    call.cancel()


@pytest.mark.slow
async def test_a_small_budget_keeps_what_draws_and_drops_the_rest(store: str, cache: Path) -> None:
    async with serving(store, cache, memory_mib=1) as served:
        for name in ("a", "b", "a"):
            await generate(served.stub, request(steps=1, adapters={name: 1.0}))
        await generate(served.stub, request(steps=1, model=model("other")))
        listed = await served.stub.ListAdapters(generator_pb2.ListAdaptersRequest(parent=PROJECT), timeout=20)
        assert not any(state.resident for state in listed.adapters)
        answer = await generate(served.stub, request(steps=1, adapters={"a": 1.0}))
        assert len(answer.images) == 1


async def test_the_cache_is_cut_to_its_budget_once_a_model_is_in_memory(store: str, tmp_path: Path) -> None:
    async with serving(store, tmp_path, cache_bytes=1) as served:
        for _ in range(2):
            assert len((await generate(served.stub, request(adapters={"a": 1.0}))).images) == 1
        assert list((tmp_path / "sha256").glob("??/*")) == []


async def test_capabilities(served: Served) -> None:
    told = await served.stub.ListCapabilities(generator_pb2.ListCapabilitiesRequest(), timeout=20)
    assert "ddim" in told.schedulers and "sd1" in told.families
    assert (told.device, told.max_count) == ("cpu", 16)


async def test_a_request_id_gives_its_pictures_when_the_model_is_gone(served: Served) -> None:
    await save_model(served.blobs, replace(await load_model(served.blobs, model("a")), name=model("brief")))
    wanted = request(adapters={"brief": 1.0}, request_id="brief")
    first = await generate(served.stub, wanted)
    await served.blobs.delete([keys.model("default", "brief")])
    again = await generate(served.stub, wanted)
    assert again.accepted.name == first.accepted.name
    assert [data for _, data in again.images] == [data for _, data in first.images]
