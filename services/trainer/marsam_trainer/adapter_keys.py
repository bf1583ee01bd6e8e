"""Which layers of a base the keys of an adapter's file are of, in whatever dialect it was written."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from marsam.core.errors import Invalid, Violation
from marsam.diffusion import dialects
from marsam.diffusion.encoders import layer_path
from marsam.diffusion.spec import FamilyFacts
from marsam_trainer.weights import Tensor

MOST_NAMED = 20
"""Unknown keys that a refusal names."""

_KEY = re.compile(
    r"(?P<module>.+)\.(?:lora_(?P<new>[AB])\.weight|lora(?:_linear_layer)?[._](?P<old>down|up)\.weight|(?P<alpha>alpha)"
    r"|(?P<lengths>dora_scale|lora_magnitude_vector(\.weight)?))"
)
_OTHER_KINDS = (
    (re.compile(r"\.(hada_w[12]_[ab]|hada_t[12])$"), "LoHa (LyCORIS)"),
    (re.compile(r"\.(lokr_w[12](_[ab])?|lokr_t2)$"), "LoKr (LyCORIS)"),
    (re.compile(r"\.lora_mid\.weight$"), "LoCon with a Tucker core (LyCORIS)"),
    (re.compile(r"\.(oft_blocks|oft_diag|oft_R(\.weight)?)$"), "OFT"),
    (re.compile(r"\.(a1|a2|b1|b2)\.weight$"), "GLoRA (LyCORIS)"),
    (re.compile(r"\.(diff|diff_b|w_norm|b_norm)$"), "LoRA with whole layers beside its pairs"),
    (re.compile(r"\.on_input$"), "IA3 (LyCORIS)"),
)
_TEXT = ("text_encoder", "text_model.", "lora_te")


@dataclass
class Layer:
    """The keys of one pair: both halves, the alpha and DoRA's lengths, and the base's layers whose rows it holds, in
    order. `folder` is that of the text encoder whose layers they are, '' of the denoiser's."""

    folder: str
    parts: tuple[str, ...]
    halves: dict[str, str] = field(default_factory=dict)
    alpha: str = ""
    lengths: str = ""


def layers_of(
    tensors: Mapping[str, Tensor], *, facts: FamilyFacts, base: Mapping[str, Collection[str]], folder: str = ""
) -> list[Layer]:
    """The pairs of an adapter's file. `base` are the paths of all layers of the base's denoiser (under '') and of its
    text encoders, by folder; `folder` says whose layers are meant where a name does not.

    Raises `Invalid`: ADAPTER_KIND for what is neither LoRA nor DoRA, by its name; ADAPTER_TEXT_ENCODER for a text
    encoder that takes none; ADAPTER_LAYOUT for a key that is no part of a pair; ADAPTER_LAYERS_UNKNOWN when the base
    lacks a layer, with the keys matched and unknown.
    """
    _refuse_other_kinds(tensors)
    known = {
        part: dialects.readable_of_encoder(facts, part, layers) if part else dialects.readable(facts, layers)
        for part, layers in base.items()
    }
    found: dict[tuple[str, tuple[str, ...]], Layer] = {}
    unknown = []
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or (match["alpha"] and tensor.shape not in ((), (1,))):
            raise layout(f"the adapter holds {key!r}, which is no part of a low-rank pair")
        part, module = _place(match["module"].removeprefix(dialects.PEFT), facts, folder)
        parts = known.get(part, {}).get(module)
        if parts is None:
            unknown.append(key)
            continue
        layer = found.setdefault((part, parts), Layer(part, parts))
        half = match["new"] or {"down": "A", "up": "B"}.get(match["old"], "")
        twin = layer.halves.get(half, "") if half else layer.alpha if match["alpha"] else layer.lengths
        if twin:
            raise layout(f"the adapter holds {twin!r} and {key!r}, two names of one tensor")
        if half:
            layer.halves[half] = key
        elif match["alpha"]:
            layer.alpha = key
        else:
            layer.lengths = key
    if unknown:
        raise _unknown(unknown, matched=len(tensors) - len(unknown))
    if not found:
        raise layout("the file holds no tensor of an adapter")
    return list(found.values())


def _place(module: str, facts: FamilyFacts, folder: str) -> tuple[str, str]:
    """The folder of the text encoder that a name speaks of, or '', and what it calls the layer there."""
    for part, encoder in facts.encoders.items():
        if module.startswith(f"{part}."):
            return part, layer_path(module)
        if encoder.prefix and module.startswith(encoder.prefix):
            return part, module
    if folder:
        return folder, layer_path(module)
    if module.startswith(_TEXT):
        able = ", ".join(facts.encoders)
        raise Invalid(
            f"the adapter changes a text encoder as well ({module}), which {facts.name} puts no adapter on",
            field="files",
            reason="ADAPTER_TEXT_ENCODER",
            remedy=f"train one on the denoiser{f' and {able}' if able else ''} alone",
        )
    if not module.startswith(dialects.KOHYA):
        module = module.removeprefix("diffusion_model.").removeprefix(f"{facts.denoiser_folder}.")
    return "", module


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
