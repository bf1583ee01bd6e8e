"""How a family reads the JSON files of a base: what is missing, and what no pipeline ever wrote, is told the same way
for all. Imports no torch."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from marsam.core.errors import Invalid
from marsam.diffusion.spec import BaseFacts, FamilyFacts

INDEX = "model_index.json"
"""The file that names a base's parts."""

Config = Mapping[str, Any]
Fault = tuple[str, str]
"""What is wrong, and its reason."""


def read(facts: FamilyFacts, configs: Mapping[str, Config], make: Callable[..., BaseFacts]) -> BaseFacts:
    """`make` of the parsed files, in the order of `facts.config_files`.

    Raises `Invalid` (BASE_INCOMPLETE) with a violation for every file that is missing, (BASE_MALFORMED) when `make`
    stumbles over what they hold.
    """
    absent = [path for path in facts.config_files if path not in configs]
    if absent:
        folders = sorted({path.split("/")[0] for path in facts.config_files})
        raise Invalid(
            f"the base lacks {absent[0]}",
            reason="BASE_INCOMPLETE",
            field="base",
            violations=[("base", f"{path} is missing", "BASE_INCOMPLETE") for path in absent],
            remedy=f"give a folder in diffusers layout with {', '.join(folders)}",
        )
    try:
        return make(*(configs[path] for path in facts.config_files))
    except (TypeError, ValueError, OverflowError, AttributeError, KeyError, IndexError, ZeroDivisionError) as error:
        raise Invalid(
            f"a JSON file of the base holds what diffusers never writes: {error}",
            reason="BASE_MALFORMED",
            field="base",
            remedy="compare its JSON files with those of the pipeline it was made from",
        ) from error


def class_fault(part: str, config: Config, wanted: str) -> list[Fault]:
    """The fault of a part that is of another class than `wanted`, if it is."""
    found = config.get("_class_name")
    return [] if found == wanted else [(f"{part} is a {found}, not a {wanted}", "BASE_FAMILY")]


def text_fault(part: str, config: Config, wanted: str) -> list[Fault]:
    """The fault of a text encoder of another `model_type` than `wanted`, if it is. Its class does not tell: the same
    weights come with heads and without."""
    found = config.get("model_type")
    return [] if found == wanted else [(f"{part} is a {found}, not a {wanted}", "BASE_FAMILY")]


def present(index: Config, part: str) -> bool:
    """Whether a base has a part, by its index: one that is left out is named with nulls, or not at all."""
    entry = index.get(part)
    return isinstance(entry, list) and any(entry)


def few_steps(scheduler: Config) -> bool:
    """Whether a base's own scheduler says that it was distilled to draw in a few steps.

    It is one of consistency models, or its steps are counted from the end of the noise (`trailing`) though the base
    predicts noise, whose levels never end in noise alone. So it is with SDXL-Turbo and SD-Turbo, whose files say no
    more than that.
    """
    if scheduler.get("_class_name") in ("LCMScheduler", "TCDScheduler"):
        return True
    noise = scheduler.get("prediction_type", "epsilon") == "epsilon" and not scheduler.get("rescale_betas_zero_snr")
    return noise and scheduler.get("timestep_spacing") == "trailing"


def refuse(faults: list[Fault]) -> None:
    """Raise `Invalid` with every fault, if there are any."""
    if faults:
        raise Invalid(
            faults[0][0], reason=faults[0][1], field="base", violations=[("base", text, why) for text, why in faults]
        )


def image_factor(vae: Config) -> int:
    """Pixels per latent cell along a side: an AutoencoderKL halves its picture between its blocks."""
    return int(2 ** (len(vae.get("block_out_channels", (1, 1, 1, 1))) - 1))


def text_length(tokenizer: Config, positions: int) -> int:
    """Tokens that fit into an encoder of so many positions. A tokenizer without a limit says 10^30."""
    return min(int(tokenizer.get("model_max_length", positions)), positions)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `Invalid` (BASE_INCOMPLETE)."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Invalid(
            f"{path.parent.name}/{path.name} cannot be read: {error}", field="base", reason="BASE_INCOMPLETE"
        ) from error
    if not isinstance(value, dict):
        raise Invalid(f"{path.parent.name}/{path.name} is not a JSON object", field="base", reason="BASE_INCOMPLETE")
    return value
