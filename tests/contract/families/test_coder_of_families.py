"""Image coders in half precision: near what they make in fp32, and never black where they leave their range."""

import copy
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from marsam_generator.engine.coder import Coder, Start
from marsam_generator.engine.engine import Drawing, Drawn, Engine
from marsam_generator.engine.width import Widths

from marsam.core.errors import Internal
from marsam.core.ids import new_ulid
from marsam.diffusion import registry
from marsam.diffusion.sampling import Picture, for_base
from marsam.diffusion.spec import Components, Part
from tests.contract.families import rig as rigs

pytestmark = pytest.mark.slow
HALVES = (torch.bfloat16, torch.float16)


def _held(parts: Components, dtype: torch.dtype) -> Components:
    """The same with its image coder in another type."""
    coder: Any = copy.deepcopy(parts.image_coder)
    return replace(parts, image_coder=coder.to(dtype))


def _latent(parts: Components, side: int) -> torch.Tensor:
    return torch.randn((1, *parts.facts.latent_shape(side, side)), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", registry.families())
def test_a_coder_in_half_precision_is_near_the_one_in_fp32(
    bases: dict[str, Path], name: str, dtype: torch.dtype
) -> None:
    family = registry.family(name)
    parts = family.load(bases[name], parts=frozenset({Part.IMAGE}))
    side = rigs.side(parts.facts)
    half, whole = Coder(family, _held(parts, dtype)), Coder(family, parts)
    latent = _latent(parts, side)
    found, wanted = half.decoded(latent), whole.decoded(latent)
    assert found.dtype == torch.float32
    assert not torch.equal(found, wanted)
    assert float((found - wanted).square().mean().sqrt()) < 0.05
    start = Start(pixels=(torch.rand(side, side, 3, generator=torch.Generator().manual_seed(5)) * 255).to(torch.uint8))
    near, exact = half.ground(start).clean, whole.ground(start).clean
    assert near.dtype == torch.float32
    assert float((near - exact).square().mean().sqrt()) < 0.05 * max(1.0, float(exact.std()))


def _loud(parts: Components, factor: float) -> Components:
    """The same with an image coder whose first layers are `factor` times as loud; what follows brings it to measure."""
    coder: Any = copy.deepcopy(parts.image_coder)
    for layer in (coder.decoder.conv_in, coder.encoder.conv_in):
        layer.weight.data *= factor
        layer.bias.data *= factor
    return replace(parts, image_coder=coder)


@pytest.mark.parametrize("name", ["sd1", "sdxl", "flux2"])
async def test_what_overflows_in_fp16_is_decoded_in_fp32(bases: dict[str, Path], name: str) -> None:
    family = registry.family(name)
    parts = _loud(family.load(bases[name]), 2e5)
    half = _held(parts, torch.float16)
    side = rigs.side(parts.facts)
    with torch.no_grad():
        assert bool(family.decode(half, _latent(parts, side)).isnan().any())
        assert not bool(family.encode_image(half, torch.ones(1, 3, side, side)).isfinite().all())
    pixels = torch.full((side, side, 3), 255, dtype=torch.uint8)
    assert torch.equal(Coder(family, half).ground(Start(pixels=pixels)).clean,
                       Coder(family, _held(half, torch.float32)).ground(Start(pixels=pixels)).clean)  # fmt: skip
    picture = for_base(
        Picture(prompt="a red kite", seed=5, width=side, height=side, steps=2, guidance=1.0), parts.facts
    )
    drawn = []
    for held in (half, _held(half, torch.float32)):
        engine = Engine(name="b", family=family, parts=held, lanes=1, widths=Widths(limit=4), observe=lambda tick: None)
        try:
            asked = Drawing(id=new_ulid(), pictures=[picture])
            drawn += [event.pixels async for event in engine.draw(asked) if isinstance(event, Drawn)]
        finally:
            await engine.close()
    assert torch.equal(drawn[0], drawn[1])
    assert drawn[0].float().std() > 1.0


def _in_memory(parts: Components, dtype: torch.dtype) -> int:
    """How many image coders of that kind and type there are."""
    kind = type(parts.image_coder)
    found = [one for one in gc.get_objects() if type(one) is kind]
    return sum(1 for one in found if next(one.parameters()).dtype == dtype)


def test_the_coder_in_fp32_goes_when_nobody_codes_with_it(bases: dict[str, Path]) -> None:
    family = registry.family("sd1")
    half = _held(_loud(family.load(bases["sd1"], parts=frozenset({Part.IMAGE})), 2e5), torch.float16)
    gc.collect()
    before = _in_memory(half, torch.float32)
    coder, latent = Coder(family, half), _latent(half, 32)
    during: list[int] = []
    both = threading.Barrier(2)

    def meet(module: Any, _: Any) -> None:
        if next(module.parameters()).dtype == torch.float32:
            both.wait(20)
            during.append(_in_memory(half, torch.float32) - before)
            both.wait(20)

    hook = half.image_coder.decoder.register_forward_pre_hook(meet)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(coder.decoded, [latent, latent])
    hook.remove()
    assert during == [1, 1]  # two at once share it
    assert _in_memory(half, torch.float32) == before
    assert torch.equal(one, other) and torch.equal(one, coder.decoded(latent))


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_what_no_precision_can_hold_is_an_error_and_no_black_picture(
    bases: dict[str, Path], dtype: torch.dtype
) -> None:
    family = registry.family("sd1")
    parts = family.load(bases["sd1"], parts=frozenset({Part.IMAGE}))
    coder = Coder(family, _held(_loud(parts, 1e37), dtype))
    with pytest.raises(Internal) as caught:
        coder.picture(_latent(parts, 32), None)
    assert caught.value.reason == "DECODED_NOT_FINITE"
    with pytest.raises(Internal) as caught:
        coder.ground(Start(pixels=torch.full((32, 32, 3), 200, dtype=torch.uint8)))
    assert caught.value.reason == "ENCODED_NOT_FINITE"


def test_an_infinity_is_not_taken_for_white(bases: dict[str, Path]) -> None:
    family = registry.family("sd1")
    parts = family.load(bases["sd1"], parts=frozenset({Part.IMAGE}))
    last: Any = parts.image_coder
    last.decoder.conv_out.bias.data[0] = torch.inf
    with torch.no_grad():
        image = family.decode(parts, _latent(parts, 32))
    assert bool(image[:, 0].isnan().all())
    assert bool(image[:, 1:].isfinite().all())
