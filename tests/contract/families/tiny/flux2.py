"""A tiny FLUX.2: the shape of klein, or of dev."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2TokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.contract.families import bases

QWEN_LENGTH, MISTRAL_LENGTH = 48, 96
WIDTH = 16

# What the makers' own templates give for the turns that a caption needs.
_QWEN_TEMPLATE = (
    "{% for turn in messages %}{{ '<|im_start|>' + turn.role + '\n' + turn.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
_MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}{% for block in turn.content %}"
    "{{ '[SYSTEM_PROMPT]' + block.text + '[/SYSTEM_PROMPT]' if turn.role == 'system' else '[INST]' + block.text + "
    "'[/INST]' }}{% endfor %}{% endfor %}"
)


def write_qwen_tokenizer(folder: Path) -> int:
    """A Qwen tokenizer without merges: every byte a token. Returns the size of its vocabulary."""
    words = [*bases.byte_letters(), "<|endoftext|>"]
    tokenizer = Qwen2TokenizerFast(
        vocab={word: row for row, word in enumerate(words)},
        merges=[],
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=QWEN_LENGTH,
        chat_template=_QWEN_TEMPLATE,
    )
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def write_mistral_tokenizer(folder: Path) -> int:
    """A tokenizer that knows bytes and the words of dev's system message. Returns the size of its vocabulary."""
    marks = ["<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]"]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380, special_tokens=marks, initial_alphabet=bases.byte_letters(), show_progress=False
    )
    inner.train_from_iterator([SYSTEM_MESSAGE] * 2, trainer)
    # As the real one: it puts a beginning before every text, unless told that the text has its own.
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", marks.index("<s>"))])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=MISTRAL_LENGTH,
        chat_template=_MISTRAL_TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def _qwen(vocabulary: int) -> Any:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=28,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            tie_word_embeddings=True,
        )
    )


def _mistral(vocabulary: int) -> Any:
    common = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": 2, "head_dim": 8}
    words = {"vocab_size": vocabulary, "num_hidden_layers": 31, "num_key_value_heads": 1, "model_type": "mistral"}
    eyes = {"num_hidden_layers": 1, "patch_size": 14, "image_size": 28, "model_type": "pixtral"}
    return Mistral3ForConditionalGeneration(
        Mistral3Config(text_config={**common, **words}, vision_config={**common, **eyes}, image_token_index=8)
    )


def build(folder: Path, *, dev: bool = False, distilled: bool = False) -> Path:
    """A FLUX.2 shape of 0.2 M parameters in diffusers layout: f8 latents of 4×4 for 32 px."""
    torch.manual_seed(0)
    vocabulary = (write_mistral_tokenizer if dev else write_qwen_tokenizer)(folder / "tokenizer")
    encoder = (_mistral if dev else _qwen)(vocabulary)
    encoder.save_pretrained(folder / "text_encoder")
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=dev,
    )
    # Fresh modulation is so weak that the blocks hardly count, and with them text, time and adapters.
    with torch.no_grad():
        for name, value in transformer.named_parameters():
            if "modulation" in name or "time_guidance_embed" in name:
                value.mul_(2.0)
    transformer.save_pretrained(folder / "transformer")
    coder = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=bases.SIDE,
        batch_norm_eps=0.05,
    )
    coder.bn.running_mean.normal_(0.0, 0.5)
    coder.bn.running_var.uniform_(1.0, 4.0)
    coder.save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True).save_pretrained(folder / "scheduler")
    index: dict[str, Any] = {
        "_class_name": "Flux2Pipeline" if dev else "Flux2KleinPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", type(encoder).__name__],
        "tokenizer": ["transformers", "PixtralProcessor" if dev else "Qwen2TokenizerFast"],
        "transformer": ["diffusers", "Flux2Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLFlux2"],
    }
    if distilled:
        index["is_distilled"] = True
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
