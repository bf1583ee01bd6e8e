"""To which size a picture is brought, and what is cut away."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marsam.diffusion import buckets
from marsam.diffusion.buckets import Cut, Picture

SIDES = st.integers(1, 6000)
_MULTIPLES = st.sampled_from([8, 16, 32, 64])


def _sizes(resolution: int, multiple: int, smallest: int = 32, largest: int = 2048) -> tuple[buckets.Size, ...]:
    return buckets.sizes(resolution, multiple, smallest=smallest, largest=largest)


@given(st.integers(1, 32), _MULTIPLES)
def test_sizes_are_what_the_base_draws_and_no_larger_than_the_square(factor: int, multiple: int) -> None:
    side = factor * multiple
    found = _sizes(side, multiple)
    assert (side, side) in found
    for width, height in set(found) - {(side, side)}:
        assert width % multiple == height % multiple == 0
        assert min(width, height) >= 32
        assert max(width, height) <= min(2048, 4 * min(width, height))
        assert 0.75 * side * side <= width * height <= side * side
        assert (height, width) in found


def test_the_sizes_of_a_stable_diffusion_base() -> None:
    wide = [size for size in _sizes(512, 64) if size[0] >= size[1]]
    assert wide == [(512, 512), (576, 448), (640, 384), (704, 320), (768, 320), (832, 256), (896, 256), (960, 256),
                    (1024, 256)]  # fmt: skip


@given(SIDES, SIDES, st.integers(2, 32), _MULTIPLES)
def test_a_picture_goes_to_the_nearest_aspect_and_upright_to_the_same_upright(
    width: int, height: int, factor: int, multiple: int
) -> None:
    found = _sizes(factor * multiple, multiple)
    across, down = buckets.nearest(width, height, found)
    assert buckets.nearest(height, width, found) == (down, across)
    off = abs(math.log(width / height) - math.log(across / down))
    assert all(off <= abs(math.log(width / height) - math.log(w / h)) + 1e-9 for w, h in found)


@given(SIDES, SIDES, st.integers(2, 16), _MULTIPLES)
def test_a_cut_keeps_the_centre_whole_in_one_direction(width: int, height: int, factor: int, multiple: int) -> None:
    cut = buckets.cut(width, height, _sizes(factor * multiple, multiple))
    left, top, right, bottom = cut.box
    assert left == pytest.approx(width - right, abs=1e-6)
    assert top == pytest.approx(height - bottom, abs=1e-6)
    assert (left, right) == (0, width) or (top, bottom) == (0, height)
    assert (right - left) / (bottom - top) == pytest.approx(cut.size[0] / cut.size[1])
    assert cut.lost == pytest.approx(1 - (right - left) * (bottom - top) / (width * height))
    assert 0 <= cut.lost < 1
    assert cut.enlarged == pytest.approx(cut.size[0] / (right - left))


@pytest.mark.parametrize(
    ("picture", "size", "frame"),
    [
        ((32, 32), (32, 32), (32, 32, 0, 0, 32, 32)),
        ((1500, 1000), (512, 512), (1000, 1500, 0, 128, 512, 512)),
        ((1000, 1500), (512, 512), (1500, 1000, 128, 0, 512, 512)),
        # 1023 · 512 / 700 = 748.25 px: cut down to 748, half of what is over on either side.
        ((1023, 700), (512, 512), (700, 1023, 0, 118, 512, 512)),
        # 1500 · 384 / 1000 = 576 px wide would not cover 640: it is 640 × 426, and 42 px are over.
        ((1500, 1000), (640, 384), (1000, 1500, 21, 0, 384, 640)),
        ((4000, 1000), (640, 384), (1000, 4000, 0, 448, 384, 640)),
    ],
)
def test_a_frame_tells_the_original_the_cut_and_what_is_left(
    picture: buckets.Size, size: buckets.Size, frame: tuple[int, ...]
) -> None:
    assert Cut(picture, size).frame == frame


def test_cuts_that_differ_have_labels_that_differ() -> None:
    labels = {
        Cut(picture, size).label()
        for picture in ((640, 480), (480, 640), (1280, 960))
        for size in ((512, 512), (576, 448), (448, 576))
    }
    assert len(labels) == 9
    assert Cut((200, 50), (25, 25)).label() == "75,0,125,50>25x25"


def test_pictures_that_lose_much_or_are_enlarged_are_named_worst_first() -> None:
    sizes = _sizes(512, 64)
    pictures = [
        Picture(name, buckets.cut(*size, sizes))
        for name, size in (
            ("fits.png", (1024, 1024)),
            ("panorama.png", (6000, 1000)),
            ("strip.png", (9000, 1000)),
            ("small.png", (100, 100)),
            ("long.png", (4100, 1000)),
            ("three-to-two.png", (1500, 1000)),
        )
    ]
    assert buckets.summary(pictures, batch_size=2) == (
        "pictures by size: 1024×256: 3, 512×512: 2, 640×384: 1; at most 56% of one is cut away; "
        "an epoch is 4 steps, 2 of them of fewer than 2 pictures"
    )
    cut, small = buckets.remarks(pictures, smallest=32, bucketed=True, most=2)
    assert cut.reason == "PICTURES_CUT"
    assert cut.message.endswith("strip.png (9000×1000) loses 56%, panorama.png (6000×1000) loses 33% and 1 more")
    assert (small.reason, small.message.split(": ")[1]) == ("PICTURES_ENLARGED", "small.png (100×100) 5.1 times")
    square = [Picture(one.name, buckets.cut(*one.cut.picture, [(512, 512)])) for one in pictures]
    assert "three-to-two.png" in buckets.remarks(square, smallest=32, bucketed=False, most=9)[0].message
    assert "aspect_buckets" in buckets.remarks(square, smallest=32, bucketed=False, most=9)[0].remedy
    assert buckets.remarks(pictures[:1], smallest=32, bucketed=True, most=9) == []
