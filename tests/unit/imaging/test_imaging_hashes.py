"""Hashes and measures on drawn pictures whose relations are known."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from marsam.imaging import encode, hashes
from marsam.imaging.measures import measure


def scene(seed: int, size: int = 256) -> Image.Image:
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(int(v) for v in random.integers(0, 256, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(14):
        x, y = (int(v) for v in random.integers(-20, size, 2))
        w, h = (int(v) for v in random.integers(20, size // 2, 2))
        shape = draw.ellipse if random.random() < 0.5 else draw.rectangle
        shape((x, y, x + w, y + h), fill=tuple(int(v) for v in random.integers(0, 256, 3)))
    return image


def both(image: Image.Image) -> tuple[int, int]:
    luma = image.convert("L")
    return hashes.phash(luma), hashes.dhash(luma)


@pytest.mark.parametrize("seed", range(8))
def test_a_resized_recompressed_copy_is_near_and_a_stranger_is_far(seed: int) -> None:
    original, stranger = both(scene(seed)), both(scene(seed + 100))
    out = io.BytesIO()
    scene(seed).resize((128, 128), Image.Resampling.LANCZOS).save(out, "JPEG", quality=60)
    copy = both(Image.open(out).convert("RGB"))
    assert hashes.distance(original[0], copy[0]) <= 4
    assert hashes.distance(original[1], copy[1]) <= 6
    assert hashes.distance(original[0], stranger[0]) > 12


@pytest.mark.parametrize("seed", range(8))
def test_the_hash_of_the_mirrored_picture_needs_no_pixels(seed: int) -> None:
    p, d = both(scene(seed))
    mirrored_p, mirrored_d = both(ImageOps.mirror(scene(seed)))
    assert hashes.distance(hashes.mirror_phash(p), mirrored_p) == 0
    assert hashes.distance(hashes.mirror_dhash(d), mirrored_d) <= 4
    assert hashes.distance(p, mirrored_p) > 10


def test_a_known_gradient_has_known_bits() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1)))
    assert hashes.dhash(ramp) == 2**64 - 1
    assert hashes.mirror_dhash(2**64 - 1) == 0
    assert hashes.phash(Image.new("L", (64, 64), 80)) == 0


def test_blur_lowers_sharpness_and_flatness_lowers_entropy() -> None:
    sharp = scene(5)
    soft = measure(sharp.filter(ImageFilter.GaussianBlur(6)).convert("L"))
    assert measure(sharp.convert("L")).sharpness > 20 * soft.sharpness
    flat = measure(Image.new("L", (40, 40), 77))
    assert (flat.sharpness, flat.brightness, flat.contrast, flat.entropy) == (0.0, 77.0, 0.0, 0.0)
    half = Image.fromarray(np.repeat(np.array([[0, 255]], dtype=np.uint8), 32, axis=1).repeat(8, axis=0))
    assert measure(half).entropy == 1.0
    assert measure(half).contrast == 127.5


@pytest.mark.parametrize("size", [3, 61, 256])
def test_measures_are_those_of_the_textbook(size: int) -> None:
    luma = scene(5, 256).resize((size, size + 1)).convert("L")
    x = np.asarray(luma, dtype=np.float64)
    laplacian = x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:] - 4 * x[1:-1, 1:-1]
    tiles = min(4, *laplacian.shape)
    parts = [t for band in np.array_split(laplacian, tiles) for t in np.array_split(band, tiles, axis=1)]
    found = measure(luma)
    assert found.sharpness == pytest.approx(max(part.var() for part in parts), abs=0.006, rel=1e-5)
    assert (found.brightness, found.contrast) == pytest.approx((x.mean(), x.std()), abs=0.0051)


def test_png_is_deterministic_and_bare() -> None:
    image = scene(1)
    image.info.update(comment="secret", dpi=(72, 72))
    first = encode.png(image)
    assert first == encode.png(scene(1)) == encode.png(np.asarray(image))
    again = Image.open(io.BytesIO(first))
    np.testing.assert_array_equal(np.asarray(again), np.asarray(image))
    assert again.info == {}


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (200, 1), (64, 5), (65, 7), (130, 129)])
def test_png_keeps_every_pixel_of_any_shape(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(shape[0]).integers(0, 256, (*shape, 3), dtype=np.uint8)
    again = Image.open(io.BytesIO(encode.png(Image.fromarray(noise))))
    assert (again.format, again.mode) == ("PNG", "RGB")
    np.testing.assert_array_equal(np.asarray(again), noise)


def test_the_pixel_digest_knows_pixels_and_shape_only() -> None:
    a, b = scene(1).tobytes(), scene(2).tobytes()
    assert encode.pixel_digest(256, 256, a) == encode.pixel_digest(256, 256, np.asarray(scene(1)).data)
    assert encode.pixel_digest(256, 256, a) != encode.pixel_digest(256, 256, b)
    assert encode.pixel_digest(128, 512, a) != encode.pixel_digest(256, 256, a)
