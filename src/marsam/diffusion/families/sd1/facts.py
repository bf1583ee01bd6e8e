"""What is true of Stable Diffusion 1 and 2 shapes, and how a base's own JSON files are read. Imports no torch."""

from collections.abc import Mapping
from typing import Any

from marsam.core.errors import Invalid
from marsam.diffusion.spec import BaseFacts, FamilyFacts

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")

FACTS = FamilyFacts(
    name="sd1",
    title="Stable Diffusion 1 and 2 (UNet, one CLIP text encoder)",
    objectives=("epsilon", "v"),
    side_multiple=8,
    min_side=32,
    max_side=2048,
    targets={
        "attention": _ATTENTION,
        "all": (*_ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut"),
    },
    default_targets="attention",
    # Small, and every error in them reaches every layer.
    keep=("time_embedding", "time_emb_proj"),
    config_files=(
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
    ),
    denoiser_folder="unet",
)

_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}


def read_base(configs: Mapping[str, Mapping[str, Any]]) -> BaseFacts:
    """Read a base's facts from its parsed JSON files, keyed by relative path (`FACTS.config_files`).

    Raises `Invalid` with one violation per fault when this is no base of the family.
    """
    absent = [path for path in FACTS.config_files if path not in configs]
    if absent:
        raise Invalid(
            f"the base lacks {absent[0]}",
            reason="BASE_INCOMPLETE",
            field="base",
            violations=[("base", f"{path} is missing", "BASE_INCOMPLETE") for path in absent],
            remedy="give a folder in diffusers layout with unet, vae, text_encoder, tokenizer and scheduler",
        )
    try:
        return _read(*(configs[path] for path in FACTS.config_files))
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise Invalid(
            f"a JSON file of the base holds what diffusers never writes: {error}",
            reason="BASE_MALFORMED",
            field="base",
            remedy="compare its JSON files with those of the pipeline it was made from",
        ) from error


def _read(
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    text: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
) -> BaseFacts:
    prediction = scheduler.get("prediction_type", "epsilon")
    faults = []
    if unet.get("_class_name") != "UNet2DConditionModel":
        faults.append(("base", f"unet is a {unet.get('_class_name')}, not a UNet2DConditionModel", "BASE_FAMILY"))
    if unet.get("addition_embed_type") is not None:
        faults.append(("base", "the UNet expects added embeddings: this is SDXL, not sd1", "BASE_FAMILY"))
    if prediction not in _PREDICTIONS:
        faults.append(("base", f"prediction type {prediction!r} is not known to sd1", "BASE_OBJECTIVE"))
    if unet.get("in_channels", 4) != vae.get("latent_channels", 4):
        faults.append(("base", "the UNet's channels are not the VAE's (an inpainting base?)", "BASE_CHANNELS"))
    if faults:
        raise Invalid(faults[0][1], reason=faults[0][2], field="base", violations=faults)
    factor = 2 ** (len(vae.get("block_out_channels", (1, 1, 1, 1))) - 1)
    multiple = factor * 2 ** (len(unet.get("block_out_channels", (1, 1, 1, 1))) - 1)
    positions = int(text.get("max_position_embeddings", 77))
    return BaseFacts(
        family=FACTS.name,
        objective=_PREDICTIONS[prediction],
        latent_channels=int(vae.get("latent_channels", 4)),
        latent_factor=factor,
        side_multiple=multiple,
        default_side=int(unet.get("sample_size") or 64) * factor,
        # A tokenizer without a limit says 10^30; the encoder's own positions bound it.
        text_length=min(int(tokenizer.get("model_max_length", positions)), positions),
        text_width=int(text.get("hidden_size", 768)),
        train_steps=int(scheduler.get("num_train_timesteps", 1000)),
        scheduler=dict(scheduler),
    )
