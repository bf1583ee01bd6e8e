"""Low-rank adapters in the layouts people have them in, recognised by their keys and turned into PEFT's.

PEFT's layout is the one Marsam stores: `adapter_model.safetensors` with `base_model.model.<module>.lora_{A,B}.weight`,
and `adapter_config.json`. One-file adapters of diffusers hold the same tensors under other names; they are renamed by
writing a new header before the same bytes. Kohya's names lose the dots of module paths, so they need the base's module
list to be undone: refused with that reason.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from marsam.core.errors import Invalid
from marsam_trainer.weights import Content, Header, Tensor, read_header

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PREFIX = "base_model.model."

_HALF = re.compile(r"(?P<module>.+)\.(?:lora_(?P<new>[AB])|lora(?:_linear_layer)?[._](?P<old>down|up))\.weight")
_CHUNK = 8 << 20


def read_adapter(
    files: Mapping[str, Path],
    contents: Mapping[str, Content],
    *,
    part: str,
    denoiser: Mapping[str, Tensor],
    scratch: Path,
) -> tuple[dict[str, Any], dict[str, Path] | None]:
    """Check an adapter of a base whose denoiser lies in the folder `part` and has the tensors `denoiser`.

    Returns its parameters (rank, alpha, rank_stabilised, modules: how many), and, when its layout had to be changed,
    the files to store instead, written under `scratch`. Raises `Invalid`.
    """
    weights = [path for path, content in contents.items() if content is Content.SAFETENSORS]
    if len(weights) != 1:
        raise _layout(f"an adapter is one .safetensors file, this has {len(weights)}")
    source = files[weights[0]]
    header = read_header(source, name=weights[0])
    names = _names(header, part=part)
    rank = _rank(header, names, denoiser)
    if CONFIG in files:
        if weights[0] != WEIGHTS or any(old != new for old, new in names.items()):
            raise _layout(f"beside {CONFIG} belongs {WEIGHTS} with PEFT's own names")
        return _parameters(_config(files[CONFIG]), rank=rank, count=len(names) // 2), None
    config = _made_up(header, names, rank=rank)
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    write_renamed(source, names, into=scratch / WEIGHTS)
    rewritten = {CONFIG: scratch / CONFIG, WEIGHTS: scratch / WEIGHTS}
    return _parameters(config, rank=rank, count=len(names) // 2), rewritten


def _names(header: Header, *, part: str) -> dict[str, str]:
    """PEFT's name of every tensor. Refuses what is no low-rank pair, or changes more than the denoiser."""
    names: dict[str, str] = {}
    for key, tensor in header.tensors.items():
        if key.startswith(("lora_unet_", "lora_te", "diffusion_model.")):
            raise Invalid(
                f"the adapter has names of another program's modules ({key})",
                field="files",
                reason="DIALECT_UNSUPPORTED",
                remedy="convert it with diffusers: pipe.load_lora_weights(F); pipe.save_lora_weights(FOLDER)",
            )
        match = _HALF.fullmatch(key)
        if match is None:
            if key.endswith(".alpha") and tensor.shape in ((), (1,)):
                raise _layout(f"the adapter keeps its scale in tensors ({key})")
            raise _layout(f"the adapter holds {key!r}, which is no half of a low-rank pair")
        module = match["module"].removeprefix(PREFIX)
        if module.startswith(("text_encoder.", "text_encoder_2.", "text_model.")):
            raise Invalid(
                "the adapter also changes the text encoder; Marsam adapts the denoiser only",
                field="files",
                reason="ADAPTER_TEXT_ENCODER",
                remedy="train one on the denoiser alone",
            )
        half = match["new"] or {"down": "A", "up": "B"}[match["old"]]
        names[key] = f"{PREFIX}{module.removeprefix(f'{part}.')}.lora_{half}.weight"
    if not names:
        raise _layout("the file holds no tensor of an adapter")
    return names


def _rank(header: Header, names: Mapping[str, str], denoiser: Mapping[str, Tensor]) -> int:
    """The one rank of all pairs. Both halves of each must be there, fit each other, and fit the base's layer."""
    halves: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, name in names.items():
        module, _, half = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".lora_")
        halves.setdefault(module, {})[half] = header.tensors[key].shape
    ranks = set()
    for module, pair in halves.items():
        if set(pair) != {"A", "B"} or min(map(len, pair.values())) < 2 or pair["A"][0] != pair["B"][1]:
            raise _layout(f"{module} lacks one half of its pair, or the halves do not fit")
        layer = denoiser.get(f"{module}.weight")
        if layer is None or layer.shape[:2] != (pair["B"][0], pair["A"][1]):
            raise Invalid(
                f"the base has no layer {module} of that size",
                field="base",
                reason="BASE_MISMATCH",
                remedy="name the base that the adapter was trained on",
            )
        ranks.add(pair["A"][0])
    if len(ranks) > 1:
        raise _layout(f"the adapter mixes ranks {sorted(ranks)}")
    return ranks.pop()


def _config(path: Path) -> Mapping[str, Any]:
    config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict) or config.get("peft_type", "LORA") != "LORA" or "r" not in config:
        raise _layout(f"{CONFIG} describes no LoRA")
    if config.get("use_dora"):
        raise Invalid(
            "DoRA adapters cannot be applied here", field="files", reason="ADAPTER_KIND", remedy="train a LoRA"
        )
    return config


def _parameters(config: Mapping[str, Any], *, rank: int, count: int) -> dict[str, Any]:
    if config["r"] != rank:
        raise _layout(f"{CONFIG} says rank {config['r']}, the tensors say {rank}")
    alpha = config.get("lora_alpha", rank)
    if type(alpha) not in (int, float):
        raise _layout(f"{CONFIG} gives no number as lora_alpha")
    return {
        "rank": rank,
        "alpha": float(alpha),
        "rank_stabilised": bool(config.get("use_rslora", False)),
        "modules": count,
    }


def _made_up(header: Header, names: Mapping[str, str], *, rank: int) -> dict[str, Any]:
    """The configuration of a one-file adapter: what its metadata says, else diffusers' own reading (alpha = rank)."""
    alpha = float(rank)
    try:
        if "alpha" in header.metadata:
            alpha = float(header.metadata["alpha"])
        elif "lora_adapter_metadata" in header.metadata:
            told = json.loads(header.metadata["lora_adapter_metadata"])
            alpha = float(next((value for key, value in told.items() if key.endswith("lora_alpha")), rank))
    except (ValueError, AttributeError, TypeError) as error:
        raise _layout("its metadata does not say its alpha in numbers") from error
    modules = {name.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for name in names.values()}
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(modules),
        "lora_dropout": 0.0,
        "use_rslora": False,
        "bias": "none",
    }


def write_renamed(
    source: Path, names: Mapping[str, str], *, into: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the safetensors file `source` to the new file `into` with its tensors renamed, their bytes untouched.

    `metadata` is added to what the header holds. Blocking.
    """
    with source.open("rb") as stream, into.open("xb") as target:
        length = int.from_bytes(stream.read(8), "little")
        old = json.loads(stream.read(length))
        told = {**old.pop("__metadata__", {}), **(metadata or {}), "format": "pt"}
        new = {"__metadata__": told, **{names[key]: entry for key, entry in old.items()}}
        raw = json.dumps(new, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)  # the format aligns the buffer to 8 bytes
        target.write(len(raw).to_bytes(8, "little") + raw)
        while chunk := stream.read(_CHUNK):
            target.write(chunk)


def _layout(message: str) -> Invalid:
    return Invalid(
        message,
        field="files",
        reason="ADAPTER_LAYOUT",
        remedy=f"send {CONFIG} and {WEIGHTS} as PEFT writes them, or one file as diffusers' save_lora_weights does",
    )
