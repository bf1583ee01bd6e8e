"""The step engine: what it promises about pictures, and that nothing ends its loop."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from marsam_generator.engine.coder import Start
from marsam_generator.engine.engine import BASE, Denoising, Drawing, Drawn, Engine, Progress
from marsam_generator.engine.stepper import Tick
from marsam_generator.engine.width import Measuring, Widths, knee
from marsam_generator.engine.work import Denoised, Event, Order, Previews, Terms

from marsam.core.errors import Cancelled, Deadline, Exhausted, Internal, MarsamError, Unavailable
from marsam.core.ids import new_ulid
from marsam.diffusion import registry
from marsam.diffusion.sampling import Picture, initial_noise
from tests.contract.families.drawing import close, drawn

FAMILY = registry.family("sd1")
ANOTHER_BATCH = 1e-4
"""Largest difference of a latent drawn alone and in a mixed batch, in its standard deviations, fp32: measured 7e-6."""


class Bench:
    """An engine with what its ticks did."""

    def __init__(self, parts: Any, *, lanes: int = 1, limit: int = 32) -> None:
        self.ticks: list[Tick] = []
        self.widths = Widths(limit=limit)
        self.parts = parts
        self.engine = Engine(
            name="tiny", family=FAMILY, parts=parts, lanes=lanes, widths=self.widths, observe=self.ticks.append
        )

    async def draw(self, *pictures: Picture, **fields: Any) -> list[torch.Tensor]:
        """The pixels, by index."""
        return await drawn(self.engine, Drawing(id=new_ulid(), pictures=pictures, **fields))

    async def latent(self, picture: Picture) -> torch.Tensor:
        """The clean latent of one picture, past the image coder."""
        caller = asyncio.get_running_loop()
        found: asyncio.Future[torch.Tensor] = caller.create_future()

        def sink(event: Event) -> None:
            if isinstance(event, Denoised):
                caller.call_soon_threadsafe(found.set_result, event.latent)

        conditional, unconditional = await self.engine._reader(BASE).read([picture], {})
        self.engine._loop.submit(
            Order(
                id=new_ulid(),
                denoiser=BASE,
                pictures=[picture],
                conditional=conditional,
                unconditional=unconditional,
                sink=sink,
            )
        )
        return await asyncio.wait_for(found, 20)

    async def idle(self) -> None:
        """Wait until no picture is in the loop."""
        async with asyncio.timeout(20):
            while self.engine._loop.busy:
                await asyncio.sleep(0.005)


@pytest.fixture
async def bench(parts) -> AsyncIterator[Bench]:
    made = Bench(parts)
    yield made
    await made.engine.close()


def picture(seed: int = 0, **fields: Any) -> Picture:
    values: dict[str, Any] = {"prompt": "a chef", "width": 16, "height": 16, "steps": 4, "guidance": 3.0, **fields}
    return Picture(seed=seed, **values)


async def test_parity_with_the_diffusers_pipeline(bench: Bench, base_folder: Path) -> None:
    pipeline: Any = StableDiffusionPipeline.from_pretrained(base_folder, safety_checker=None, feature_extractor=None)
    pipeline.set_progress_bar_config(disable=True)
    shape = bench.parts.facts.latent_shape(16, 16)
    expected = pipeline(
        "a chef in a kitchen",
        negative_prompt="a desert",
        latents=initial_noise(shape, 5),
        height=16,
        width=16,
        num_inference_steps=6,
        guidance_scale=4.0,
        output_type="pt",
    ).images[0]
    ours = await bench.draw(picture(5, prompt="a chef in a kitchen", negative="a desert", steps=6, guidance=4.0))
    error = (ours[0].permute(2, 0, 1) / 255.0 - expected).abs().max()
    # Half a grey level of rounding, and nothing else.
    assert float(error) <= 0.5 / 255 + 1e-5


async def test_the_same_request_alone_and_in_a_mixed_batch(bench: Bench, adapters) -> None:
    for key, adapter in adapters.items():
        await bench.engine.install(bench.engine.prepare(key, adapter))
    wanted: list[tuple[Picture, dict[str, float]]] = [
        (picture(1, steps=13), {}),
        (picture(2, steps=17, scheduler="euler", guidance=1.0), {"a": 1.0}),
        (picture(3, steps=15, guidance=6.0, prompt="عالمة في مختبر"), {"b": 0.5}),
        (picture(4, steps=14, negative="a desert"), {"a": 0.4, "narrow": 1.0}),
        (picture(5, steps=16, guidance=2.0), {"b": 0.0}),
    ]
    alone = [(await bench.draw(one, adapters=use))[0] for one, use in wanted]
    bench.ticks.clear()
    mixed = await asyncio.gather(*(bench.draw(one, adapters=use) for one, use in wanted))
    assert max(tick.rows for tick in bench.ticks) == 9  # all five shared a tick, four of them guided
    for before, after in zip(alone, mixed, strict=True):
        assert close(before, after[0])
    base = (await bench.draw(wanted[4][0]))[0]
    assert torch.equal(alone[4], base)
    assert not close(alone[1], (await bench.draw(wanted[1][0]))[0])


async def test_latents_in_a_mixed_batch_stay_within_the_measured_tolerance(bench: Bench) -> None:
    wanted = [picture(seed, steps=8, guidance=guidance) for seed, guidance in enumerate((1.0, 3.0, 7.5, 2.0))]
    alone = [await bench.latent(one) for one in wanted]
    mixed = await asyncio.gather(*(bench.latent(one) for one in wanted))
    errors = [float((one - other).abs().max() / one.std()) for one, other in zip(alone, mixed, strict=True)]
    assert max(errors) < ANOTHER_BATCH


async def test_two_lanes_draw_the_same_pictures_as_one(parts, bench: Bench, base_folder: Path) -> None:
    wide = Bench(FAMILY.load(base_folder), lanes=2)
    try:
        one = await asyncio.gather(*(bench.draw(picture(seed)) for seed in range(4)))
        two = await asyncio.gather(*(wide.draw(picture(seed)) for seed in range(4)))
        assert all(close(left[0], right[0]) for left, right in zip(one, two, strict=True))
    finally:
        await wide.engine.close()


async def test_progress_counts_every_step_of_every_picture(bench: Bench) -> None:
    seen: list[object] = []
    drawing = Drawing(id=new_ulid(), pictures=[picture(0, steps=3), picture(1, steps=5)])
    async for event in bench.engine.draw(drawing):
        seen.append(event)
    progress = [event.done for event in seen if isinstance(event, Progress)]
    assert progress == [2, 4, 6, 7, 8]
    assert sorted(event.index for event in seen if isinstance(event, Drawn)) == [0, 1]
    assert isinstance(seen[-1], Denoising) and seen[-1].first < seen[-1].last


async def test_a_vanished_caller_frees_its_place_within_a_tick(bench: Bench) -> None:
    stream = bench.engine.draw(Drawing(id=new_ulid(), pictures=[picture(0, steps=900)]))
    async for event in stream:
        if isinstance(event, Progress) and event.done >= 3:
            break
    taken = len(bench.ticks)
    await stream.aclose()
    await bench.idle()
    assert len(bench.ticks) <= taken + 2
    assert (await bench.draw(picture(1)))[0].shape == (16, 16, 3)


async def test_cancel_ends_the_order_with_a_stated_error(bench: Bench) -> None:
    drawing = Drawing(id=new_ulid(), pictures=[picture(0, steps=900)])
    with pytest.raises(Cancelled):
        async for event in bench.engine.draw(drawing):
            if isinstance(event, Progress) and event.done == 2:
                bench.engine._loop.cancel(drawing.id)
    assert sum(tick.rows for tick in bench.ticks) < 2 * 50


async def test_a_deadline_is_met_between_steps(bench: Bench) -> None:
    await bench.draw(picture())  # the width is measured before
    began = time.monotonic()
    with pytest.raises(Deadline) as caught:
        await bench.draw(picture(0, steps=1000), terms=Terms(deadline=began + 0.2))
    assert time.monotonic() - began < 2.0
    assert "of 1000 steps" in caught.value.message
    await bench.idle()


async def test_an_id_that_failed_may_be_drawn_again(bench: Bench) -> None:
    drawing = Drawing(id=new_ulid(), pictures=[picture()], terms=Terms(deadline=time.monotonic() - 1.0))
    with pytest.raises(Deadline):
        async for _ in bench.engine.draw(drawing):
            pass
    # The caller's parting cancel is of the order that failed, and must not meet this one.
    again = [event async for event in bench.engine.draw(replace(drawing, terms=Terms()))]
    assert isinstance(again[-1], Denoising)


async def test_a_picture_that_leaves_the_numbers_fails_alone(bench: Bench, adapters) -> None:
    wild = {name: (torch.full_like(down, 3e38), up) for name, (down, up) in adapters["a"].pairs.items()}
    await bench.engine.install(bench.engine.prepare("wild", replace(adapters["a"], pairs=wild)))
    calm = (await bench.draw(picture(1)))[0]
    outcomes = await asyncio.gather(
        bench.draw(picture(1)), bench.draw(picture(2), adapters={"wild": 1.0}), return_exceptions=True
    )
    assert isinstance(outcomes[0], list) and close(outcomes[0][0], calm)
    assert isinstance(outcomes[1], Internal) and outcomes[1].reason == "NOT_FINITE"


async def test_a_row_that_raises_fails_alone_and_the_loop_lives(bench: Bench) -> None:
    calm = (await bench.draw(picture(1)))[0]
    # An adapter that is not resident: the forward of that row alone cannot be done.
    outcomes: Sequence[Any] = await asyncio.gather(
        bench.draw(picture(1)),
        bench.draw(picture(2), adapters={"nowhere": 1.0}),
        bench.draw(picture(3)),
        return_exceptions=True,
    )
    assert close(outcomes[0][0], calm)
    assert isinstance(outcomes[1], MarsamError)
    assert outcomes[2][0].shape == (16, 16, 3)
    assert bench.engine._loop._thread.is_alive()


async def test_short_work_overtakes_long_work(parts) -> None:
    bench = Bench(parts, limit=2)  # one guided picture a tick
    try:
        await bench.draw(picture())
        ended: list[str] = []

        async def draw(name: str, steps: int) -> None:
            await bench.draw(picture(0, steps=steps))
            ended.append(name)

        await asyncio.gather(draw("long", 60), draw("short", 4))
        assert ended == ["short", "long"]
        assert all(tick.rows <= 2 for tick in bench.ticks)
    finally:
        await bench.engine.close()


async def test_closing_tells_those_who_wait(parts) -> None:
    bench = Bench(parts)
    drawing = asyncio.create_task(bench.draw(picture(0, steps=1000)))
    async with asyncio.timeout(20):
        while not bench.ticks:
            await asyncio.sleep(0.005)
    await bench.engine.close()
    with pytest.raises(MarsamError) as caught:
        await drawing
    assert caught.value.reason == "SHUTTING_DOWN"


async def test_closing_tells_those_whose_pictures_wait_for_the_coder(parts) -> None:
    bench = Bench(parts)
    gate = threading.Event()
    bench.engine._coding.submit(gate.wait, 60)
    try:
        drawing = asyncio.create_task(bench.draw(picture(0), picture(1)))
        async with asyncio.timeout(20):
            while sum(tick.pictures_done for tick in bench.ticks) < 2 or bench.engine._coding._work_queue.qsize() < 2:
                await asyncio.sleep(0.005)
            await bench.engine.close()
            with pytest.raises(MarsamError) as caught:
                await drawing
        assert caught.value.reason == "SHUTTING_DOWN"
    finally:
        gate.set()


async def test_a_picture_whose_coder_has_ended_is_told_that_the_generator_ends(parts) -> None:
    bench = Bench(parts)
    bench.engine._coding.shutdown()
    try:
        with pytest.raises(Unavailable) as caught:
            await bench.draw(picture())
        assert caught.value.reason == "SHUTTING_DOWN"
    finally:
        await bench.engine.close()


@pytest.mark.parametrize("pool", ["text", "start", "look"])
async def test_closing_tells_those_who_wait_for_a_thread_and_those_who_come_later(parts, pool: str) -> None:
    bench = Bench(parts)
    start = Start(pixels=torch.zeros(16, 16, 3, dtype=torch.uint8))
    begun: dict[str, Any] = {
        "text": {},
        "start": {"start": start},
        "look": {"previews": Previews(every_steps=1, max_side=64)},
    }
    threads = {
        "text": bench.engine._reader(BASE)._thread,
        "start": bench.engine._coding,
        "look": bench.engine._looker._thread,
    }[pool]
    gate = threading.Event()
    threads.submit(gate.wait, 60)
    try:
        waiting = asyncio.create_task(bench.draw(picture(0), **begun[pool]))
        leaving = asyncio.create_task(bench.draw(picture(1), **begun[pool]))
        async with asyncio.timeout(20):
            while threads._work_queue.qsize() < 2:
                await asyncio.sleep(0.005)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            await bench.engine.close()
            for one in (waiting, bench.draw(picture(2), **begun[pool])):
                with pytest.raises(Unavailable) as caught:
                    await one
                assert caught.value.reason == "SHUTTING_DOWN"
    finally:
        gate.set()


async def test_a_picture_for_whose_decoding_there_is_no_memory_is_told_so(base_folder: Path) -> None:
    bench = Bench(FAMILY.load(base_folder))

    def short(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = bench.parts.image_coder.decoder.register_forward_pre_hook(short)
    try:
        with pytest.raises(Exhausted) as caught:
            await bench.draw(picture())
        assert (caught.value.reason, bool(caught.value.remedy)) == ("DEVICE_MEMORY", True)
        hook.remove()
        assert (await bench.draw(picture()))[0].shape == (16, 16, 3)
    finally:
        await bench.engine.close()


def test_the_knee_is_the_narrowest_width_near_the_best() -> None:
    assert knee([(1, 50.0), (2, 80.0), (4, 98.0), (8, 100.0), (16, 101.0)]) == 4
    assert knee([(1, 50.0)]) == 1


def measure(cost: Callable[[int], float], **how: Any) -> list[tuple[int, float]]:
    measuring = Measuring(**how)
    while not measuring.done:
        measuring.go_on(cost)
    return measuring.curve


def test_measuring_stops_where_width_no_longer_pays_and_where_memory_ends() -> None:
    asked: list[int] = []

    def flat(rows: int) -> float:
        asked.append(rows)
        return 0.1 * rows

    assert knee(measure(flat, limit=64)) == 1
    assert max(asked) == 4

    def small(rows: int) -> float:
        if rows > 4:
            raise MemoryError
        return 0.1

    assert measure(small, limit=64) == [(1, 10.0), (2, 20.0), (4, 40.0)]
    assert knee(measure(lambda rows: 0.1 + 0.01 * rows, limit=64, budget_s=9.0)) == 64
    assert knee(measure(lambda rows: 0.1 + 0.01 * rows, limit=8)) == 8
    assert [rows for rows, _ in measure(lambda rows: 0.3 + 0.01 * rows, limit=64)] == [1, 2]  # no time for more
