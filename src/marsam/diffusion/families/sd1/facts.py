"""What is true of Stable Diffusion 1 and 2 shapes, and how a base's own JSON files are read. Imports no torch."""

from collections.abc import Mapping

from marsam.diffusion import basefiles
from marsam.diffusion.encoders import clip
from marsam.diffusion.onefile.facts import OneFile, Reference
from marsam.diffusion.spec import BaseFacts, FamilyFacts, Kohya

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
    # sd-scripts trains diffusers' own UNet here.
    kohya=Kohya(network="networks.lora", layers=lambda layers: {layer: (layer,) for layer in layers}),
    text_folders=("text_encoder", "tokenizer"),
    encoders={"text_encoder": clip("lora_te_")},
)

_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}

ONE_FILE = OneFile(
    has=("input_blocks.0.0.weight", "time_embed.0.weight"),
    lacks=("label_emb.0.0.weight",),
    # Of OpenAI in version 1, of OpenCLIP in version 2.
    encoders={"text_encoder": ("cond_stage_model.transformer.", "cond_stage_model.model.")},
    # The bases of version 2 differ in what they predict, which no tensor tells.
    references=(
        Reference(repository="stable-diffusion-v1-5/stable-diffusion-v1-5", has=("cond_stage_model.transformer.",)),
    ),
)


def read_base(configs: Mapping[str, basefiles.Config]) -> BaseFacts:
    """Read a base's facts from its parsed JSON files, keyed by relative path (`FACTS.config_files`).

    Raises `Invalid` with one violation per fault when this is no base of the family.
    """
    return basefiles.read(FACTS, configs, _read)


def _read(
    unet: basefiles.Config,
    vae: basefiles.Config,
    text: basefiles.Config,
    scheduler: basefiles.Config,
    tokenizer: basefiles.Config,
) -> BaseFacts:
    prediction = scheduler.get("prediction_type", "epsilon")
    faults = basefiles.class_fault("unet", unet, "UNet2DConditionModel")
    if unet.get("addition_embed_type") is not None:
        faults.append(("the UNet expects added embeddings: this is SDXL, not sd1", "BASE_FAMILY"))
    if prediction not in _PREDICTIONS:
        faults.append((f"prediction type {prediction!r} is not known to sd1", "BASE_OBJECTIVE"))
    if unet.get("in_channels", 4) != vae.get("latent_channels", 4):
        faults.append(("the UNet's channels are not the VAE's (an inpainting base?)", "BASE_CHANNELS"))
    basefiles.refuse(faults)
    # A base for few steps says so by its scheduler, or by a network that takes the guidance as an input.
    distilled = basefiles.few_steps(scheduler) or unet.get("time_cond_proj_dim") is not None
    factor = basefiles.image_factor(vae)
    length = basefiles.text_length(tokenizer, int(text.get("max_position_embeddings", 77)))
    return BaseFacts(
        family=FACTS.name,
        objective=_PREDICTIONS[prediction],
        latent_channels=int(vae.get("latent_channels", 4)),
        latent_factor=factor,
        side_multiple=factor * 2 ** (len(unet.get("block_out_channels", (1, 1, 1, 1))) - 1),
        default_side=int(unet.get("sample_size") or 64) * factor,
        text_length=length,
        conditioning={"hidden": (length, int(text.get("hidden_size", 768)))},
        train_steps=int(scheduler.get("num_train_timesteps", 1000)),
        scheduler=dict(scheduler),
        distilled=distilled,
        default_steps=4 if distilled else 20,
        default_guidance=1.0 if distilled else 5.0,
    )
