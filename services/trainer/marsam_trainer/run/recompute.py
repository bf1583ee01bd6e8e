"""Gradient checkpointing (arXiv 1604.06174): a block's insides are forgotten on the way out, and computed again on the
way back."""

from typing import Any

from torch.utils.checkpoint import checkpoint

from marsam.core.errors import Unsupported


def checkpoint_blocks(denoiser: Any) -> None:
    """Let every block of a denoiser, or of a text encoder, be computed again on the way back. Raises `Unsupported` when
    its class cannot."""
    if getattr(denoiser, "supports_gradient_checkpointing", False):  # a class of transformers
        denoiser.activation_checkpointing_enable({"use_reentrant": False})
        return
    if not getattr(denoiser, "_supports_gradient_checkpointing", False):
        raise Unsupported(
            f"a {type(denoiser).__name__} cannot compute its blocks again",
            reason="CHECKPOINTING_UNSUPPORTED",
            field="gradient_checkpointing",
            remedy="leave gradient_checkpointing out",
        )
    denoiser.enable_gradient_checkpointing(again)


def again(block: Any, *arguments: Any) -> Any:
    """Call a block; its insides are not kept."""
    return checkpoint(block, *arguments, use_reentrant=False)
