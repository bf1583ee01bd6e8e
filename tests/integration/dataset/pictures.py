"""Pictures drawn for tests: distinct scenes by seed, in any format."""

import io
import json

import numpy as np
from PIL import Image, ImageDraw


def scene(seed: int, size: int = 160) -> Image.Image:
    """A drawing of overlapping shapes; two seeds are never near duplicates."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(int(v) for v in random.integers(0, 256, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(16):
        x, y = (int(v) for v in random.integers(-20, size, 2))
        w, h = (int(v) for v in random.integers(16, size // 2, 2))
        shape = draw.ellipse if random.random() < 0.5 else draw.rectangle
        shape((x, y, x + w, y + h), fill=tuple(int(v) for v in random.integers(0, 256, 3)))
    return image


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format=format, **options)
    return out.getvalue()


def metadata(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
