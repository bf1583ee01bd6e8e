"""Pixels as a file, PNG, JPEG or WebP, with what made them inside, so that a picture can be made again from itself."""

import io
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from marsam.imaging.inscription import Inscription

PNG_LEVEL = 4
"""zlib effort: 6 takes twice the time for one percent."""

WEBP_LEVEL = {"method": 1, "quality": 20}
"""Effort of lossless WebP: libwebp's own default takes three times as long, for nothing."""

QUALITY = 90
"""Of JPEG, where nothing is said."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a picture is written as. `quality` is 1 to 100; None is without loss."""

    kind: Literal["png", "jpeg", "webp"] = "png"
    quality: int | None = None

    @property
    def media_type(self) -> str:
        """`image/png` and its kin."""
        return f"image/{self.kind}"

    @property
    def suffix(self) -> str:
        """What its files end with."""
        return {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}[self.kind]


def encode(pixels: torch.Tensor, inscription: Inscription, form: Form) -> bytes:
    """Pixels (H, W, 3) uint8 as a file. The same pixels, inscription and form give the same bytes. Blocking; runs off
    the event loop.
    """
    height, width, _ = pixels.shape
    image = Image.frombytes("RGB", (width, height), pixels.numpy().tobytes())
    packet = inscription.packet()
    out = io.BytesIO()
    if form.kind == "png":
        image.save(out, format="PNG", compress_level=PNG_LEVEL, pnginfo=_texts(inscription, packet))
    elif form.kind == "jpeg":
        # Colours at full size: saturated edges are what drawings have more of than photographs.
        image.save(out, format="JPEG", quality=form.quality, subsampling=0, xmp=packet)
    elif form.quality is None:
        image.save(out, format="WEBP", lossless=True, xmp=packet, **WEBP_LEVEL)
    else:
        image.save(out, format="WEBP", quality=form.quality, xmp=packet)
    return out.getvalue()


def _texts(inscription: Inscription, packet: bytes) -> PngInfo:
    info = PngInfo()
    info.add_itxt("marsam:request", inscription.request, zip=True)
    info.add_itxt("marsam:seed", str(inscription.seed))
    info.add_itxt("marsam:models", inscription.models_json)
    info.add_itxt("Digital Source Type", inscription.source_type)
    info.add_itxt("XML:com.adobe.xmp", packet.decode())
    return info
