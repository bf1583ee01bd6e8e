"""What is true of Qwen-Image, and how a base's own JSON files are read. Imports no torch."""

from collections.abc import Mapping

from marsam.diffusion import basefiles, schedule
from marsam.diffusion.encoders import language_model
from marsam.diffusion.onefile.facts import OneFile, Reference
from marsam.diffusion.spec import BaseFacts, Default, FamilyFacts

PATCH = 2
"""Side of the square of latent cells that is a token: diffusers' pipeline packs no other."""

TEXT_LENGTH = 512
"""Tokens of a prompt and what follows it in the template: `max_sequence_length` of diffusers' QwenImagePipeline."""

SIDE = 1024
"""The side in pixels that the pipeline draws when it is told none (128 latent cells of 8)."""

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_TEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
_MLP = ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2")

FACTS = FamilyFacts(
    name="qwen_image",
    title="Qwen-Image (two-stream transformer, Qwen2.5-VL text)",
    objectives=("flow",),
    side_multiple=16,
    min_side=32,
    max_side=2048,
    targets={"attention": _ATTENTION, "all": (*_ATTENTION, *_TEXT, *_MLP)},
    default_targets="all",
    # Small, and every error in them reaches every layer. The modulations of the blocks are a third of all weights: only
    # the first of the picture's stays whole, as in the 4-bit copies that are in use.
    keep=("time_text_embed", "img_in", "txt_in", "norm_out", "proj_out", "transformer_blocks.0.img_mod"),
    # After the last block the text is thrown away.
    idle=tuple(
        f"transformer_blocks.-1.{name}"
        for name in (
            "attn.add_q_proj",
            "attn.norm_added_q",
            "attn.to_add_out",
            "txt_mlp.net.0.proj",
            "txt_mlp.net.2",
        )
    ),
    config_files=(
        "transformer/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
    ),
    still=("time_conv",),
    denoiser_folder="transformer",
    text_folders=("text_encoder", "tokenizer"),
    # Its table of adapters' names has these layers by diffusers' names (comfy/lora.py, model_lora_keys_unet).
    comfyui=True,
    encoders={"text_encoder": language_model(idle=("model.visual",))},
    recipes={
        "*": {"gradient_checkpointing": Default(True, "a large base: its activations would not fit beside it")},
        "full": {"optimiser": Default("adamw_8bit", "a large base: moments in 32 bits are twice its weights")},
    },
)

# Its makers' names are diffusers' own.
ONE_FILE = OneFile(
    has=("transformer_blocks.0.img_mod.1.weight", "txt_norm.weight"),
    references=(Reference(repository="Qwen/Qwen-Image"),),
)


def read_base(configs: Mapping[str, basefiles.Config]) -> BaseFacts:
    """Read a base's facts from its parsed JSON files, keyed by relative path (`FACTS.config_files`).

    Raises `Invalid` with one violation per fault when this is no base of the family.
    """
    return basefiles.read(FACTS, configs, _read)


def _read(
    transformer: basefiles.Config,
    vae: basefiles.Config,
    encoder: basefiles.Config,
    scheduler: basefiles.Config,
    tokenizer: basefiles.Config,
) -> BaseFacts:
    # Files as old as the first Qwen-Image have no section for the language model alone.
    text = encoder.get("text_config") or encoder
    channels = int(vae.get("z_dim", 16))
    faults = basefiles.class_fault("transformer", transformer, "QwenImageTransformer2DModel")
    faults += basefiles.class_fault("vae", vae, "AutoencoderKLQwenImage")
    faults += basefiles.class_fault("scheduler", scheduler, "FlowMatchEulerDiscreteScheduler")
    faults += basefiles.text_fault("text_encoder", encoder, "qwen2_5_vl")
    if transformer.get("guidance_embeds", False):
        faults.append(("the transformer embeds guidance, which its class cannot do", "BASE_FAMILY"))
    if transformer.get("zero_cond_t", False):
        faults.append(("the transformer takes pictures beside the noise: this is Qwen-Image-Edit", "BASE_FAMILY"))
    if transformer.get("use_additional_t_cond", False) or transformer.get("use_layer3d_rope", False):
        faults.append(("the transformer draws layers: this is Qwen-Image-Layered", "BASE_FAMILY"))
    if transformer.get("in_channels", 64) != channels * PATCH**2:
        faults.append((f"the transformer's channels are not the VAE's in patches of {PATCH}×{PATCH}", "BASE_CHANNELS"))
    if transformer.get("joint_attention_dim", 3584) != text.get("hidden_size"):
        faults.append(("the transformer's text width is not the text encoder's", "BASE_TEXT_WIDTH"))
    basefiles.refuse(faults)
    factor = 2 ** len(vae.get("temperal_downsample", (False, True, True)))
    length = min(TEXT_LENGTH, basefiles.text_length(tokenizer, int(text["max_position_embeddings"])))
    return BaseFacts(
        family=FACTS.name,
        objective="flow",
        latent_channels=channels,
        latent_factor=factor,
        side_multiple=factor * PATCH,
        default_side=SIDE // 8 * factor,
        text_length=length,
        conditioning={"hidden": (length, int(text["hidden_size"]))},
        train_steps=int(scheduler.get("num_train_timesteps", 1000)),
        scheduler=dict(scheduler),
        patch=PATCH,
        # `shift_terminal` is the scheduler's own doing: it moves the last steps of a drawing, no time of training.
        flow=schedule.flow(scheduler, even=True),
        guidance_keeps_length=True,
        default_steps=50,
        default_guidance=4.0,
    )
