"""What is true of Z-Image, and how a base's own JSON files are read. Imports no torch."""

from collections.abc import Mapping

from marsam.diffusion import basefiles, schedule
from marsam.diffusion.encoders import language_model
from marsam.diffusion.onefile.facts import OneFile
from marsam.diffusion.spec import BaseFacts, Default, FamilyFacts

PATCH = 2
"""Side of the square of latent cells that is a token: diffusers' pipeline asks for no other."""

TEXT_LENGTH = 512
"""Tokens of a prompt in its template, at most: `max_sequence_length` of diffusers' ZImagePipeline."""

BEFORE = "<|im_start|>user\n"
"""What Qwen3's chat template puts before a prompt."""

GUIDANCE = 5.0
"""`guidance_scale` of diffusers' ZImagePipeline, which says positive + g·(positive - negative): 0 is without, and g
there is g + 1 here."""

SIDE = 1024
"""The side in pixels that the pipeline draws when it is told none."""

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")

FACTS = FamilyFacts(
    name="z_image",
    title="Z-Image (single-stream transformer, Qwen3 text)",
    objectives=("flow",),
    side_multiple=16,
    min_side=32,
    max_side=2048,
    targets={
        "attention": _ATTENTION,
        "all": (*_ATTENTION, "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
    },
    default_targets="all",
    # Small, and every error in them reaches every layer.
    keep=("t_embedder", "cap_embedder", "all_x_embedder", "all_final_layer", "adaLN_modulation"),
    crowded=("cap_embedder.1", f"all_x_embedder.{PATCH}-1"),
    config_files=(
        "transformer/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
    ),
    denoiser_folder="transformer",
    text_folders=("text_encoder", "tokenizer"),
    # Its table of adapters' names has these layers by diffusers' names (comfy/lora.py, model_lora_keys_unet).
    comfyui=True,
    encoders={"text_encoder": language_model(idle=("layers.-1:", "norm"))},
    recipes={
        "*": {"gradient_checkpointing": Default(True, "a large base: its activations would not fit beside it")},
        "full": {"optimiser": Default("adamw_8bit", "a large base: moments in 32 bits are twice its weights")},
    },
)

# The base and the distilled Turbo have the same tensors, so none is taken for granted.
ONE_FILE = OneFile(has=("layers.0.adaLN_modulation.0.weight", "cap_embedder.0.weight"))


def read_base(configs: Mapping[str, basefiles.Config]) -> BaseFacts:
    """Read a base's facts from its parsed JSON files, keyed by relative path (`FACTS.config_files`).

    Raises `Invalid` with one violation per fault when this is no base of the family.
    """
    return basefiles.read(FACTS, configs, _read)


def _read(
    transformer: basefiles.Config,
    vae: basefiles.Config,
    text: basefiles.Config,
    scheduler: basefiles.Config,
    tokenizer: basefiles.Config,
) -> BaseFacts:
    faults = basefiles.class_fault("transformer", transformer, "ZImageTransformer2DModel")
    faults += basefiles.class_fault("vae", vae, "AutoencoderKL")
    faults += basefiles.class_fault("scheduler", scheduler, "FlowMatchEulerDiscreteScheduler")
    faults += basefiles.text_fault("text_encoder", text, "qwen3")
    if transformer.get("siglip_feat_dim") is not None:
        faults.append(("the transformer takes pictures beside the text: this is Z-Image-Omni", "BASE_FAMILY"))
    patches = zip(transformer.get("all_patch_size", (2,)), transformer.get("all_f_patch_size", (1,)), strict=True)
    if (PATCH, 1) not in patches:
        faults.append((f"the transformer has no patches of {PATCH}×{PATCH} cells", "BASE_FAMILY"))
    if transformer.get("in_channels", 16) != vae.get("latent_channels", 4):
        faults.append(("the transformer's channels are not the VAE's", "BASE_CHANNELS"))
    if transformer.get("cap_feat_dim", 2560) != text.get("hidden_size"):
        faults.append(("the transformer's text width is not the text encoder's", "BASE_TEXT_WIDTH"))
    basefiles.refuse(faults)
    factor = basefiles.image_factor(vae)
    length = min(TEXT_LENGTH, basefiles.text_length(tokenizer, int(text["max_position_embeddings"])))
    return BaseFacts(
        family=FACTS.name,
        objective="flow",
        latent_channels=int(transformer.get("in_channels", 16)),
        latent_factor=factor,
        side_multiple=factor * PATCH,
        default_side=int(vae.get("sample_size") or SIDE),
        text_length=length,
        conditioning={"hidden": (length, int(text["hidden_size"]))},
        train_steps=int(scheduler.get("num_train_timesteps", 1000)),
        scheduler=dict(scheduler),
        patch=PATCH,
        flow=schedule.flow(scheduler, even=True),
        # The files of the distilled Turbo differ from those of the base in the shift alone, which does not say so.
        default_steps=50,
        default_guidance=GUIDANCE + 1.0,
        few_steps=8,
        preamble=BEFORE,
    )
