"""A checkpoint in one file → parts of a base in diffusers' layout, by diffusers' own converters of names.

One part after another, straight from the mapped file: what a converter only renames is never copied into memory.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders import single_file_model, single_file_utils
from safetensors import safe_open

from marsam.core.errors import Corrupt, Invalid
from marsam.diffusion import registry
from marsam.diffusion.basefiles import INDEX, read_json
from marsam.diffusion.onefile.facts import DENOISER, Held, of_part
from marsam.diffusion.weights.net import save

Tensors = dict[str, torch.Tensor]

_ENCODERS = {
    "CLIPTextModel": transformers.CLIPTextModel,
    "CLIPTextModelWithProjection": transformers.CLIPTextModelWithProjection,
    "T5EncoderModel": transformers.T5EncoderModel,
}
"""Classes of text encoders that files have. An index is a stranger's: it names one of these or nothing."""

_OPEN_CLIP = ".model."
"""What the names of an encoder in OpenCLIP's own layout begin with ends so; others only need that taken off."""

_NO_PROJECTION = "text_encoders.clip_l.transformer."
"""Of this encoder SD3 and FLUX.1 take the vector before its projection, which ComfyUI's files have all the same:
diffusers gives SD3's one that changes nothing, and FLUX.1's none."""

_PROJECTION = "text_projection.weight"

_BUFFERS = ("position_ids", "logit_scale", "attn_mask")
"""Last names of what no class keeps among its weights."""

_TEXT = "text_model."
"""What the names of CLIP's tensors begin with in published files, though not in every class."""

_SHOWN = 3


def convert(file: Path, held: Held, configs: Path, into: Path) -> Iterator[str]:
    """Write the parts of the checkpoint `file` below `into`, one after another, as one safetensors file each, and yield
    their paths below it. `configs` has the configurations of those parts, in diffusers' layout.

    The same file gives the same bytes; every tensor keeps its dtype. Raises Invalid (ONE_FILE_PART) for a part that
    cannot be converted, Corrupt (ONE_FILE_MISMATCH) for one that does not fit its configuration.
    """
    facts = registry.family_facts(held.family)
    with safe_open(file, framework="pt", device="cpu") as opened:
        names = list(opened.keys())
        for part, prefix in held.parts.items():
            tensors = {name: opened.get_tensor(name) for name in of_part(names, prefix)}
            text = part in facts.text_folders
            model = _encoder(configs, part) if text else _model(configs, part)
            found = _converted(part, _encoders if text else _models, tensors, model, prefix)
            path = f"{part}/{'model' if text else 'diffusion_pytorch_model'}.safetensors"
            (into / part).mkdir(parents=True)
            save(_checked(part, found, model), into / path, metadata={"format": "pt"})
            yield path


def _model(configs: Path, part: str) -> Any:
    """A denoiser or VAE on the meta device. Raises Invalid where diffusers has no converter for its class."""
    config = read_json(configs / part / "config.json")
    name = str(config.get("_class_name"))
    if name not in single_file_model.SINGLE_FILE_LOADABLE_CLASSES:
        raise _unknown(part, name)
    with torch.device("meta"):
        return getattr(diffusers, name).from_config(config)


def _encoder(configs: Path, part: str) -> Any:
    entry = read_json(configs / INDEX).get(part)
    name = str(entry[1]) if isinstance(entry, list) and len(entry) == 2 else "nothing"
    if name not in _ENCODERS:
        raise _unknown(part, name)
    cls = _ENCODERS[name]
    with torch.device("meta"):
        return cls(cls.config_class.from_dict(read_json(configs / part / "config.json")))


def _unknown(part: str, name: str) -> Invalid:
    return Invalid(
        f"the file holds a {part}, and files with a {name} cannot be converted",
        field="files",
        reason="ONE_FILE_PART",
        remedy="take the file with the diffusion model alone",
    )


def _converted(
    part: str, work: Callable[[Tensors, Any, str], Tensors], tensors: Tensors, model: Any, prefix: str
) -> Tensors:
    """What a converter makes. It takes for granted that the file has all it looks for, in the sizes it knows."""
    try:
        return work(tensors, model, prefix)
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise Corrupt(
            f"the file's {part} lacks what every one has: {type(error).__name__}: {error}",
            reason="ONE_FILE_MISMATCH",
            field="files",
            remedy="compare the file's sha256 with its author's",
        ) from error


def _models(tensors: Tensors, model: Any, prefix: str) -> Tensors:
    bare = {name.removeprefix(prefix): value for name, value in tensors.items()}
    if bare.keys() == model.state_dict().keys():
        return bare
    work = single_file_model.SINGLE_FILE_LOADABLE_CLASSES[type(model).__name__]["checkpoint_mapping_fn"]
    # Two converters look for prefixes, one does not bear them, the others do not mind.
    if work is single_file_utils.convert_ldm_vae_checkpoint:
        return work(tensors, config=dict(model.config))
    if work is single_file_utils.convert_ldm_unet_checkpoint:
        bare = {f"{DENOISER}{name}": value for name, value in bare.items()}
    return work(bare, config=dict(model.config))


def _encoders(tensors: Tensors, model: Any, prefix: str) -> Tensors:
    if prefix.endswith(_OPEN_CLIP):
        found = single_file_utils.convert_open_clip_checkpoint(model, tensors, prefix=prefix)
    else:
        found = single_file_utils.convert_ldm_clip_checkpoint(tensors, remove_prefix=prefix)
    if prefix == _NO_PROJECTION:
        found.pop(_PROJECTION, None)
        if (projection := getattr(model, "text_projection", None)) is not None:
            some = next(iter(found.values()))
            found[_PROJECTION] = torch.eye(*projection.weight.shape, dtype=some.dtype)
    return found


def _checked(part: str, found: Mapping[str, torch.Tensor], model: Any) -> Tensors:
    """The tensors of a part, if they are those of its class in name and shape."""
    found = {name: value for name, value in found.items() if name.rpartition(".")[2] not in _BUFFERS}
    wanted = {name.removeprefix(_TEXT): tuple(value.shape) for name, value in model.state_dict().items()}
    shapes = {name.removeprefix(_TEXT): tuple(value.shape) for name, value in found.items()}
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    missing = sorted(wanted.keys() - shapes.keys() - tied)
    surplus = sorted(shapes.keys() - wanted.keys())
    shaped = sorted(name for name in wanted.keys() & shapes.keys() if wanted[name] != shapes[name])
    if missing or surplus or shaped:
        shown = [
            *(f"{name} is missing" for name in missing[:_SHOWN]),
            *(f"{name} is unknown" for name in surplus[:_SHOWN]),
            *(f"{name} has shape {shapes[name]}, not {wanted[name]}" for name in shaped[:_SHOWN]),
        ]
        raise Corrupt(
            f"the file's {part} does not fit its configuration: {len(missing)} tensors missing, {len(surplus)} unknown,"
            f" {len(shaped)} of another shape; {', '.join(shown)}",
            reason="ONE_FILE_MISMATCH",
            field="files",
            remedy="name a base of the same architecture in like (--like)",
        )
    return {name: value.contiguous() for name, value in found.items()}
