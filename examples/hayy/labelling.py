"""Labels by eye: what a person sees in generated pictures, beside what the judge reads, so that rates can be corrected.

    python -m hayy.labelling sheets HOME SHEETS --count 200
    (write SHEETS/labels.json: {"1": {"place": "desert", "garment": "thobe", ...}, ...}; "unsure" where you cannot tell)
    python -m hayy.labelling apply SHEETS JUDGE

HOME is a folder of the demo. The sheets show numbered pictures of both models in random order and nothing else: who
labels knows neither the prompt nor the model. `apply` writes the labels into the judge's `judge.json` and keeps them,
with the digests of the pictures, in `examples/hayy/labels.json`.
"""

import argparse
import asyncio
import io
import json
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from marsam.store.content import read_blob
from marsam.store.open import open_store

KEPT = Path(__file__).resolve().parent / "labels.json"
ATTRIBUTES = ("place", "garment", "head_cover", "tool")
COLUMNS, ROWS = 8, 5
#: pixels: a picture is enlarged to SIDE, with a strip for its number above it
SIDE, STRIP = 224, 26


def sheets(home: Path, out: Path, *, count: int, seed: int) -> None:
    """Draw `count` pictures of an evaluation, as many of each model, as numbered sheets, and keep what they are."""
    results = json.loads((home / "results.json").read_text(encoding="utf-8"))
    rng = Random(seed)
    models = len(results["models"])
    chosen: list[dict[str, Any]] = []
    for model in range(models):
        of_model = [picture for picture in results["pictures"] if picture["model"] == model]
        chosen += rng.sample(of_model, min(count // models, len(of_model)))
    rng.shuffle(chosen)
    out.mkdir(parents=True, exist_ok=True)
    prompts = {prompt["id"]: prompt for prompt in results["suite"]["prompts"]}
    key = {
        str(number): {
            "digest": picture["digest"],
            "model": results["models"][picture["model"]],
            "prompt": picture["prompt"],
            "language": picture["language"],
            "expect": prompts[picture["prompt"]].get("expect", {}),
            "forbid": prompts[picture["prompt"]].get("forbid", {}),
            "judge": {name: answer["value"] for name, answer in picture["answers"].items()},
        }
        for number, picture in enumerate(chosen, start=1)
    }
    (out / "key.json").write_text(json.dumps(key, indent=1, ensure_ascii=False), encoding="utf-8")
    pictures = asyncio.run(_read(home, [entry["digest"] for entry in key.values()]))
    per_sheet = COLUMNS * ROWS
    for first in range(0, len(pictures), per_sheet):
        sheet = _sheet(pictures[first : first + per_sheet], first_number=first + 1)
        sheet.save(out / f"sheet-{first // per_sheet + 1:02}.png")


async def _read(home: Path, digests: list[str]) -> list[Image.Image]:
    blobs = open_store(str((home / "store" / "store").absolute()))
    return [Image.open(io.BytesIO(await read_blob(blobs, "default", digest))) for digest in digests]


def _sheet(pictures: list[Image.Image], *, first_number: int) -> Image.Image:
    sheet = Image.new("RGB", (COLUMNS * SIDE, ROWS * (SIDE + STRIP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
    for index, picture in enumerate(pictures):
        left, top = (index % COLUMNS) * SIDE, (index // COLUMNS) * (SIDE + STRIP)
        sheet.paste(picture.convert("RGB").resize((SIDE - 6, SIDE - 6), Image.Resampling.BICUBIC), (left, top + STRIP))
        draw.text((left + 6, top + 2), str(first_number + index), fill="black", font=font)
    return sheet


def apply(folder: Path, judge: Path) -> None:
    """Join key and labels; write them into the judge's record and into the file that is kept.

    Raises ValueError that names the numbers whose labels are missing or unknown.
    """
    key = json.loads((folder / "key.json").read_text(encoding="utf-8"))
    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    record = json.loads((judge / "judge.json").read_text(encoding="utf-8"))
    known = {name: {*record["attributes"][name]["renders"]["values"], "unsure"} for name in ATTRIBUTES}
    wrong = [
        f"{number}.{name}"
        for number in key
        for name in ATTRIBUTES
        if labels.get(number, {}).get(name) not in known[name]
    ]
    if wrong:
        raise ValueError(f"labels that are missing or that no attribute has: {', '.join(wrong[:20])}")
    kept = {number: {**entry, "human": labels[number]} for number, entry in key.items()}
    record["agreement"] = [
        {"expect": entry["expect"], "forbid": entry["forbid"], "human": entry["human"], "judge": entry["judge"]}
        for entry in kept.values()
    ]
    (judge / "judge.json").write_text(json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    KEPT.write_text(json.dumps(kept, ensure_ascii=False, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    for name in ATTRIBUTES:
        told = [entry for entry in kept.values() if entry["human"][name] != "unsure"]
        same = sum(entry["human"][name] == entry["judge"].get(name) for entry in told)
        print(f"{name}: judge and eye agree on {same} of {len(told)} ({len(kept) - len(told)} not told by eye)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    draw = commands.add_parser("sheets")
    draw.add_argument("home", type=Path)
    draw.add_argument("out", type=Path)
    draw.add_argument("--count", type=int, default=200)
    draw.add_argument("--seed", type=int, default=7)
    join = commands.add_parser("apply")
    join.add_argument("folder", type=Path)
    join.add_argument("judge", type=Path)
    options = parser.parse_args()
    if options.command == "sheets":
        sheets(options.home, options.out, count=options.count, seed=options.seed)
    else:
        apply(options.folder, options.judge)


if __name__ == "__main__":
    main()
