"""Pictures that the service drew, as files."""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marsam.cli import console
from marsam.client import Image, Preview
from marsam.core.errors import Exhausted, Exists

_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}


def kept(folder: Path, prompt: str, image: Image) -> dict[str, Any]:
    """Writes a picture; gives what is said of it."""
    size = {"width": image.width, "height": image.height}
    return {"path": str(save(folder, prompt, image)), "seed": image.seed, "digest": image.digest, **size}


def print_pictures(images: Sequence[dict[str, Any]]) -> None:
    """A line for each."""
    for image in images:
        console.out().print(f"{image['path']}  seed {image['seed']}", markup=False)


def show_preview(folder: Path, look: Preview) -> None:
    """Writes a look over the one before, so that a viewer that follows the file shows the picture grow."""
    path = folder / f"preview-{look.index}.jpg"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".part")
        fresh.write_bytes(look.data)
        fresh.replace(path)
    except OSError as error:
        raise Exhausted(f"cannot write to {folder}: {error.strerror}", reason="DISK_WRITE_FAILED") from error


def save(folder: Path, prompt: str, image: Image) -> Path:
    """Writes a picture under a name that says what it is; never over another one."""
    letters = "".join(c for c in prompt.lower() if unicodedata.category(c) != "Mn")  # vowel marks are not letters
    words = re.sub(r"\W+", "-", letters).strip("-")[:48] or "picture"
    suffix = _SUFFIXES.get(image.media_type, ".png")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(1000):
            path = folder / f"{words}-{image.seed}{f'-{number}' if number else ''}{suffix}"
            try:
                with path.open("xb") as file:
                    file.write(image.data)
            except FileExistsError:
                if path.read_bytes() == image.data:
                    return path
                continue
            return path
    except OSError as error:
        raise Exhausted(f"cannot write to {folder}: {error.strerror}", reason="DISK_WRITE_FAILED") from error
    raise Exists(f"{folder} holds a thousand pictures of this prompt and seed already")
