"""Which layers of a base the keys of an adapter's file are of, in whatever dialect it was written."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from marsam.core.errors import Invalid, Violation
from marsam.diffusion import dialects
from marsam.diffusion.spec import FamilyFacts
from marsam_trainer.weights import Tensor

MOST_NAMED = 20
"""Unknown keys that a refusal names."""

_KEY = re.compile(
    r"(?P<module>.+)\.(?:lora_(?P<new>[AB])\.weight|lora(?:_linear_layer)?[._](?P<old>down|up)\.weight|(?P<alpha>alpha))"
)
_OTHER_KINDS = (
    (re.compile(r"\.(hada_w[12]_[ab]|hada_t[12])$"), "LoHa (LyCORIS)"),
    (re.compile(r"\.(lokr_w[12](_[ab])?|lokr_t2)$"), "LoKr (LyCORIS)"),
    (re.compile(r"\.(dora_scale|lora_magnitude_vector(\.weight)?)$"), "DoRA"),
    (re.compile(r"\.lora_mid\.weight$"), "LoCon with a Tucker core (LyCORIS)"),
    (re.compile(r"\.(oft_blocks|oft_diag|oft_R(\.weight)?)$"), "OFT"),
    (re.compile(r"\.(a1|a2|b1|b2)\.weight$"), "GLoRA (LyCORIS)"),
    (re.compile(r"\.(diff|diff_b|w_norm|b_norm)$"), "LoRA with whole layers beside its pairs"),
    (re.compile(r"\.on_input$"), "IA3 (LyCORIS)"),
)
_TEXT = ("text_encoder", "text_model.", "lora_te")


@dataclass
class Layer:
    """The keys of one pair: both halves and the alpha, and the base's layers whose rows it holds, in order."""

    parts: tuple[str, ...]
    halves: dict[str, str] = field(default_factory=dict)
    alpha: str = ""


def layers_of(tensors: Mapping[str, Tensor], *, facts: FamilyFacts, base: Collection[str]) -> list[Layer]:
    """The pairs of an adapter's file; `base` are the paths of all layers of the base's denoiser.

    Raises `Invalid`: ADAPTER_KIND for what is no LoRA, by its name; ADAPTER_TEXT_ENCODER; ADAPTER_LAYOUT for a key that
    is no part of a pair; ADAPTER_LAYERS_UNKNOWN when the base lacks a layer, with the keys matched and unknown.
    """
    _refuse_other_kinds(tensors)
    known = dialects.readable(facts, base)
    found: dict[tuple[str, ...], Layer] = {}
    unknown = []
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or (match["alpha"] and tensor.shape not in ((), (1,))):
            raise layout(f"the adapter holds {key!r}, which is no half of a low-rank pair")
        module = match["module"].removeprefix(dialects.PEFT)
        if module.startswith(_TEXT):
            raise Invalid(
                "the adapter also changes the text encoder; Marsam adapts the denoiser only",
                field="files",
                reason="ADAPTER_TEXT_ENCODER",
                remedy="train one on the denoiser alone",
            )
        if not module.startswith(dialects.KOHYA):
            module = module.removeprefix("diffusion_model.").removeprefix(f"{facts.denoiser_folder}.")
        parts = known.get(module)
        if parts is None:
            unknown.append(key)
            continue
        layer = found.setdefault(parts, Layer(parts))
        if match["alpha"]:
            layer.alpha = key
        else:
            layer.halves[match["new"] or {"down": "A", "up": "B"}[match["old"]]] = key
    if unknown:
        raise _unknown(unknown, matched=len(tensors) - len(unknown))
    if not found:
        raise layout("the file holds no tensor of an adapter")
    return list(found.values())


def layout(message: str) -> Invalid:
    """What is said of a file that no adapter's layout fits."""
    return Invalid(
        message,
        field="files",
        reason="ADAPTER_LAYOUT",
        remedy="send adapter_config.json and adapter_model.safetensors as PEFT writes them, or one file as diffusers' "
        "save_lora_weights or sd-scripts does",
    )


def _refuse_other_kinds(keys: Collection[str]) -> None:
    for pattern, name in _OTHER_KINDS:
        count = sum(1 for key in keys if pattern.search(key))
        if count:
            raise Invalid(
                f"this is a {name} adapter ({count} of its {len(keys)} tensors): it cannot be applied here",
                field="files",
                reason="ADAPTER_KIND",
                remedy="train a LoRA",
            )


def _unknown(keys: Sequence[str], *, matched: int) -> Invalid:
    named = keys[:MOST_NAMED]
    rest = f" and {len(keys) - len(named)} more" if len(keys) > len(named) else ""
    return Invalid(
        f"of the adapter's {matched + len(keys)} tensors {matched} are of the base's layers and {len(keys)} are of "
        f"layers that it does not have, {keys[0]} first{rest and ', named below' + rest}",
        field="files",
        reason="ADAPTER_LAYERS_UNKNOWN",
        remedy="name the base that it was trained on; convert a file with another program's layer names with "
        "diffusers: pipe.load_lora_weights(F); pipe.save_lora_weights(FOLDER)",
        violations=[Violation(field=key, message="the base has no such layer", reason="ADAPTER_LAYERS_UNKNOWN")
                    for key in named],
    )  # fmt: skip
