"""The normal form of a picture, asserted pixel by pixel on files made here."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from marsam.imaging.limits import Limits
from marsam.imaging.normalise import Rejection, normalise

LIMITS = Limits()

# A 3×2 picture of six distinct colours: any wrong rotation or mirroring moves at least one of them.
UPRIGHT = np.array(
    [[[250, 0, 0], [0, 250, 0], [0, 0, 250]], [[250, 250, 0], [0, 250, 250], [250, 0, 250]]], dtype=np.uint8
)
# EXIF orientation → how a camera that wrote this tag stored the upright scene.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format=format, **options)
    return out.getvalue()


def pixels(data: bytes, limits: Limits = LIMITS) -> np.ndarray:
    return np.asarray(normalise(data, limits=limits).image)


def refusal(data: bytes, limits: Limits = LIMITS) -> Rejection:
    with pytest.raises(Rejection) as caught:
        normalise(data, limits=limits)
    return caught.value


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_every_exif_orientation_is_baked_into_the_pixels(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT)))
    options = {"lossless": True} if format == "WEBP" else {}
    result = normalise(saved(stored, format, exif=exif, **options), limits=LIMITS)
    np.testing.assert_array_equal(np.asarray(result.image), UPRIGHT)
    assert ("ORIENTED" in result.notes) == (orientation != 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_jpeg_from_a_phone(orientation: int) -> None:
    big = UPRIGHT.repeat(16, axis=0).repeat(16, axis=1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](big)))
    result = pixels(saved(stored, "JPEG", exif=exif, quality=95, subsampling=0))
    assert result.shape == (32, 48, 3)
    np.testing.assert_allclose(result[8::16, 8::16].astype(int), UPRIGHT.astype(int), atol=6)


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    values = np.array([[0, 257, 40000], [32768, 65279, 65535]], dtype=np.uint16)
    result = normalise(saved(Image.fromarray(values), "PNG"), limits=LIMITS)
    expected = np.rint(values / 257).astype(np.uint8)
    assert expected[0, 2] == 156
    np.testing.assert_array_equal(np.asarray(result.image), np.stack([expected] * 3, axis=-1))
    assert result.notes == ("SCALED_FROM_16_BIT",)


def test_sixteen_bit_colour_keeps_its_range() -> None:
    values = np.array([[[40000, 0, 65535], [128, 30000, 257]]], dtype=">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    result = pixels(png_file(2, 1, depth=16, colour=2, data=rows))
    np.testing.assert_allclose(result[0].astype(float), values[0] / 257, atol=1)


def test_transparency_is_matted_on_white() -> None:
    rgba = np.array([[[255, 0, 0, 0], [255, 0, 0, 128], [10, 20, 30, 255]]], dtype=np.uint8)
    result = normalise(saved(Image.fromarray(rgba), "PNG"), limits=LIMITS)
    np.testing.assert_array_equal(np.asarray(result.image)[0], [[255, 255, 255], [255, 127, 127], [10, 20, 30]])
    assert result.notes == ("MATTED_ON_WHITE",)


def test_grey_with_alpha_and_palette_with_transparency() -> None:
    la = Image.fromarray(np.array([[[0, 0], [0, 255]]], dtype=np.uint8))
    np.testing.assert_array_equal(pixels(saved(la, "PNG"))[0], [[255] * 3, [0] * 3])
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    palette.putpalette([9, 9, 9, 40, 50, 60])
    np.testing.assert_array_equal(pixels(saved(palette, "PNG", transparency=0))[0], [[255] * 3, [40, 50, 60]])


def test_one_bit_pictures_become_black_and_white() -> None:
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert("1")
    np.testing.assert_array_equal(pixels(saved(bits, "PNG"))[..., 0], [[0, 255], [255, 0]])


def test_cmyk_without_a_profile_follows_the_plain_formula() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    result = normalise(saved(cmyk, "JPEG", quality=100), limits=LIMITS)
    np.testing.assert_allclose(np.asarray(result.image)[8, 8].astype(int), [255, 0, 0], atol=3)
    assert "CMYK_WITHOUT_PROFILE" in result.notes


def test_a_wide_gamut_profile_is_converted_to_srgb() -> None:
    # The same numbers mean another colour in a linear profile: mid grey 55 of a linear space is 128 or so in sRGB.
    linear = linear_srgb_profile()
    grey = Image.new("RGB", (4, 4), (55, 55, 55))
    result = normalise(saved(grey, "PNG", icc_profile=linear), limits=LIMITS)
    np.testing.assert_allclose(np.asarray(result.image)[0, 0].astype(int), [128] * 3, atol=2)
    assert "CONVERTED_TO_SRGB" in result.notes


def test_an_srgb_profile_changes_no_pixel_and_a_broken_one_is_noted() -> None:
    noise = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = normalise(saved(Image.fromarray(noise), "PNG", icc_profile=srgb), limits=LIMITS)
    np.testing.assert_array_equal(np.asarray(same.image), noise)
    assert same.notes == ()
    broken = normalise(saved(Image.fromarray(noise), "PNG", icc_profile=b"not a profile" * 20), limits=LIMITS)
    np.testing.assert_array_equal(np.asarray(broken.image), noise)
    assert broken.notes == ("PROFILE_UNREADABLE",)


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    result = normalise(data, limits=LIMITS)
    np.testing.assert_array_equal(np.asarray(result.image)[0, 0], [255, 0, 0])
    assert result.notes == ("FIRST_FRAME_ONLY",)
    assert refusal(data, Limits(max_frames=2)).reason == "TOO_MANY_FRAMES"


def test_half_a_jpeg_is_broken() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), "JPEG")
    assert pixels(whole).shape == (64, 64, 3)
    assert refusal(whole[: len(whole) // 2]).reason == "BROKEN"


@pytest.mark.parametrize("side", [10_000, 14_000])
def test_a_png_bomb_is_refused_by_its_header(side: int) -> None:
    line = zlib.compress(b"\0" * ((side + 1) * side), 9)
    bomb = png_file(side, side, depth=8, colour=0, compressed=line)
    assert len(bomb) < 300_000
    assert refusal(bomb).reason == "TOO_MANY_PIXELS"


def test_limits_of_shape_and_size() -> None:
    wide = saved(Image.new("RGB", (400, 8)), "PNG")
    assert refusal(wide).reason == "ASPECT_TOO_EXTREME"
    assert refusal(wide, Limits(max_side=300)).reason == "SIDE_TOO_LONG"
    assert refusal(wide, Limits(max_bytes=20)).reason == "FILE_TOO_LARGE"
    assert pixels(wide, Limits(max_aspect=50)).shape == (8, 400, 3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x80\x04\x95\x10\x00", "pickle"),
        (b"PK\x03\x04rest", "ZIP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'>", "SVG"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"%PDF-1.7", "PDF"),
        (b"\x00\x00\x00\x18ftypheic", "HEIC"),
        (b"\x00\x00\x00\x18ftypmp42", "video"),
        (b"", "empty"),
        (b"hello", "known format"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, words: str) -> None:
    refused = refusal(data)
    assert refused.reason == "NOT_AN_IMAGE"
    assert words in refused.message


def test_a_pickle_with_a_picture_behind_it_stays_a_pickle() -> None:
    picture = saved(Image.new("RGB", (8, 8)), "PNG")
    assert "pickle" in refusal(b"\x80\x04" + picture).message


def test_a_name_for_one_format_and_bytes_of_another_decode_by_content() -> None:
    # Content alone decides; a TIFF header with PNG data behind is not searched for the PNG.
    assert refusal(b"II*\x00" + saved(Image.new("RGB", (8, 8)), "PNG")).reason == "BROKEN"


def test_the_origin_is_read_before_metadata_goes() -> None:
    exif = Image.Exif()
    exif[0x013B] = "Mona Said"
    exif[0x8298] = "(c) 2024 Mona Said"
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (24.0, 27.0, 0.0)
    result = normalise(saved(Image.new("RGB", (8, 8)), "JPEG", exif=exif), limits=LIMITS)
    assert result.provenance.creator == "Mona Said"
    assert result.provenance.copyright == "(c) 2024 Mona Said"
    assert result.provenance.has_location


def test_random_damage_never_escapes_as_another_error() -> None:
    random = np.random.default_rng(7)
    noise = Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    for format in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF"):
        whole = saved(noise, format)
        for _ in range(60):
            data = bytearray(whole)
            for at in random.integers(8, len(data), 12):
                data[at] = random.integers(0, 256)
            try:
                normalise(bytes(data[: random.integers(12, len(data) + 1)]), limits=LIMITS)
            except Rejection as refused:
                assert refused.reason.isupper()


def png_file(width: int, height: int, *, depth: int, colour: int, data: bytes = b"", compressed: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", compressed or zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def linear_srgb_profile() -> bytes:
    """A matrix profile with sRGB's primaries and a gamma of 1, written by hand: Pillow cannot build one."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(fixed(v) for v in values)

    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)
    text = b"desc\0\0\0\0" + struct.pack(">I", 7) + b"Linear\0" + b"\0" * 78
    tags = {
        b"desc": text,
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.4361, 0.2225, 0.0139),
        b"gXYZ": xyz(0.3851, 0.7169, 0.0971),
        b"bXYZ": xyz(0.1431, 0.0606, 0.7141),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        padded = value + b"\0" * (-len(value) % 4)
        table += struct.pack(">4sII", name, at + len(body), len(value))
        body += padded
    size = at + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"\0" * 4, 0x02100000, b"mntr", b"RGB ", b"XYZ ") + b"\0" * 12 + b"acsp"
    header += b"\0" * 28 + struct.pack(">iii", round(0.9642 * 65536), 65536, round(0.8249 * 65536))
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
