"""What every engine does with what it is asked, in this process and in a real Triton server."""

import asyncio
import contextlib
import hashlib
import io
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from marsam_generator.engine.coder import Start
from marsam_generator.engine.engine import Denoising, Drawn, Progress
from marsam_generator.engine.work import Looked, Previews, Terms
from marsam_generator.engines.contract import Admitted, Commission, DrawingEngine, Said
from PIL import Image

from marsam.catalog.models import Model
from marsam.core.clock import SystemClock
from marsam.core.errors import Deadline, Exhausted, Missing, Precondition
from marsam.core.ids import new_ulid
from marsam.diffusion.sampling import Picture
from tests.contract.engine.conftest import PLACES, Drawing, local, remote
from tests.contract.engine.triton_server import Triton

pytestmark = pytest.mark.slow

Models = dict[str, Model]


def commission(models: Models, *, name: str = "base", count: int = 1, **fields: Any) -> Commission:
    terms = fields.pop("terms", Terms())
    previews, start = fields.pop("previews", None), fields.pop("start", None)
    adapters = [(models[key], weight) for key, weight in fields.pop("adapters", {}).items()]
    picture = Picture(
        **{"prompt": "a chef", "seed": 7, "width": 16, "height": 16, "steps": 3, "guidance": 3.0, **fields}
    )
    return Commission(
        id=new_ulid(SystemClock()),
        model=models[name],
        adapters=adapters,
        pictures=[replace(picture, seed=picture.seed + index) for index in range(count)],
        terms=terms,
        previews=previews,
        start=start,
    )


async def drawn(engine: DrawingEngine, asked: Commission) -> list[Said]:
    return [said async for said in engine.draw(asked)]


def digests(said: Sequence[Said]) -> list[str]:
    pictures = sorted((one for one in said if isinstance(one, Drawn)), key=lambda one: one.index)
    return [hashlib.sha256(one.pixels.numpy().tobytes()).hexdigest() for one in pictures]


async def until(condition: Any, *, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def test_first_it_is_admitted_and_last_it_says_when_it_denoised(drawing: Drawing, models: Models) -> None:
    began = time.monotonic()
    said = await drawn(drawing.engine, commission(models, count=2))
    ended = time.monotonic()
    assert isinstance(said[0], Admitted) and "torch" in said[0].fingerprint and said[0].ahead == 0
    steps = [one for one in said if isinstance(one, Progress)]
    assert [one.done for one in steps] == sorted(one.done for one in steps)
    assert (steps[-1].done, steps[-1].of) == (6, 6)
    pictures = [one for one in said if isinstance(one, Drawn)]
    assert sorted(one.index for one in pictures) == [0, 1]
    assert all(tuple(one.pixels.shape) == (16, 16, 3) and one.decode_seconds > 0 for one in pictures)
    assert isinstance(said[-1], Denoising)
    assert began < said[-1].first < said[-1].last < ended


async def test_the_same_seed_is_the_same_picture(drawing: Drawing, models: Models) -> None:
    first, again, other = [
        digests(await drawn(drawing.engine, commission(models, seed=seed, adapters={"a": 0.7}))) for seed in (7, 7, 8)
    ]
    assert first == again != other


async def test_both_engines_draw_the_same_bits(store: str, tmp_path: Path, triton: Triton, models: Models) -> None:
    pixels = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros((16, 16), dtype=torch.uint8)
    mask[:8] = 255
    asked: list[dict[str, Any]] = [
        {"start": Start(pixels=pixels), "strength": 0.7},
        {"start": Start(pixels=pixels, mask=mask), "strength": 0.7},
        {"prompt": "عالمة فيزياء في مختبر", "negative": "كوفية"},
        {"adapters": {"a": 1.0, "b": -0.3}, "scheduler": "euler"},
        {"name": "tuned", "guidance": 1.0},
        {"name": "other", "adapters": {"alien": 0.5}, "count": 3, "width": 32},
    ]
    async with local(store, tmp_path) as here, remote(triton) as there:
        for fields in asked:
            ours = digests(await drawn(here.engine, commission(models, **fields)))
            theirs = digests(await drawn(there.engine, commission(models, **fields)))
            assert ours == theirs, fields


async def test_words_that_differ_only_in_arabic_arrive(drawing: Drawing, models: Models) -> None:
    one, other = [
        digests(await drawn(drawing.engine, commission(models, prompt=prompt))) for prompt in ("طاهية", "طبيبة")
    ]
    assert one != other


async def test_looks_on_the_way(drawing: Drawing, models: Models) -> None:
    said = await drawn(drawing.engine, commission(models, steps=9, previews=Previews(every_steps=3, max_side=8)))
    looks = [one for one in said if isinstance(one, Looked)]
    assert looks and {one.step for one in looks} <= {3, 6} and all(one.steps == 9 for one in looks)
    for look in looks:
        with Image.open(io.BytesIO(look.data)) as picture:
            assert (picture.format, max(picture.size)) == ("JPEG", 8)
    assert said.index(looks[0]) < next(place for place, one in enumerate(said) if isinstance(one, Drawn))


async def test_who_leaves_frees_the_device(drawing: Drawing, models: Models) -> None:
    await drawn(drawing.engine, commission(models))
    before = drawing.rows()
    async with contextlib.aclosing(drawing.engine.draw(commission(models, steps=250, count=4))) as events:
        async for said in events:
            if isinstance(said, Progress) and said.done >= 8:
                break
    # Whoever comes now finds nobody before it, however soon.
    for _ in range(200):
        said = await drawn(drawing.engine, commission(models, steps=1))
        assert isinstance(said[0], Admitted)
        if said[0].ahead == 0:
            break
    assert said[0].ahead == 0
    settled = drawing.rows()
    await asyncio.sleep(0.3)
    assert drawing.rows() == settled
    assert settled - before < 2 * 4 * 250 / 2


async def test_a_deadline_ends_it_between_steps(drawing: Drawing, models: Models) -> None:
    await drawn(drawing.engine, commission(models))
    with pytest.raises(Deadline):
        await drawn(
            drawing.engine, commission(models, steps=1000, count=8, terms=Terms(deadline=time.monotonic() + 0.5))
        )
    settled = drawing.rows()
    await asyncio.sleep(0.2)
    assert drawing.rows() - settled <= 16  # at most the tick that was under way


async def test_who_finds_no_place_is_told_when_to_come_again(drawing: Drawing, models: Models) -> None:
    await drawn(drawing.engine, commission(models))
    async with contextlib.aclosing(drawing.engine.draw(commission(models, steps=250, count=16))) as events:
        await anext(events)
        with pytest.raises(Exhausted) as caught:
            await drawn(drawing.engine, commission(models, count=PLACES - 15))
        assert caught.value.reason == "QUEUE_FULL" and (caught.value.retry_after_s or 0) >= 0.5


async def test_four_callers_share_ticks(drawing: Drawing, models: Models) -> None:
    asked = [commission(models, seed=seed, steps=30, guidance=1.0, adapters={"a": 1.0}) for seed in range(4)]
    said = await asyncio.gather(*(drawn(drawing.engine, one) for one in asked))
    assert max(one.rows for each in said for one in each if isinstance(one, Progress)) == 4


async def test_a_picture_of_three_mebibytes(drawing: Drawing, models: Models) -> None:
    asked = commission(models, name="large", width=1024, height=1024, steps=1, guidance=1.0)
    picture = next(one for one in await drawn(drawing.engine, asked) if isinstance(one, Drawn))
    assert tuple(picture.pixels.shape) == (1024, 1024, 3)
    assert picture.pixels.numel() == 3 * 2**20 and len(picture.pixels.unique()) > 50


async def test_what_is_missing_in_the_store_is_named(drawing: Drawing, models: Models) -> None:
    gone = replace(models["a"].files[0], digest=f"sha256:{'0' * 64}")
    broken = replace(models["a"], files=(gone, *models["a"].files[1:]), digest="")
    with pytest.raises(Missing) as caught:
        await drawn(drawing.engine, commission({**models, "a": broken}, adapters={"a": 1.0}))
    assert "0" * 64 in str(caught.value) or "0" * 64 in (caught.value.resource or "")


async def test_models_come_stay_and_go(drawing: Drawing, models: Models) -> None:
    engine, a = drawing.engine, models["a"]
    with contextlib.suppress(Missing):
        await engine.evict(a)
    await engine.load(models["base"], None, pin=False)
    assert models["base"].digest in await engine.residents() and a.digest not in await engine.residents()
    await engine.load(a, models["base"], pin=True)
    held = (await engine.residents())[a.digest]
    assert held.pinned and held.size > 0 and held.uses == 1
    async with contextlib.aclosing(engine.draw(commission(models, steps=250, adapters={"a": 1.0}))) as events:
        async for said in events:
            if isinstance(said, Progress):
                break
        with pytest.raises(Precondition) as caught:
            await engine.evict(a)
        assert caught.value.reason == "MODEL_IN_USE" and caught.value.resource == a.name
    for _ in range(100):
        try:
            await engine.evict(a)
            break
        except Precondition:
            await asyncio.sleep(0.02)
    with pytest.raises(Missing) as missing:
        await engine.evict(a)
    assert missing.value.reason == "MODEL_NOT_RESIDENT"
    assert a.digest not in await engine.residents()


async def test_it_says_what_it_is(drawing: Drawing, models: Models) -> None:
    found = await drawing.engine.describe()
    assert (found.engine, found.device, found.precision) == (drawing.kind, "cpu", "fp32")
    admitted = (await drawn(drawing.engine, commission(models, steps=1)))[0]
    assert isinstance(admitted, Admitted) and admitted.fingerprint == found.fingerprint
