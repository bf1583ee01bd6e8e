"""Noise, guidance, and what a picture may ask for."""

import pytest
import torch

from marsam.core.errors import Invalid
from marsam.diffusion.guidance import as_long_as, guide
from marsam.diffusion.lanes.net import Lanes, cuts
from marsam.diffusion.sampling import Picture, initial_noise


def test_noise_is_a_function_of_its_seed() -> None:
    torch.manual_seed(1)
    first = initial_noise((4, 8, 8), 7)
    torch.manual_seed(2)
    assert torch.equal(initial_noise((4, 8, 8), 7), first)
    assert not torch.equal(initial_noise((4, 8, 8), 8), first)
    assert float(initial_noise((4, 64, 64), 3).std()) == pytest.approx(1.0, abs=0.03)


def test_noise_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    initial_noise((4, 8, 8), 7)
    assert torch.equal(torch.get_rng_state(), state)


def test_guidance() -> None:
    conditional, unconditional = torch.full((1, 2, 2, 2), 3.0), torch.full((1, 2, 2, 2), 1.0)
    assert torch.equal(guide(conditional, unconditional, 1.0), conditional)
    assert torch.equal(guide(conditional, unconditional, 0.0), unconditional)
    assert torch.equal(guide(conditional, unconditional, 4.0), torch.full((1, 2, 2, 2), 9.0))


def test_rescaled_guidance_has_the_conditionals_spread() -> None:
    conditional, unconditional = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    guided = guide(conditional, unconditional, 7.5, rescale=1.0)
    torch.testing.assert_close(guided.std(dim=(1, 2, 3)), conditional.std(dim=(1, 2, 3)))


def test_a_guided_prediction_is_made_as_long_as_the_conditional_token_by_token() -> None:
    like, guided = (torch.randn(1, 3, 4, 6, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    found = as_long_as(like, guided, 2)
    for top in (0, 2):
        for left in (0, 2, 4):
            token = (0, slice(None), slice(top, top + 2), slice(left, left + 2))
            assert float(found[token].norm()) == pytest.approx(float(like[token].norm()))
            torch.testing.assert_close(found[token] / found[token].norm(), guided[token] / guided[token].norm())


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("steps", 1001), ("seed", -1), ("seed", 2**63), ("guidance", -1.0), ("guidance_rescale", 2.0)],
)
def test_what_a_picture_cannot_be(field: str, value: float) -> None:
    with pytest.raises(Invalid) as caught:
        Picture(**{"prompt": "x", "seed": 1, "width": 8, "height": 8, field: value})
    assert caught.value.field == field


def test_an_unknown_scheduler_meets_its_neighbours() -> None:
    with pytest.raises(Invalid) as caught:
        Picture(prompt="x", seed=1, width=8, height=8, scheduler="dim")
    assert "ddim" in caught.value.remedy


@pytest.mark.parametrize(
    ("size", "pieces", "lengths"), [(16, 2, [8, 8]), (5, 2, [2, 3]), (3, 8, [1, 1, 1]), (1, 1, [1])]
)
def test_cuts_are_even_and_whole(size: int, pieces: int, lengths: list[int]) -> None:
    rows = list(range(size))
    parts = [rows[cut] for cut in cuts(size, pieces)]
    assert [len(part) for part in parts] == lengths
    assert [row for part in parts for row in part] == rows


def test_lanes_keep_order_and_hand_on_errors() -> None:
    with Lanes(2) as lanes:
        assert lanes.count == 2
        assert lanes.map(lambda n: n * n, [3, 1, 2]) == [9, 1, 4]
        with pytest.raises(ZeroDivisionError):
            lanes.map(lambda n: 1 / n, [1, 0])
    with Lanes(1) as alone:
        assert alone.map(str, [1, 2]) == ["1", "2"]
    torch.set_num_threads(1)


def test_no_cores_is_refused() -> None:
    with pytest.raises(Invalid):
        Lanes(0)
