"""What sizes bases draw, and what is said of the others."""

from dataclasses import replace
from pathlib import Path

import pytest
from marsam_generator import sizes

from marsam.core.errors import Invalid
from marsam.diffusion import registry
from marsam.diffusion.spec import BaseFacts


@pytest.fixture(scope="module")
def tiny(base_folder: Path) -> BaseFacts:
    return registry.read_base_folder("sd1", base_folder)


def _made(family: str, tiny: BaseFacts) -> BaseFacts:
    """Facts of a base of full size of a family; what of them is not about sizes is another's."""
    bounds = registry.family_facts(family)
    return replace(tiny, family=family, default_side=1024, side_multiple=bounds.side_multiple)


@pytest.mark.parametrize("family", registry.families())
def test_every_fault_of_a_size_is_told_with_the_nearest_that_can_be(family: str, tiny: BaseFacts) -> None:
    facts = _made(family, tiny)
    multiple, (low, high) = facts.side_multiple, sizes.bounds(facts)
    sizes.check(1024, 1024, facts)
    sizes.check(low, high, facts)
    for width, height, fields, near in (
        (1024 + 1, 1024, ["width"], [f"width: use 1024 or {1024 + multiple}"]),
        (1024, low - 1, ["height"], [f"height: use {low}"]),
        (high + multiple, 0, ["width", "height"], [f"width: use {high}", f"height: use {low}"]),
        (high - 1, -5, ["width", "height"], [f"width: use {high - multiple} or {high}", f"height: use {low}"]),
    ):
        with pytest.raises(Invalid) as caught:
            sizes.check(width, height, facts)
        assert [fault.field for fault in caught.value.violations] == fields
        assert caught.value.reason == "SIZE_UNSUPPORTED"
        assert caught.value.remedy == "; ".join([*near, "this base was made for 1024×1024"])


@pytest.mark.parametrize("family", registry.families())
def test_too_many_pixels_together_are_refused_with_a_size_of_that_shape(family: str, tiny: BaseFacts) -> None:
    facts = replace(_made(family, tiny), default_side=512)
    with pytest.raises(Invalid) as caught:
        sizes.check(2048, 1024, facts)
    assert [fault.field for fault in caught.value.violations] == ["width"]
    width, height = map(int, caught.value.remedy.split(";")[0].removeprefix("use ").split("×"))
    sizes.check(width, height, facts)
    assert width / height == pytest.approx(2.0, rel=0.05)
    assert width * height > 0.9 * 4 * 512**2
    sizes.check(1024, 1024, facts)


@pytest.mark.parametrize("family", registry.families())
@pytest.mark.parametrize("size", [(4000, 3000), (300, 1000), (64, 64), (10_000, 1000)])
def test_a_picture_keeps_its_shape_as_far_as_the_base_can(family: str, size: tuple[int, int], tiny: BaseFacts) -> None:
    facts = _made(family, tiny)
    width, height = sizes.like(size, facts)
    sizes.check(width, height, facts)
    assert 0.7 * 1024**2 <= width * height <= 1024**2
    wanted = min(4.0, max(0.25, size[0] / size[1]))
    assert width / height == pytest.approx(wanted, rel=0.12)
