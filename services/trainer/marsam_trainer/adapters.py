"""Low-rank adapters in the layouts people have them in, recognised by their keys and turned into PEFT's.

PEFT's layout is the one Marsam stores: `adapter_model.safetensors` with `base_model.model.<module>.lora_{A,B}.weight`,
and `adapter_config.json`. One-file adapters (`marsam.diffusion.dialects`) hold the same tensors under other names: a
new header is written before the same bytes. Kohya's names lose the dots of module paths; the base's own layers give
them back. A scale that is kept in tensors goes into the configuration.
"""

import json
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from marsam.core.errors import Invalid
from marsam.diffusion.dialects import PEFT as PREFIX
from marsam.diffusion.dialects import modules_by_flat_name
from marsam_trainer.weights import Content, Header, Tensor, read_header

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

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
    names, alphas = _names(header, part=part, denoiser=denoiser)
    rank = _rank(header, names, denoiser)
    if CONFIG in files:
        if weights[0] != WEIGHTS or alphas or any(old != new for old, new in names.items()):
            raise _layout(f"beside {CONFIG} belongs {WEIGHTS} with PEFT's own names")
        return _parameters(_config(files[CONFIG]), rank=rank, count=len(names) // 2), None
    alpha = _alpha(source, header, alphas, names) if alphas else None
    config = _made_up(header, names, rank=rank, alpha=alpha)
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    write_renamed(source, names, into=scratch / WEIGHTS)
    rewritten = {CONFIG: scratch / CONFIG, WEIGHTS: scratch / WEIGHTS}
    return _parameters(config, rank=rank, count=len(names) // 2), rewritten


def _names(header: Header, *, part: str, denoiser: Mapping[str, Tensor]) -> tuple[dict[str, str], dict[str, str]]:
    """PEFT's name of every half of a pair, and the module of every alpha. Refuses what is no low-rank pair, changes
    more than the denoiser, or names layers that the base lacks: how many of how many, and the first."""
    layers = modules_by_flat_name(key.removesuffix(".weight") for key in denoiser if key.endswith(".weight"))
    names: dict[str, str] = {}
    alphas: dict[str, str] = {}
    strangers = []
    for key, tensor in header.tensors.items():
        match = _HALF.fullmatch(key)
        alone = key.removesuffix(".alpha")
        if match is None and (alone == key or tensor.shape not in ((), (1,))):
            raise _layout(f"the adapter holds {key!r}, which is no half of a low-rank pair")
        module = (match["module"] if match else alone).removeprefix(PREFIX)
        if module.startswith(("text_encoder", "text_model.", "lora_te")):
            raise Invalid(
                "the adapter also changes the text encoder; Marsam adapts the denoiser only",
                field="files",
                reason="ADAPTER_TEXT_ENCODER",
                remedy="train one on the denoiser alone",
            )
        if module.startswith("lora_unet_"):
            known = layers.get(module)
        else:
            known = module.removeprefix("diffusion_model.").removeprefix(f"{part}.")
        if known is None:
            strangers.append(key)
        elif match is None:
            alphas[key] = known
        else:
            half = match["new"] or {"down": "A", "up": "B"}[match["old"]]
            names[key] = f"{PREFIX}{known}.lora_{half}.weight"
    if strangers:
        raise Invalid(
            f"{len(strangers)} of the adapter's {len(header.tensors)} tensors are of layers that the base does not "
            f"have, {strangers[0]} first",
            field="files",
            reason="ADAPTER_LAYERS_UNKNOWN",
            remedy="name the base that it was trained on; convert a file with another program's layer names with "
            "diffusers: pipe.load_lora_weights(F); pipe.save_lora_weights(FOLDER)",
        )
    if not names:
        raise _layout("the file holds no tensor of an adapter")
    return names, alphas


_FLOATS: Mapping[str, Callable[[bytes], float]] = {
    "F64": lambda raw: float(struct.unpack("<d", raw)[0]),
    "F32": lambda raw: float(struct.unpack("<f", raw)[0]),
    "F16": lambda raw: float(struct.unpack("<e", raw)[0]),
    "BF16": lambda raw: float(struct.unpack("<f", b"\0\0" + raw)[0]),
}


def _alpha(source: Path, header: Header, alphas: Mapping[str, str], names: Mapping[str, str]) -> float:
    """The one alpha of all pairs. Every pair has one, and each is of a pair."""
    modules = {name.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for name in names.values()}
    if set(alphas.values()) != modules:
        raise _layout("some of its pairs have an alpha, and others have none")
    values = set()
    with source.open("rb") as stream:
        begin = 8 + int.from_bytes(stream.read(8), "little")
        for key in alphas:
            tensor = header.tensors[key]
            if tensor.dtype not in _FLOATS:
                raise _layout(f"{key} is of type {tensor.dtype}")
            stream.seek(begin + tensor.span[0])
            values.add(_FLOATS[tensor.dtype](stream.read(tensor.span[1] - tensor.span[0])))
    if len(values) > 1:
        raise _layout(f"the adapter mixes alphas {sorted(values)[:5]}")
    return values.pop()


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


def _made_up(header: Header, names: Mapping[str, str], *, rank: int, alpha: float | None) -> dict[str, Any]:
    """The configuration of a one-file adapter: its own alpha, else what its metadata says, else diffusers' reading
    (alpha = rank). Refuses ranks and alphas that differ between layers."""
    stabilised = False
    try:
        told = json.loads(header.metadata.get("lora_adapter_metadata", "{}")) if alpha is None else {}
        said = {key.rpartition(".")[2]: value for key, value in told.items()}
        if said.get("rank_pattern") or said.get("alpha_pattern"):
            raise _layout("its metadata gives some layers a rank or an alpha of their own")
        if alpha is None:
            stabilised = bool(said.get("use_rslora", False))
            alpha = float(said.get("lora_alpha", header.metadata.get("alpha", rank)))
    except (ValueError, AttributeError, TypeError) as error:
        raise _layout("its metadata does not say its alpha in numbers") from error
    modules = {name.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for name in names.values()}
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(modules),
        "lora_dropout": 0.0,
        "use_rslora": stabilised,
        "bias": "none",
    }


def write_renamed(
    source: Path,
    names: Mapping[str, str],
    *,
    into: Path,
    metadata: Mapping[str, str] | None = None,
    numbers: Mapping[str, float] | None = None,
) -> None:
    """Write those tensors of the safetensors file `source` that `names` gives a new name to the new file `into`, their
    bytes untouched, and `numbers` behind them as fp32 scalars.

    `metadata` is added to what the header holds. Blocking.
    """
    with source.open("rb") as stream, into.open("xb") as target:
        length = int.from_bytes(stream.read(8), "little")
        old = json.loads(stream.read(length))
        entries: dict[str, Any] = {"__metadata__": {**old.pop("__metadata__", {}), **(metadata or {}), "format": "pt"}}
        places, at = [], 0
        for key, entry in sorted(old.items(), key=lambda item: item[1]["data_offsets"]):
            if key in names:
                begin, end = entry["data_offsets"]
                entries[names[key]] = {**entry, "data_offsets": [at, at + end - begin]}
                places.append((begin, end))
                at += end - begin
        for name in numbers or {}:
            entries[name] = {"dtype": "F32", "shape": [], "data_offsets": [at, at + 4]}
            at += 4
        raw = json.dumps(entries, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)  # the format aligns the buffer to 8 bytes
        target.write(len(raw).to_bytes(8, "little") + raw)
        for begin, end in places:
            stream.seek(8 + length + begin)
            for start in range(begin, end, _CHUNK):
                target.write(stream.read(min(_CHUNK, end - start)))
        for value in (numbers or {}).values():
            target.write(struct.pack("<f", value))


def _layout(message: str) -> Invalid:
    return Invalid(
        message,
        field="files",
        reason="ADAPTER_LAYOUT",
        remedy=f"send {CONFIG} and {WEIGHTS} as PEFT writes them, or one file as diffusers' save_lora_weights does",
    )
