"""PNG out: the same pixels give the same bytes, and nothing but pixels goes in."""

import hashlib
import io
from typing import Any

from PIL import Image

PNG_LEVEL = 1
"""zlib effort. On a noisy 1 Mpx photograph level 1 takes 66 ms; 4 takes 154 for 14 % fewer bytes; 6 gains no more."""


def png(image: Any) -> bytes:
    """PNG bytes of a Pillow picture of mode RGB, without any metadata. Deterministic for one version of Pillow and
    zlib.
    """
    bare = Image.frombytes("RGB", image.size, image.tobytes())
    out = io.BytesIO()
    bare.save(out, format="PNG", compress_level=PNG_LEVEL, optimize=False)
    return out.getvalue()


def pixel_digest(width: int, height: int, rgb: bytes) -> str:
    """`sha256:…` of the size and the RGB bytes: equal for equal pixels, however the file was compressed."""
    digest = hashlib.sha256(f"rgb8 {width}x{height}\n".encode())
    digest.update(rgb)
    return f"sha256:{digest.hexdigest()}"
