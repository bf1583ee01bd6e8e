"""Which parts of a base a method tunes, and what their parameters are called. Imports no torch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from marsam.core.errors import Invalid, Precondition
from marsam.diffusion.method import Kind, MethodFacts, Setting
from marsam.diffusion.spec import Components, FamilyFacts, Part

if TYPE_CHECKING:
    from torch.nn import Module

TEXT_ENCODERS = Setting(
    name="text_encoders", type=bool, default=False, help="tune the text encoders beside the denoiser"
)
IMAGE_DECODER = Setting(
    name="image_decoder", type=bool, default=False, help="tune the image coder's decoder beside the denoiser"
)
"""For methods that can tune them."""

DECODERS = ("decoder.", "post_quant_conv.")
"""What the names of an image coder's weights on the way from a latent to a picture begin with."""


def parts_of(params: Mapping[str, Any]) -> frozenset[Part]:
    """The parts of a base that are in memory while it is tuned, by a method's checked parameters."""
    asked = {Part.TEXT: params["text_encoders"], Part.IMAGE: params.get("image_decoder", False)}
    return frozenset({Part.DENOISER, *(part for part, wanted in asked.items() if wanted)})


def check(params: Mapping[str, Any], method: MethodFacts, family: FamilyFacts) -> None:
    """Raise `Invalid` (PARAMETER_UNSUITED) when a method is asked to tune what it cannot of a family."""
    if params.get("text_encoders") and not _encoders(family, whole=method.kind is Kind.FULL):
        raise Invalid(
            f"{method.name} does not tune the text encoder of {family.name}, a language model that recipes leave as "
            "it is",
            field="method_params.text_encoders",
            reason="PARAMETER_UNSUITED",
            remedy="leave text_encoders out, or put an adapter on it (method lora)",
        )


def modules(
    parts: Components, family: FamilyFacts, method: MethodFacts, params: Mapping[str, Any]
) -> "dict[str, Module]":
    """What is tuned of a loaded base, by folder, the denoiser first. Raises `Precondition` when a part is not
    loaded."""
    folders = _encoders(family, whole=method.kind is Kind.FULL) if params["text_encoders"] else ()
    found = {family.denoiser_folder: parts.denoiser, **{folder: parts.text.get(folder) for folder in folders}}
    if params.get("image_decoder"):
        found[family.image_folders[0]] = parts.image_coder
    absent = sorted(folder for folder, module in found.items() if module is None)
    if absent:
        raise Precondition(f"{absent[0]} is to be tuned and not loaded", reason="PART_NOT_LOADED")
    return {folder: module for folder, module in found.items() if module is not None}


def named(family: FamilyFacts, folder: str, parameter: str) -> str:
    """What a parameter of the part in `folder` is called among all that trains: the denoiser's by their own names,
    others' below their folder's."""
    return parameter if folder == family.denoiser_folder else f"{folder}.{parameter}"


def idle_names(family: FamilyFacts, folder: str) -> tuple[str, ...]:
    """The names of the modules of the part in `folder` that never train (`FamilyFacts.idle`, `TunedEncoder.idle`)."""
    return family.idle if folder == family.denoiser_folder else family.encoders[folder].idle


def decodes(family: FamilyFacts, parameter: str) -> bool:
    """Whether a weight of the image coder trains with its decoder: the encoder never does, so that latents keep their
    meaning."""
    return parameter.startswith(DECODERS) and not any(part in family.still for part in parameter.split("."))


def _encoders(family: FamilyFacts, *, whole: bool) -> tuple[str, ...]:
    return tuple(folder for folder, encoder in family.encoders.items() if encoder.whole or not whole)
