"""`marsam generate --from`: what a picture says made it, and what is said on the command line before that."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from marsam.client import AsyncMarsam
from marsam.client.files import read_whole
from marsam.client.remaking import Remake, remake


def asked(picture: Path | None, said: Mapping[str, Any]) -> tuple[dict[str, Any], Remake | None]:
    """The arguments of `Generation.generate` from a picture, where there is one, under what was `said`. Raises as
    `remake` does."""
    origin = remake(read_whole(picture, field="picture")) if picture is not None else None
    found = dict(origin.arguments) if origin is not None else {}
    if "init_image" in said:
        found.pop("mask_image", None)  # it was of another picture
    if "format" in said:
        found.pop("quality", None)
    found |= said
    return found, origin


async def changed(marsam: AsyncMarsam, origin: Remake | None, generation: str) -> list[str]:
    """Why the picture that was drawn is not the one that it was made from, as far as models tell."""
    if origin is None or not generation:
        return []
    now = dict((await marsam.generation.get(generation)).model_digests)
    return [
        f"{name} is another model than the one that made the picture: {now[name]}, not {digest}"
        for name, digest in origin.models.items()
        if now.get(name, digest) != digest
    ]
