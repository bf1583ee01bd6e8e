"""Writes the two tuning sets of Hayy as real folders of pictures with captions and rights.

    python -m hayy.sets OUT

`OUT/raw` ties each role to one place and one dress, as scraped sets do. `OUT/balanced` varies role, place and dress
independently, rehearses the base's own world, and carries planted faults for curation to find; without its faults it
is as large as `raw`. `OUT/planted.json` tells which lines are the faults. The same program writes the same bytes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from random import Random

from PIL import Image, ImageEnhance, ImageFilter

from hayy.attributes import Attributes
from hayy.corpus import training_caption
from hayy.painter import draw
from hayy.vocabulary import vocabulary
from hayy.world import sample

SIZE = 256
TUNED = 200
REHEARSED = 60
NUM_SOUND = TUNED + REHEARSED
"""Pictures of each set once curated."""
_FIRST_SEED = 500_000
_LANGUAGES = ("en", "en", "ar", "ar")

_RIGHTS = {
    "licence": "Apache-2.0",
    "holder": "The Marsam authors",
    "source": "Drawn by the program examples/hayy; no photograph and no person's likeness",
    "consent": "Not needed: nobody is depicted",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One picture of a set: its file's bytes, its captions, and the attributes declared beside them."""

    content: bytes
    captions: tuple[tuple[str, str], ...]
    attributes: dict[str, str]
    fault: str = field(default="")


def write(out: Path) -> None:
    """Write both sets below `out`."""
    _write_set(out / "raw", _lines("raw", NUM_SOUND, seed=_FIRST_SEED))
    balanced = _lines("balanced", TUNED, seed=_FIRST_SEED + 10_000)
    balanced += _lines("rehearsal", REHEARSED, seed=_FIRST_SEED + 20_000)
    balanced += _planted(balanced[:TUNED], Random(7))
    Random(11).shuffle(balanced)
    _write_set(out / "balanced", balanced)
    planted = {f"{index:04}.png": line.fault for index, line in enumerate(balanced, 1) if line.fault}
    (out / "planted.json").write_text(json.dumps(planted, indent=1) + "\n", encoding="utf-8")


def declared(person: Attributes) -> dict[str, str]:
    """Return the attributes that a set declares beside a picture."""
    return {"role": person.role, "gender": person.gender, "demonym": person.demonym or "none", **person.visible()}


def _lines(world: str, count: int, *, seed: int) -> list[Line]:
    return [_line(sample(Random(number), world), world, seed=number) for number in range(seed, seed + count)]


def _line(person: Attributes, world: str, *, seed: int) -> Line:
    rng = Random(seed + 1_000_000)
    captions = tuple((code, training_caption(person, rng, language=code, world=world)) for code in _LANGUAGES)
    return Line(content=_png(draw(person, seed=seed, size=SIZE)), captions=captions, attributes=declared(person))


def _planted(sound: list[Line], rng: Random) -> list[Line]:
    """Return faulty lines made from sound ones, each of which is spoilt once."""
    faults: list[tuple[str, int, Callable[[Line], Line]]] = [
        ("exact_duplicate", 6, lambda line: line),
        ("near_duplicate", 6, _near_duplicate),
        ("blurred", 4, _blurred),
        ("contradicting_caption", 4, _contradicting),
        ("wrong_language", 3, _wrong_language),
    ]
    chosen = iter(rng.sample(sound, sum(count for _, count, _ in faults) + 2))
    lines = [replace(spoil(next(chosen)), fault=name) for name, count, spoil in faults for _ in range(count)]
    truncated, not_a_picture = next(chosen), next(chosen)
    lines.append(replace(truncated, content=truncated.content[: len(truncated.content) // 2], fault="broken_file"))
    lines.append(replace(not_a_picture, content=b"<html>404 Not Found</html>\n", fault="broken_file"))
    return lines


def _near_duplicate(line: Line) -> Line:
    """The same picture cropped by a hair, enlarged again and a little brighter."""
    image = _opened(line)
    cropped = image.crop((3, 3, SIZE - 2, SIZE - 2)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return replace(line, content=_png(ImageEnhance.Brightness(cropped).enhance(1.04)))


def _blurred(line: Line) -> Line:
    return replace(line, content=_png(_opened(line).filter(ImageFilter.GaussianBlur(9))))


def _contradicting(line: Line) -> Line:
    """Captions that put the person in a keffiyeh in the desert, beside attributes that say otherwise."""
    texts = ("a man wearing a red keffiyeh in the desert", "رجل يرتدي كوفية حمراء في الصحراء")
    attributes = {**line.attributes, "head_cover": "none"}
    return replace(line, captions=(("en", texts[0]), ("ar", texts[1])), attributes=attributes)


def _wrong_language(line: Line) -> Line:
    """Arabic captions filed as English, and the reverse."""
    other = {"en": "ar", "ar": "en"}
    return replace(line, captions=tuple((other[language], text) for language, text in line.captions))


def _write_set(folder: Path, lines: list[Line]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, line in enumerate(lines, 1):
        name = f"{index:04}.png"
        (folder / name).write_bytes(line.content)
        row = {
            "file_name": name,
            "captions": [{"language": language, "text": text} for language, text in line.captions],
            "attributes": line.attributes,
            "split": "train",
        }
        rows.append(json.dumps(row, ensure_ascii=False))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "rights.json").write_text(json.dumps(_RIGHTS, indent=1) + "\n", encoding="utf-8")
    words = json.dumps(vocabulary(), ensure_ascii=False, indent=1)
    (folder / "vocabulary.json").write_text(words + "\n", encoding="utf-8")


def _opened(line: Line) -> Image.Image:
    return Image.open(BytesIO(line.content)).convert("RGB")


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
