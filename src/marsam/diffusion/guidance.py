"""What is made of the predictions with a prompt and without: plain functions of tensors."""

import torch


def guide(
    conditional: torch.Tensor, unconditional: torch.Tensor, guidance: float, *, rescale: float = 0.0
) -> torch.Tensor:
    """Classifier-free guidance (arXiv 2207.12598); `rescale` brings the spread back by that share (arXiv 2305.08891,
    3.4)."""
    guided = unconditional + guidance * (conditional - unconditional)
    if rescale:
        axes = tuple(range(1, guided.ndim))
        spread = conditional.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
        guided = guided * (rescale * spread + (1.0 - rescale))
    return guided


def as_long_as(like: torch.Tensor, guided: torch.Tensor, side: int) -> torch.Tensor:
    """`guided` (1, C, h, w) with every token, the channels of a square of `side` cells, brought to its length in
    `like`, as diffusers' QwenImagePipeline does."""

    def length(value: torch.Tensor) -> torch.Tensor:
        squares = value.unfold(2, side, side).unfold(3, side, side)
        found = squares.square().sum(dim=(1, 4, 5)).sqrt().unsqueeze(1)
        return found.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)

    return guided * (length(like) / length(guided))
