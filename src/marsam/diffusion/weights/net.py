"""Stream safetensors into a module that was built on torch's meta device, one tensor at a time.

The whole fp32 original never exists in memory beside its quantised form: a tensor is read, placed (and quantised by
`place`), dropped.
"""

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from marsam.core.errors import Corrupt, Invalid
from marsam.diffusion.precision import Precision
from marsam.store.staging import failure

DTYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}

_MAPPED = 64 << 20
"""Bytes that are read of one mapping of a file."""

Place = Callable[[Any, str, torch.Tensor], bool]
"""Given the owning module, the tensor's name in it and the tensor: puts it there in its own way and says True, or
says False."""


def quieten() -> None:
    """Silence what the libraries print while they load: progress bars, advice on casts that are meant, and
    bitsandbytes' wish for a package that would fetch code at run time. A program calls this once, before it loads a
    base."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def save(tensors: Mapping[str, torch.Tensor], path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors. Raises what the disk says: Exhausted (STORE_FULL), Denied, Unavailable."""
    try:
        save_file(dict(tensors), path, metadata=dict(metadata) if metadata is not None else None)
    except SafetensorError as error:  # the library tells of the system's errors in words only
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        code = int(number.group(1))
        raise failure(OSError(code, os.strerror(code)), path.name) from error


def weight_files(folder: Path, *, stem: str = "diffusion_pytorch_model") -> list[Path]:
    """The safetensors files of one diffusers component, in reading order: a single file, its shards, or its fp16
    variant.

    Raises `Invalid` when the folder holds none; a pickle is named as such, with the way out.
    """
    single = folder / f"{stem}.safetensors"
    if single.is_file():
        return [single]
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in _shards(index)]
    variant = folder / f"{stem}.fp16.safetensors"
    if variant.is_file():
        return [variant]
    pickles = [path.name for path in (*folder.glob("*.bin"), *folder.glob("*.ckpt"))]
    if pickles:
        raise Invalid(
            f"{folder.name}/{pickles[0]} is a pickle, which is never opened",
            reason="PICKLE_REFUSED",
            remedy="convert it with safetensors.torch.save_file where you trust its author",
        )
    raise Invalid(
        f"{folder.name} holds no safetensors weights", reason="WEIGHTS_MISSING", remedy=f"expected {single.name}"
    )


def _shards(index: Path) -> list[str]:
    """The files that an index of shards names, all of them beside it. Raises `Corrupt`."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        beside = all(Path(name).name == name for name in names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"{index.name} does not map tensors to files", reason="WEIGHTS_UNREADABLE") from error
    if not beside:
        raise Corrupt(f"{index.name} names files outside of its folder", reason="WEIGHTS_UNREADABLE")
    return names


def stream(
    module: Any, files: Sequence[Path], *, precision: Precision, device: str, place: Place | None = None
) -> None:
    """Fill `module` (on meta) from `files`, floating tensors cast to `precision`, everything frozen.

    Raises `Corrupt` when tensors are missing, surplus or of another shape: a partly loaded model is no model.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict(keep_vars=True).items()}
    surplus: list[str] = []
    for file in files:
        for name, tensor in _tensors(file):
            shape = wanted.pop(name, None)
            if shape is None:
                surplus.append(name)
                continue
            if tuple(tensor.shape) != shape:
                raise Corrupt(
                    f"{file.name}: {name} has shape {tuple(tensor.shape)}, {shape} expected", reason="WEIGHTS_SHAPE"
                )
            _put(module, name, tensor, precision=precision, device=device, place=place)
    if wanted or surplus:
        raise Corrupt(
            f"{len(wanted)} tensors missing ({_some(wanted)}), {len(surplus)} unknown ({_some(surplus)})",
            reason="WEIGHTS_MISMATCH",
            remedy="the weights do not belong to this configuration",
        )


def _tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a file by name: a view of the mapped file, good until the next is asked for.

    The file is mapped anew from time to time: what was read of a mapping counts as this process's memory.
    """
    left: list[str] | None = None
    while left is None or left:
        try:
            opened = safe_open(file, framework="pt", device="cpu")
        except Exception as error:
            raise Corrupt(f"{file.name} cannot be read: {error}", reason="WEIGHTS_UNREADABLE") from error
        with opened as tensors:
            left = list(reversed(tensors.keys())) if left is None else left
            read = 0
            while left and read < _MAPPED:
                name = left.pop()
                tensor = tensors.get_tensor(name)
                read += tensor.nbytes
                yield name, tensor
                del tensor


def _put(
    module: Any, name: str, tensor: torch.Tensor, *, precision: Precision, device: str, place: Place | None
) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if tensor.is_floating_point():
        tensor = tensor.to(DTYPES[precision])
    if place is not None and place(owner, leaf, tensor):
        return
    # `clone` because the tensor may be a view of the mapped file.
    value = tensor.to(device, copy=True) if device != "cpu" else tensor.clone()
    if leaf in owner._parameters:
        owner._parameters[leaf] = torch.nn.Parameter(value, requires_grad=False)
    else:
        owner._buffers[leaf] = value


def bytes_at_rest(module: Any) -> int:
    """Exact bytes of every parameter and buffer, quantisation constants included; what the weights take when nothing
    runs."""
    total = 0
    for value in (*module.parameters(), *module.buffers()):
        total += value.numel() * value.element_size()
        state = getattr(value, "quant_state", None)
        if state is not None:
            total += sum(
                part.numel() * part.element_size()
                for part in (state.absmax, state.code, state.offset, *(_nested(state.state2) if state.nested else ()))
                if part is not None
            )
    return total


def _nested(state: Any) -> tuple[Any, Any]:
    return state.absmax, state.code


def _some(names: Any) -> str:
    listed = sorted(names)[:3]
    return ", ".join(listed) if listed else "none"
