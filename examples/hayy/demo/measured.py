"""What the raw set would have done, measured once by `make demo-full` and told in the report of every `make demo`.

python -m hayy.demo.measured .demo/results-full.json     (writes examples/hayy/measured.json)
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parent.parent / "measured.json"

#: group of the suite, measure -> how the note says it
SAID = {
    ("unseen_roles", "as_asked"): "roles never tuned came out with everything as asked",
    ("asked_keffiyeh", "as_asked"): "a keffiyeh asked for by name came out with everything as asked",
    ("unrelated", "as_asked"): "prompts that name no origin came out with everything as asked",
}


def notes() -> list[str]:
    """The paragraphs for the report; none before a full run was recorded."""
    if not FILE.exists():
        return []
    found: list[str] = json.loads(FILE.read_text(encoding="utf-8"))["notes"]
    return found


def note(results: Mapping[str, Any]) -> str:
    """One paragraph that sets the raw set beside the balanced one, both tuned by LoRA.

    Raises ValueError when the results hold no such pair.
    """
    index = {title.rpartition(" ")[2]: number for number, title in enumerate(results["model_titles"])}
    if not {"raw-lora", "balanced-lora"} <= index.keys():
        raise ValueError(f"needs a raw-lora and a balanced-lora model, got: {', '.join(index)}")
    said = "; ".join(
        f"{words} in {_rate(results, index['raw-lora'], *key)} with the raw set"
        f" and in {_rate(results, index['balanced-lora'], *key)} with the balanced one"
        for key, words in SAID.items()
    )
    return (
        "What the raw set would have done: it has as many pictures, but each role stands in one place only, and it"
        " holds no pictures of the old world. Tuned on it by the same method, steps and seed, in a separate measurement"
        f" ({results['create_time'][:10]}): {said}."
    )


def _rate(results: Mapping[str, Any], model: int, group: str, measure: str) -> str:
    cell = next(
        cell
        for cell in results["cells"]
        if (cell["model"], cell["group"], cell["measure"], cell["language"]) == (model, group, measure, "")
    )
    low, high = cell["interval"]["low"], cell["interval"]["high"]
    return f"{cell['yes']} of {cell['n']} ({100 * low:.0f}–{100 * high:.0f} %)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    results = json.loads(parser.parse_args().results.read_text(encoding="utf-8"))
    FILE.write_text(json.dumps({"notes": [note(results)]}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(FILE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
