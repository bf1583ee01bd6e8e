"""What is true of FLUX.1 bases (dev, schnell), and how a base's own JSON files are read. Imports no torch."""

from collections.abc import Mapping

from marsam.diffusion import basefiles
from marsam.diffusion.encoders import clip
from marsam.diffusion.onefile.facts import OneFile, Reference
from marsam.diffusion.originals import by_block
from marsam.diffusion.schedule import Flow, line_through
from marsam.diffusion.spec import BaseFacts, Default, FamilyFacts, Kohya

# Both kinds of block name these alike; `add_*` and `to_add_out` are the caption's side of the blocks with two streams.
_ATTENTION = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
)
_MLP = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp", "proj_out")

PATCH = 2
"""The transformer takes squares of 2×2 latent cells, packed into the channels of one token."""

_LONGEST, _LONGEST_DISTILLED = 512, 256
"""T5 tokens that the maker trained dev and schnell with (its own `load_t5`, and diffusers' FLUX page)."""

_ORIGINAL: Mapping[str, tuple[str, ...]] = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
    "double_blocks.{}.img_mod.lin": ("transformer_blocks.{}.norm1.linear",),
    "double_blocks.{}.txt_mod.lin": ("transformer_blocks.{}.norm1_context.linear",),
    "double_blocks.{}.img_attn.qkv": tuple(f"transformer_blocks.{{}}.attn.to_{one}" for one in "qkv"),
    "double_blocks.{}.txt_attn.qkv": tuple(f"transformer_blocks.{{}}.attn.add_{one}_proj" for one in "qkv"),
    "double_blocks.{}.img_attn.proj": ("transformer_blocks.{}.attn.to_out.0",),
    "double_blocks.{}.txt_attn.proj": ("transformer_blocks.{}.attn.to_add_out",),
    "double_blocks.{}.img_mlp.0": ("transformer_blocks.{}.ff.net.0.proj",),
    "double_blocks.{}.img_mlp.2": ("transformer_blocks.{}.ff.net.2",),
    "double_blocks.{}.txt_mlp.0": ("transformer_blocks.{}.ff_context.net.0.proj",),
    "double_blocks.{}.txt_mlp.2": ("transformer_blocks.{}.ff_context.net.2",),
    "single_blocks.{}.modulation.lin": ("single_transformer_blocks.{}.norm.linear",),
    "single_blocks.{}.linear1": (
        *(f"single_transformer_blocks.{{}}.attn.to_{one}" for one in "qkv"),
        "single_transformer_blocks.{}.proj_mlp",
    ),
    "single_blocks.{}.linear2": ("single_transformer_blocks.{}.proj_out",),
    "final_layer.linear": ("proj_out",),
}
"""The makers' names (black-forest-labs/flux). The last modulation is left out: its halves change places."""

FACTS = FamilyFacts(
    name="flux",
    title="FLUX.1 (transformer, CLIP and T5 text encoders)",
    objectives=("flow",),
    side_multiple=16,
    min_side=32,
    max_side=2048,
    targets={"attention": _ATTENTION, "all": (*_ATTENTION, *_MLP)},
    default_targets="all",
    # Embedders, the way in and the way out. The modulations of the blocks are a quarter of all weights: not kept. Of
    # the layers named `proj_out` only the last: those of the blocks with one stream are large.
    keep=("time_text_embed", "context_embedder", "x_embedder", "norm_out", "^proj_out"),
    config_files=(
        "transformer/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "text_encoder_2/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer_2/tokenizer_config.json",
    ),
    denoiser_folder="transformer",
    kohya=Kohya(network="networks.lora_flux", layers=by_block(_ORIGINAL)),
    comfyui=True,
    text_folders=("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
    # CLIP gives a pooled vector only.
    readers=("tokenizer_2",),
    # Not T5: recipes leave it alone, and no other program reads an adapter of it.
    encoders={"text_encoder": clip("lora_te1_")},
    recipes={
        "*": {"gradient_checkpointing": Default(True, "a large base: its activations would not fit beside it")},
        "full": {"optimiser": Default("adamw_8bit", "a large base: moments in 32 bits are twice its weights")},
    },
)

ONE_FILE = OneFile(
    has=("double_blocks.0.img_attn.norm.key_norm.scale", "vector_in.in_layer.weight"),
    encoders={
        "text_encoder": ("text_encoders.clip_l.transformer.",),
        "text_encoder_2": ("text_encoders.t5xxl.transformer.",),
    },
    references=(
        Reference(repository="black-forest-labs/FLUX.1-dev", has=("guidance_in.",)),
        Reference(repository="black-forest-labs/FLUX.1-schnell", lacks=("guidance_in.",)),
    ),
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
    t5: basefiles.Config,
    scheduler: basefiles.Config,
    tokenizer: basefiles.Config,
) -> BaseFacts:
    channels = int(vae.get("latent_channels", 4))
    faults = basefiles.class_fault("transformer", transformer, "FluxTransformer2DModel")
    faults += basefiles.class_fault("vae", vae, "AutoencoderKL")
    faults += basefiles.class_fault("scheduler", scheduler, "FlowMatchEulerDiscreteScheduler")
    if int(transformer.get("in_channels", 64)) != channels * PATCH**2:
        faults.append(("the transformer's channels are not the VAE's (a Fill or control base?)", "BASE_CHANNELS"))
    hidden, pooled = int(t5.get("d_model", 0)), int(clip.get("hidden_size", 0))
    if hidden != int(transformer.get("joint_attention_dim", 4096)):
        faults.append(("text_encoder_2 is not as wide as the transformer expects", "BASE_CHANNELS"))
    if pooled != int(transformer.get("pooled_projection_dim", 768)):
        faults.append(("text_encoder is not as wide as the transformer expects", "BASE_CHANNELS"))
    basefiles.refuse(faults)
    factor = basefiles.image_factor(vae)
    embedded = bool(transformer.get("guidance_embeds", False))
    dynamic = bool(scheduler.get("use_dynamic_shifting", False))
    # schnell is the one that neither takes guidance nor shifts its times.
    distilled = not embedded and not dynamic
    length = basefiles.text_length(tokenizer, _LONGEST_DISTILLED if distilled else _LONGEST)
    return BaseFacts(
        family=FACTS.name,
        objective="flow",
        latent_channels=channels,
        latent_factor=factor,
        side_multiple=factor * PATCH,
        default_side=int(vae.get("sample_size") or 1024),
        text_length=length,
        conditioning={"hidden": (length, hidden), "pooled": (pooled,)},
        train_steps=int(scheduler.get("num_train_timesteps", 1000)),
        scheduler=dict(scheduler),
        patch=PATCH,
        flow=Flow(
            shift=float(scheduler.get("shift", 1.0)),
            mu=line_through(scheduler) if dynamic else None,
            exponential=scheduler.get("time_shift_type", "exponential") == "exponential",
            even=True,
        ),
        embedded_guidance=embedded,
        distilled=distilled,
        default_steps=4 if distilled else 28,
        default_guidance=1.0 if distilled else 3.5,
    )
