"""What is true of Sana (arXiv 2410.10629), and how a base's own JSON files are read. Imports no torch."""

from collections.abc import Mapping

from marsam.diffusion import basefiles
from marsam.diffusion.encoders import language_model
from marsam.diffusion.onefile.facts import OneFile
from marsam.diffusion.schedule import Flow
from marsam.diffusion.spec import BaseFacts, Default, FamilyFacts

TEXT_LENGTH = 300
"""Tokens of a caption, as the makers train (their paper, section 3.1). No file of a base says it."""

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")

FACTS = FamilyFacts(
    name="sana",
    title="Sana (linear-attention transformer, Gemma 2)",
    objectives=("flow",),
    side_multiple=32,
    min_side=32,
    max_side=4096,
    # Its feed-forward layers are convolutions; the depth-wise one in the middle takes no adapter.
    targets={"attention": _ATTENTION, "all": (*_ATTENTION, "conv_inverted", "conv_point")},
    default_targets="all",
    keep=("time_embed", "caption_projection", "proj_out"),
    config_files=(
        "transformer/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
    ),
    denoiser_folder="transformer",
    text_folders=("text_encoder", "tokenizer"),
    encoders={"text_encoder": language_model()},
    recipes={
        name: {"learning_rate": Default(2e-5, "published recipes: SimpleTuner, which warns of NaN above")}
        for name in ("lora", "qlora")
    },
)

ONE_FILE = OneFile(has=("blocks.0.cross_attn.q_linear.weight", "y_embedder.y_proj.fc1.weight"))


def read_base(configs: Mapping[str, basefiles.Config]) -> BaseFacts:
    """Read a base's facts from its parsed JSON files, keyed by relative path (`FACTS.config_files`).

    Raises `Invalid` with one violation per fault when this is no base of the family.
    """
    return basefiles.read(FACTS, configs, _read)


def _read(
    transformer: basefiles.Config, vae: basefiles.Config, text: basefiles.Config, scheduler: basefiles.Config
) -> BaseFacts:
    faults = basefiles.class_fault("transformer", transformer, "SanaTransformer2DModel")
    faults += basefiles.class_fault("vae", vae, "AutoencoderDC")
    if transformer.get("guidance_embeds"):
        faults.append(("the transformer takes embedded guidance: this is Sana Sprint, not Sana", "BASE_VARIANT"))
    channels, width = int(transformer.get("in_channels", 32)), int(transformer.get("caption_channels", 2304))
    if channels != vae.get("latent_channels", 32):
        faults.append(("the transformer's channels are not the VAE's", "BASE_CHANNELS"))
    if width != text.get("hidden_size", 2304):
        faults.append((f"the text encoder is not {width} wide, as the transformer expects", "BASE_CHANNELS"))
    basefiles.refuse(faults)
    factor = 2 ** (len(vae.get("encoder_block_out_channels", (1,) * 6)) - 1)
    patch = int(transformer.get("patch_size", 1))
    return BaseFacts(
        family=FACTS.name,
        objective="flow",
        latent_channels=channels,
        latent_factor=factor,
        side_multiple=factor * patch,
        default_side=int(transformer.get("sample_size") or 32) * factor,
        text_length=TEXT_LENGTH,
        conditioning={"hidden": (TEXT_LENGTH, width)},
        train_steps=int(scheduler.get("num_train_timesteps", 1000)),
        scheduler=dict(scheduler),
        patch=patch,
        # A DPM solver calls it flow_shift, the Euler one shift.
        flow=Flow(shift=float(scheduler.get("flow_shift") or scheduler.get("shift") or 1.0)),
        default_steps=20,
        default_guidance=4.5,
    )
