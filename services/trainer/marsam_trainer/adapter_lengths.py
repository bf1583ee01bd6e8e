"""DoRA's lengths in an adapter's file: a number for every output of a layer, over its inputs (`adapter.dora`).

PEFT and diffusers call them `lora_magnitude_vector`: (out,), of a convolution (1, out, 1, 1). In the files of LyCORIS,
OneTrainer and ComfyUI they are `dora_scale`, of shape (out, 1, …); of shape (1, in, 1, …) that holds a number for every
input, over the outputs, which is another formula: older LyCORIS trains by it, others where they are told to.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from marsam.core.errors import Invalid
from marsam_trainer.adapter_keys import Layer, layout
from marsam_trainer.tensorfile import Made, Stored


def everywhere(layers: Sequence[Layer]) -> bool:
    """Whether the pairs have lengths beside them. Raises `Invalid` (ADAPTER_LAYOUT) where some do and some do not."""
    without = [layer for layer in layers if not layer.lengths]
    if 0 < len(without) < len(layers):
        raise layout(
            f"this is a DoRA adapter that lacks the lengths of {len(without)} of its {len(layers)} layers, "
            f"{' with '.join(without[0].parts)} first"
        )
    return not without


def of_parts(source: Stored, layer: Layer, shapes: Sequence[tuple[int, ...]]) -> list[Made]:
    """The lengths of a layer's parts, whose weights have these shapes, as PEFT has them. They are the layer's cut into
    pieces, for each is of one row of its weights.

    Raises `Invalid`: ADAPTER_KIND for lengths over outputs, ADAPTER_LAYOUT for as many as the layer has not.
    """
    have, outputs, name = source.header.tensors[layer.lengths].shape, sum(one[0] for one in shapes), layer.lengths
    columns = (1, shapes[0][1], *(1 for _ in shapes[0][2:]))
    if name.endswith(".dora_scale"):
        if have == columns and have[0] != outputs:
            raise Invalid(
                f"this is a DoRA adapter whose lengths are those of a layer's inputs ({name}: {list(have)}): it cannot "
                "be applied here",
                field="files",
                reason="ADAPTER_KIND",
                remedy="train one whose lengths are those of outputs: wd_on_output=True in LyCORIS, the output axis in "
                "OneTrainer, use_dora in PEFT and diffusers, dora here",
            )
        fits = have[:1] == (outputs,) and prod(have) == outputs
    else:
        fits = have == _peft((outputs, *shapes[0][1:]))
    if not fits or (len(shapes) > 1 and have[0] != outputs):
        raise layout(f"{name} is of shape {list(have)}, and its layer has {outputs} outputs")
    if len(shapes) == 1:
        return [replace(source.whole(name), shape=_peft(shapes[0]))]
    ends = [sum(one[0] for one in shapes[: place + 1]) for place in range(len(shapes))]
    return [
        replace(source.rows(name, end - shape[0], shape[0]), shape=_peft(shape))
        for end, shape in zip(ends, shapes, strict=True)
    ]


def _peft(weight: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the lengths of a layer whose weights have this one."""
    return (weight[0],) if len(weight) == 2 else (1, weight[0], *(1 for _ in weight[2:]))
