"""PNG out: pixels and, in iTXt, the request that made them, so that a picture can be made again from itself."""

import io

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

PNG_LEVEL = 4
"""zlib effort: 6 takes twice the time for one percent."""

REQUEST_KEY = "marsam:request"
"""Keyword of the iTXt chunk that holds the resolved request as JSON (UTF-8: prompts are in any language)."""


def encode(pixels: torch.Tensor, request_json: str, seed: int) -> bytes:
    """PNG of pixels (H, W, 3) uint8. The same pixels and request give the same bytes. Blocking; runs off the event
    loop.
    """
    height, width, _ = pixels.shape
    info = PngInfo()
    info.add_itxt(REQUEST_KEY, request_json, zip=True)
    info.add_itxt("marsam:seed", str(seed))
    # IPTC's term for pictures made by a trained model; https://cv.iptc.org/newscodes/digitalsourcetype/
    info.add_itxt("Digital Source Type", "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia")
    image = Image.frombytes("RGB", (width, height), pixels.numpy().tobytes())
    out = io.BytesIO()
    image.save(out, format="PNG", compress_level=PNG_LEVEL, pnginfo=info)
    return out.getvalue()
