"""Kohya's dialect under the makers' own names of layers: diffusers' readers of LoRAs and of the makers' checkpoints
find in it what was trained."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from marsam_trainer import tensorfile
from marsam_trainer.adapters import read_adapter
from marsam_trainer.exports import retold
from marsam_trainer.tensorfile import Stored
from marsam_trainer.weights import Content, Tensor
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from marsam.core.errors import Invalid
from marsam.diffusion import dialects, registry
from marsam.diffusion.adapter.scales import Scales
from tests.contract.families.tuned import Tuned

pytestmark = pytest.mark.slow
KOHYA = [name for name in registry.families() if registry.family_facts(name).kohya is not None]
CONVERTERS: Mapping[str, Callable[..., Any]] = {
    "sdxl": lambda tensors, config: convert_ldm_unet_checkpoint(
        {f"model.diffusion_model.{key}": value for key, value in tensors.items()}, config
    ),
    "sd3": lambda tensors, config: convert_sd3_transformer_checkpoint_to_diffusers(tensors),
}


class Checkpoint(dict[str, torch.Tensor]):
    """A checkpoint of the makers; what was not put in is zeros."""

    def pop(self, key: str, *default: Any) -> torch.Tensor:
        return super().pop(key, torch.zeros(12))


def test_the_families_that_kohya_trains() -> None:
    assert KOHYA == ["flux", "sd1", "sd3", "sdxl"]


@pytest.mark.parametrize("params", [{}, {"rank_stabilised": True}], ids=["plain", "stabilised"])
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_diffusers_reads_kohyas_names(
    bases: dict[str, Path], name: str, tmp_path: Path, params: dict[str, Any]
) -> None:
    tuned = Tuned(bases[name], name, tmp_path, **params)
    pipeline = DiffusionPipeline.from_pretrained(bases[name], local_files_only=True)
    pipeline.load_lora_weights(tuned.exported("kohya"))
    torch.testing.assert_close(tuned.says(pipeline.unet), tuned.said, atol=1e-5, rtol=1e-4)


def test_names_of_sdxl_are_those_of_sd_scripts() -> None:
    """As in the adapters that people have of the real one: two resnets a block, ten transformers in the middle."""
    layers = registry.family_facts("sdxl").kohya
    assert layers is not None
    ours = [
        "down_blocks.0.resnets.0.conv1",
        "down_blocks.0.resnets.1.conv1",
        "down_blocks.0.downsamplers.0.conv",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "down_blocks.2.attentions.1.proj_in",
        "down_blocks.2.resnets.0.conv_shortcut",
        "mid_block.resnets.1.conv2",
        "mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj",
        "up_blocks.0.attentions.2.transformer_blocks.3.attn2.to_out.0",
        "up_blocks.0.upsamplers.0.conv",
        "up_blocks.1.resnets.2.time_emb_proj",
    ]
    theirs = [
        "input_blocks.1.0.in_layers.2",
        "input_blocks.2.0.in_layers.2",
        "input_blocks.3.0.op",
        "input_blocks.4.1.transformer_blocks.0.attn1.to_q",
        "input_blocks.8.1.proj_in",
        "input_blocks.7.0.skip_connection",
        "middle_block.2.out_layers.3",
        "middle_block.1.transformer_blocks.9.ff.net.0.proj",
        "output_blocks.2.1.transformer_blocks.3.attn2.to_out.0",
        "output_blocks.2.2.conv",
        "output_blocks.5.0.emb_layers.1",
    ]
    assert layers.layers({*ours, "up_blocks.0.resnets.2.conv1"}).items() >= {
        (name, (ours[row],)) for row, name in enumerate(theirs)
    }


@pytest.mark.parametrize("name", CONVERTERS)
def test_a_makers_checkpoint_with_the_change_is_ours_with_it(bases: dict[str, Path], name: str, tmp_path: Path) -> None:
    tuned = Tuned(bases[name], name, tmp_path)
    file = load_file(tuned.exported("kohya"))
    shapes = tuned.denoiser_tensors()
    kohya = tuned.rig.family.facts.kohya
    assert kohya is not None
    theirs: dict[str, torch.Tensor] = Checkpoint()
    for original, parts in kohya.layers(
        {key.removesuffix(".weight") for key in shapes if key.endswith(".weight")}
    ).items():
        first = shapes[f"{parts[0]}.weight"].shape
        shape = (sum(shapes[f"{part}.weight"].shape[0] for part in parts), *first[1:])
        stem = dialects.flat(original)
        change = torch.zeros(shape)
        if f"{stem}.alpha" in file:
            down, up = file.pop(f"{stem}.lora_down.weight"), file.pop(f"{stem}.lora_up.weight")
            scale = file.pop(f"{stem}.alpha") / down.shape[0]
            change = (up.flatten(1) @ down.flatten(1) * scale).view(shape)
        theirs |= {f"{original}.weight": change, f"{original}.bias": torch.zeros(shape[0])}
    assert file == {}
    converted = CONVERTERS[name](theirs, dict(tuned.rig.denoiser.config))
    ours = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    modules = {key.rpartition(".lora_")[0] for key in ours}
    assert modules
    for module in modules:
        change = 2.0 * ours[f"{module}.lora_B.weight"].flatten(1) @ ours[f"{module}.lora_A.weight"].flatten(1)
        found = converted[f"{module.removeprefix(dialects.PEFT)}.weight"]
        torch.testing.assert_close(found.flatten(1), change, atol=1e-6, rtol=1e-5)


WIDE = {"to_q": 3072, "to_k": 3072, "to_v": 3072, "proj_mlp": 12288}
"""Rows of the real FLUX.1's layers: diffusers' reader knows no others."""


def flux_adapter(file: Path, *, rank: int, without: str = "") -> tuple[dict[str, torch.Tensor], dict[str, Tensor]]:
    """An adapter of one double and one single block of FLUX.1, written to `file` in PEFT's names; and its base."""
    double, single = "transformer_blocks.0", "single_transformer_blocks.0"
    layers = {
        **{f"{single}.{name if name == 'proj_mlp' else f'attn.{name}'}": rows for name, rows in WIDE.items()},
        **{f"{double}.attn.{name}": 3072 for name in ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_q_proj")},
        f"{double}.attn.add_v_proj": 3072,
        f"{double}.ff.net.0.proj": 12288,
        f"{single}.proj_out": 3072,
    }
    generator = torch.Generator().manual_seed(1)
    wide = {f"{single}.proj_out": 15360}
    tensors = {}
    for layer, rows in layers.items():
        if layer != without:
            columns = wide.get(layer, 3072)
            tensors[f"{layer}.lora_A.weight"] = torch.randn((rank, columns), generator=generator)
            tensors[f"{layer}.lora_B.weight"] = torch.randn((rows, rank), generator=generator)
    save_file({f"{dialects.PEFT}{key}": value for key, value in tensors.items()}, file)
    base = {
        f"{layer}.weight": Tensor(dtype="BF16", shape=(rows, wide.get(layer, 3072))) for layer, rows in layers.items()
    }
    return tensors, base


@pytest.mark.parametrize("without", ["", "single_transformer_blocks.0.proj_mlp"], ids=["whole", "attention"])
def test_diffusers_reads_flux_under_its_makers_names(tmp_path: Path, without: str) -> None:
    tensors, base = flux_adapter(tmp_path / "ours.safetensors", rank=4, without=without)
    facts = registry.family_facts("flux")
    stored = Stored(tmp_path / "ours.safetensors", name="x")
    made = retold("kohya", facts, stored, base, scales=Scales(rank=4, alpha=4.0))
    assert {key.split(".")[0] for key in made} == {
        "lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_double_blocks_0_img_attn_proj",
        "lora_unet_double_blocks_0_txt_attn_qkv", "lora_unet_double_blocks_0_img_mlp_0",
        "lora_unet_single_blocks_0_linear1", "lora_unet_single_blocks_0_linear2",
    }  # fmt: skip
    tensorfile.write(tmp_path / "kohya.safetensors", made, metadata={})
    read = FluxPipeline.lora_state_dict(load_file(tmp_path / "kohya.safetensors"))
    if without:
        for half in "AB":
            assert not read.pop(f"transformer.{without}.lora_{half}.weight").any()
    assert set(read) == {f"transformer.{key}" for key in tensors}
    assert all(torch.equal(read[f"transformer.{key}"], value) for key, value in tensors.items())
    parameters, back = read_adapter(
        {"k": tmp_path / "kohya.safetensors"}, {"k": Content.SAFETENSORS}, family="flux", denoiser=base,
        scratch=tmp_path / "back",
    )  # fmt: skip
    assert back is not None
    assert (parameters["rank"], parameters["alpha"]) == (4, 4.0)
    stored = load_file(back["adapter_model.safetensors"])
    assert set(stored) == {f"{dialects.PEFT}{key}" for key in tensors}
    assert all(torch.equal(stored[f"{dialects.PEFT}{key}"], value) for key, value in tensors.items())


def test_a_pair_trained_on_a_layer_that_is_several_of_ours(tmp_path: Path) -> None:
    """As sd-scripts itself trains FLUX.1: one lower half for queries, keys and values."""
    _, base = flux_adapter(tmp_path / "ours.safetensors", rank=4)
    generator = torch.Generator().manual_seed(2)
    stem = "lora_unet_double_blocks_0_img_attn_qkv"
    down, up = torch.randn((6, 3072), generator=generator), torch.randn((9216, 6), generator=generator)
    theirs = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(3.0)}
    save_file(theirs, tmp_path / "theirs.safetensors")
    parameters, back = read_adapter(
        {"k": tmp_path / "theirs.safetensors"}, {"k": Content.SAFETENSORS}, family="flux", denoiser=base,
        scratch=tmp_path / "back",
    )  # fmt: skip
    assert back is not None
    assert (parameters["rank"], parameters["alpha"], parameters["modules"]) == (6, 3.0, 3)
    stored = load_file(back["adapter_model.safetensors"])
    read = FluxPipeline.lora_state_dict(dict(theirs))
    for name in ("to_q", "to_k", "to_v"):
        ours = [stored[f"{dialects.PEFT}transformer_blocks.0.attn.{name}.lora_{half}.weight"] for half in "AB"]
        other = [read[f"transformer.transformer_blocks.0.attn.{name}.lora_{half}.weight"] for half in "AB"]
        torch.testing.assert_close(0.5 * ours[1] @ ours[0], other[1] @ other[0])


def test_alpha_is_in_the_file_and_in_its_metadata(bases: dict[str, Path], tmp_path: Path) -> None:
    tuned = Tuned(bases["sd3"], "sd3", tmp_path, rank_stabilised=True)
    with safe_open(tuned.exported("kohya"), "pt") as file:
        said = {key: value for key, value in file.metadata().items() if key.startswith("ss_network")}
        assert said == {"ss_network_module": "networks.lora_sd3", "ss_network_dim": "4", "ss_network_alpha": "16"}
        alphas = {key: float(file.get_tensor(key)) for key in file.keys() if key.endswith(".alpha")}  # noqa: SIM118
    assert {48.0 if "qkv" in key else 16.0 for key in alphas} == {16.0, 48.0}
    assert all(value == (48.0 if "qkv" in key else 16.0) for key, value in alphas.items())


def test_a_layer_that_kohya_has_no_name_for_is_refused() -> None:
    facts = registry.family_facts("flux")
    with pytest.raises(Invalid, match=r"1 of the adapter's layers, norm_out\.linear first"):
        dialects.pairs("kohya", facts, {"norm_out.linear", "proj_out"}, {"norm_out.linear", "proj_out"})
