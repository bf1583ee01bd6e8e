"""From the bytes of a file to the one form that the rest of Marsam sees: upright, sRGB, opaque, eight bits, RGB.

Runs inside the worker of `worker.py`; nothing else should call `normalise` on bytes from outside.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from marsam.imaging import provenance
from marsam.imaging.limits import Limits
from marsam.imaging.sniff import PROBE_BYTES, sniff

WHITE = (255, 255, 255)


class Rejection(Exception):
    """The file is refused. `reason` is SCREAMING_SNAKE; the message says what is wrong and, where known, what helps."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, kw_only=True)
class Normalised:
    """`image` is a Pillow picture of mode RGB. `notes` names what was done to it (`ORIENTED`, `MATTED`, …)."""

    image: Any
    format: str
    notes: tuple[str, ...]
    provenance: provenance.Provenance


def normalise(data: bytes, *, limits: Limits, alpha: bool = False) -> Normalised:
    """Decode a whole file and bring it to normal form. With `alpha` the picture is how opaque the file's is: white
    where nothing shines through. Raises `Rejection`, and `MemoryError` beyond the worker's memory.

    The order matters: type from content, limits from the header, full decode (`verify()` accepts half a JPEG),
    orientation, sixteen bits to eight, colour profile, matte.
    """
    if len(data) > limits.max_bytes:
        raise Rejection("FILE_TOO_LARGE", f"The file has {len(data):,} bytes; at most {limits.max_bytes:,} are read.")
    kind = sniff(data[:PROBE_BYTES])
    if not kind.format:
        raise Rejection("NOT_AN_IMAGE", f"The file is {kind.label}. {kind.remedy}".strip())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return _decode(data, kind.format, limits, alpha=alpha)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise Rejection("TOO_MANY_PIXELS", f"More than {limits.max_pixels:,} pixels: {error}") from error
        except UnidentifiedImageError as error:
            raise Rejection("BROKEN", f"The file starts like {kind.format} but is not readable as one.") from error
        except (Rejection, MemoryError):
            raise
        except (
            Exception
        ) as error:  # what plug-ins raise on damaged data is nowhere listed: RuntimeError, struct.error, …
            raise Rejection("BROKEN", f"The {kind.format} data is damaged: {error or type(error).__name__}") from error


def _decode(data: bytes, format: str, limits: Limits, *, alpha: bool) -> Normalised:
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    notes: list[str] = []
    with Image.open(io.BytesIO(data), formats=[format]) as image:
        _check_header(image, format, limits)
        if getattr(image, "n_frames", 1) > 1:
            notes.append("FIRST_FRAME_ONLY")
        exif = image.getexif()
        if exif.get(ExifTags.Base.Orientation, 1) in range(2, 9):
            notes.append("ORIENTED")
        origin = provenance.read(exif)
        profile = image.info.get("icc_profile")
        image.load()
        upright = ImageOps.exif_transpose(image)
    eight_bit = _eight_bits(upright, notes)
    opaque = _opacity(eight_bit) if alpha else _matte(_to_srgb(eight_bit, profile, notes), notes)
    return Normalised(image=opaque, format=format, notes=tuple(notes), provenance=origin)


def _check_header(image: Any, format: str, limits: Limits) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise Rejection("BROKEN", "The header states a size of zero.")
    if width * height > limits.max_pixels:
        raise Rejection(
            "TOO_MANY_PIXELS",
            f"{width} × {height} is {width * height:,} pixels; at most {limits.max_pixels:,} are decoded.",
        )
    if max(width, height) > limits.max_side:
        raise Rejection("SIDE_TOO_LONG", f"{width} × {height}: no side may exceed {limits.max_side:,} pixels.")
    if max(width, height) / min(width, height) > limits.max_aspect:
        raise Rejection(
            "ASPECT_TOO_EXTREME", f"{width} × {height}: one side is over {limits.max_aspect:g} times the other."
        )
    frames = getattr(image, "n_frames", 1)
    if frames > limits.max_frames:
        raise Rejection(
            "TOO_MANY_FRAMES", f"The {format} holds {frames} frames; at most {limits.max_frames} are accepted."
        )


def _eight_bits(image: Any, notes: list[str]) -> Any:
    """Grey pictures of 16 bits are scaled by 1/257; Pillow's own conversion clips them at 255 instead."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise Rejection(
                "DEPTH_UNSUPPORTED", "32-bit pixels outside 0–65535: the range of the picture is not known."
            )
        notes.append("SCALED_FROM_16_BIT")
        scaled = Image.fromarray(((values + 128) // 257).astype(np.uint8), mode="L")
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            scaled.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8), mode="L"))
        return scaled
    if image.mode == "F":
        raise Rejection(
            "DEPTH_UNSUPPORTED", "Floating-point pixels: the range of the picture is not known. Export 8 or 16 bits."
        )
    if image.mode == "P" or "transparency" in image.info:
        return image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode == "PA":
        return image.convert("RGBA")
    if image.mode in ("1", "YCbCr"):
        return image.convert("L" if image.mode == "1" else "RGB")
    if image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        raise Rejection("COLOUR_UNSUPPORTED", f"Pixels of kind {image.mode} are not read. Export the picture as RGB.")
    return image


def _to_srgb(image: Any, profile: bytes | None, notes: list[str]) -> Any:
    """RGB or RGBA in sRGB. Without a profile RGB is taken as sRGB, and CMYK is converted by the plain formula."""
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    colour = image
    if alpha is not None and image.mode == "RGBA":
        colour = Image.merge("RGB", image.split()[:3])
    elif alpha is not None:
        colour = image.getchannel("L")
    converted = _apply_profile(colour, profile, notes) if profile else None
    if converted is None:
        if colour.mode == "CMYK":
            notes.append("CMYK_WITHOUT_PROFILE")
        converted = colour.convert("RGB")
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _apply_profile(colour: Any, profile: bytes, notes: list[str]) -> Any | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if colour.mode == "RGB" and "srgb" in ImageCms.getProfileDescription(source).lower():
            return None  # conversion would only add rounding
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(
            colour, source, target, renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        notes.append("PROFILE_UNREADABLE")
        return None
    notes.append("CONVERTED_TO_SRGB")
    return converted


def _opacity(image: Any) -> Any:
    """The alpha channel as a grey picture, all white where there is none."""
    grey = image.getchannel("A") if image.mode in ("LA", "RGBA") else Image.new("L", image.size, 255)
    return grey.convert("RGB")


def _matte(image: Any, notes: list[str]) -> Any:
    """Lay transparent pixels on white: dropping the channel instead would turn them black."""
    if image.mode != "RGBA":
        return image
    if image.getchannel("A").getextrema() != (255, 255):
        notes.append("MATTED_ON_WHITE")
    ground = Image.new("RGBA", image.size, (*WHITE, 255))
    return Image.alpha_composite(ground, image).convert("RGB")
