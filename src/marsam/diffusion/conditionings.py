"""Conditionings of several captions side by side: joined, filled up, cut to what counts."""

from collections.abc import Sequence

import torch

from marsam.diffusion.spec import Conditioning


def join(conditionings: Sequence[Conditioning]) -> Conditioning:
    """Conditionings one after the other along the batch; where they differ in length, the shorter are filled up with
    tokens that their masks leave out."""
    names = conditionings[0].tensors
    stack = _stacked if "mask" in names else torch.cat
    return Conditioning({name: stack([one.tensors[name] for one in conditionings]) for name in names})


def filled(cond: Conditioning, multiple: int) -> Conditioning:
    """The same with its tokens filled up to a multiple, masked: so that captions of like length have one shape. Those
    without a mask have a length of their own already."""
    mask = cond.tensors.get("mask")
    if mask is None:
        return cond
    full = mask.shape[1]
    most = -(-full // multiple) * multiple
    return Conditioning(
        {
            name: _filled(value, most) if value.ndim > 1 and value.shape[1] == full else value
            for name, value in cond.tensors.items()
        }
    )


def _stacked(values: Sequence[torch.Tensor]) -> torch.Tensor:
    if values[0].ndim > 1 and (most := max(value.shape[1] for value in values)) > min(v.shape[1] for v in values):
        values = [_filled(value, most) for value in values]
    return torch.cat(list(values))


def _filled(value: torch.Tensor, length: int) -> torch.Tensor:
    missing = value.new_zeros((value.shape[0], length - value.shape[1], *value.shape[2:]))
    return torch.cat([value, missing], dim=1)


def trimmed(cond: Conditioning) -> Conditioning:
    """The same without the tokens that the masks of all its rows leave out."""
    mask = cond.tensors.get("mask")
    if mask is None or not len(cond):
        return cond
    length = max(1, int(mask.sum(dim=1).max()))
    full = mask.shape[1]
    return Conditioning(
        {
            name: value[:, :length] if value.ndim > 1 and value.shape[1] == full else value
            for name, value in cond.tensors.items()
        }
    )
