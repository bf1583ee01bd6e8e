"""What is true of Stable Diffusion 3 and 3.5 (arXiv 2403.03206), and how a base's own JSON files are read. Imports no
torch."""

from collections.abc import Mapping

from marsam.diffusion import basefiles, schedule
from marsam.diffusion.encoders import clip
from marsam.diffusion.onefile.facts import OneFile
from marsam.diffusion.originals import by_block
from marsam.diffusion.spec import BaseFacts, Default, FamilyFacts, Kohya

_JOINT = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
_MLP = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")

_ORIGINAL: Mapping[str, tuple[str, ...]] = {
    "x_embedder.proj": ("pos_embed.proj",),
    "context_embedder": ("context_embedder",),
    "t_embedder.mlp.0": ("time_text_embed.timestep_embedder.linear_1",),
    "t_embedder.mlp.2": ("time_text_embed.timestep_embedder.linear_2",),
    "y_embedder.mlp.0": ("time_text_embed.text_embedder.linear_1",),
    "y_embedder.mlp.2": ("time_text_embed.text_embedder.linear_2",),
    "joint_blocks.{}.x_block.attn.qkv": tuple(f"transformer_blocks.{{}}.attn.to_{one}" for one in "qkv"),
    "joint_blocks.{}.x_block.attn.proj": ("transformer_blocks.{}.attn.to_out.0",),
    "joint_blocks.{}.x_block.attn2.qkv": tuple(f"transformer_blocks.{{}}.attn2.to_{one}" for one in "qkv"),
    "joint_blocks.{}.x_block.attn2.proj": ("transformer_blocks.{}.attn2.to_out.0",),
    "joint_blocks.{}.x_block.adaLN_modulation.1": ("transformer_blocks.{}.norm1.linear",),
    "joint_blocks.{}.x_block.mlp.fc1": ("transformer_blocks.{}.ff.net.0.proj",),
    "joint_blocks.{}.x_block.mlp.fc2": ("transformer_blocks.{}.ff.net.2",),
    "joint_blocks.{}.context_block.attn.qkv": tuple(f"transformer_blocks.{{}}.attn.add_{one}_proj" for one in "qkv"),
    "joint_blocks.{}.context_block.attn.proj": ("transformer_blocks.{}.attn.to_add_out",),
    "joint_blocks.{}.context_block.mlp.fc1": ("transformer_blocks.{}.ff_context.net.0.proj",),
    "joint_blocks.{}.context_block.mlp.fc2": ("transformer_blocks.{}.ff_context.net.2",),
    "final_layer.linear": ("proj_out",),
}
"""The makers' names (Stability's sd3-ref). The caption's modulations are left out: in the last block and behind it
their halves change places."""

FACTS = FamilyFacts(
    name="sd3",
    title="Stable Diffusion 3 and 3.5 (transformer, two CLIP text encoders and T5)",
    objectives=("flow",),
    side_multiple=16,
    min_side=32,
    max_side=2048,
    # diffusers' training scripts take the joint attention alone; `all` takes 3.5-medium's second one too.
    targets={"attention": tuple(f"attn.{name}" for name in _JOINT), "all": (*_JOINT, *_MLP)},
    default_targets="all",
    # Embedders, the way in and the way out. The modulations of the blocks are a third of all weights: not kept.
    keep=("time_text_embed", "context_embedder", "norm_out", "proj_out"),
    config_files=(
        "transformer/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "text_encoder_2/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        basefiles.INDEX,
    ),
    denoiser_folder="transformer",
    kohya=Kohya(network="networks.lora_sd3", layers=by_block(_ORIGINAL)),
    comfyui=True,
    # The index says whether there is a third encoder.
    text_folders=(
        *("text_encoder", "text_encoder_2", "text_encoder_3"),
        *("tokenizer", "tokenizer_2", "tokenizer_3"),
        basefiles.INDEX,
    ),
    # The last block makes nothing more of the caption, so nobody hears what the caption asks there.
    idle=("transformer_blocks.-1.attn.add_q_proj", "transformer_blocks.-1.attn.norm_added_q"),
    # Not T5: recipes leave it alone, and no other program reads an adapter of it.
    encoders={"text_encoder": clip("lora_te1_"), "text_encoder_2": clip("lora_te2_")},
    recipes={
        "*": {"gradient_checkpointing": Default(True, "a large base: its activations would not fit beside it")},
        "full": {"optimiser": Default("adamw_8bit", "a large base: moments in 32 bits are twice its weights")},
    },
)

T5 = "text_encoder_3"
"""The encoder that a base may lack: captions then end in zeros where its tokens would be."""

T5_LENGTH = 256
"""T5's tokens of a caption, whatever its tokenizer says (`max_sequence_length` of diffusers' pipeline)."""

ONE_FILE = OneFile(
    has=("joint_blocks.0.context_block.adaLN_modulation.1.bias",),
    encoders={
        "text_encoder": ("text_encoders.clip_l.transformer.",),
        "text_encoder_2": ("text_encoders.clip_g.transformer.",),
        "text_encoder_3": ("text_encoders.t5xxl.transformer.",),
    },
)


def read_base(configs: Mapping[str, basefiles.Config]) -> BaseFacts:
    """Read a base's facts from its parsed JSON files, keyed by relative path (`FACTS.config_files`).

    Raises `Invalid` with one violation per fault when this is no base of the family.
    """
    return basefiles.read(FACTS, configs, _read)


def _read(
    transformer: basefiles.Config,
    vae: basefiles.Config,
    clip: basefiles.Config,
    clip_2: basefiles.Config,
    scheduler: basefiles.Config,
    tokenizer: basefiles.Config,
    index: basefiles.Config,
) -> BaseFacts:
    channels, patch = int(transformer.get("in_channels", 16)), int(transformer.get("patch_size", 2))
    width = int(transformer.get("joint_attention_dim", 4096))
    pooled = int(transformer.get("pooled_projection_dim", 2048))
    length = basefiles.text_length(tokenizer, int(clip.get("max_position_embeddings", 77)))
    faults = basefiles.class_fault("transformer", transformer, "SD3Transformer2DModel")
    faults += basefiles.class_fault("vae", vae, "AutoencoderKL")
    faults += basefiles.class_fault("scheduler", scheduler, "FlowMatchEulerDiscreteScheduler")
    if channels != vae.get("latent_channels", 4):
        faults.append(("the transformer's channels are not the VAE's", "BASE_CHANNELS"))
    if clip.get("hidden_size", 512) + clip_2.get("hidden_size", 512) > width:
        faults.append((f"both CLIP encoders together are wider than the transformer's {width}", "BASE_TEXT"))
    if clip.get("projection_dim", 512) + clip_2.get("projection_dim", 512) != pooled:
        faults.append((f"both CLIP encoders' vectors together are not the transformer's {pooled} wide", "BASE_TEXT"))
    if int(clip_2.get("max_position_embeddings", 77)) < length:
        faults.append((f"the second encoder does not read the {length} tokens of the first", "BASE_TEXT"))
    basefiles.refuse(faults)
    factor = basefiles.image_factor(vae)
    return BaseFacts(
        family=FACTS.name,
        objective="flow",
        latent_channels=channels,
        latent_factor=factor,
        side_multiple=factor * patch,
        default_side=int(transformer.get("sample_size", 128)) * factor,
        text_length=length + T5_LENGTH,
        conditioning={"hidden": (length + T5_LENGTH, width), "pooled": (pooled,)},
        train_steps=int(scheduler.get("num_train_timesteps", 1000)),
        scheduler=dict(scheduler),
        patch=patch,
        flow=schedule.flow(scheduler, even=False),
        # What its makers' own pipeline draws with.
        default_steps=28,
        default_guidance=7.0,
        # CLIP's own limit is the shorter one; T5 puts an end behind what it is given.
        caption_tokens={"tokenizer_3": T5_LENGTH - 1},
    )
