"""DoRA from elsewhere under every family: what we export, what PEFT saves, what LyCORIS' names say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from marsam_generator.engine.bank import AdapterBank
from marsam_trainer.adapters import read_adapter
from marsam_trainer.weights import Content
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from marsam.diffusion import registry
from marsam.diffusion.adapter import net as adapters
from marsam.diffusion.adapter.parts import net as parts_of_adapters
from tests.contract.families import rig as rigs
from tests.contract.families.test_text_dialects import reads, same
from tests.contract.families.tuned import Tuned

pytestmark = pytest.mark.slow
every_family = pytest.mark.parametrize("name", registry.families())
WITH_KOHYA = [name for name in registry.families() if registry.family_facts(name).kohya is not None]


def _taken(tuned: Tuned, files: Mapping[str, Path], into: Path) -> tuple[dict[str, Any], Path]:
    """The parameters and the folder of these files as they are stored."""
    contents = {name: Content.SAFETENSORS if name.endswith(".safetensors") else Content.JSON for name in files}
    parameters, rewritten = read_adapter(
        files, contents, family=tuned.rig.family.facts.name, denoiser=tuned.denoiser_tensors(),
        encoders=tuned.encoder_tensors(), scratch=into,
    )  # fmt: skip
    return parameters, into if rewritten else files["adapter_config.json"].parent


def _draws(tuned: Tuned, folder: Path, wanted: torch.Tensor, **near: float) -> None:
    """Under the adapter in `folder` a base says what was wanted, in the bank too, and not what it says without."""
    plain = rigs.plain(tuned.rig).denoiser
    before = tuned.says(plain)
    assert not torch.allclose(before, wanted, atol=1e-3)
    bank = AdapterBank(plain)
    bank.install(bank.prepare("a", adapters.read(folder)))
    with bank.rows([{"a": 1.0}, {}, {"a": 1.0}]):
        mixed = tuned.says(plain)
    torch.testing.assert_close(mixed[::2], wanted[::2], atol=1e-4, rtol=1e-3)
    assert torch.equal(mixed[1], before[1])
    plain = rigs.plain(tuned.rig).denoiser
    adapters.apply(plain, adapters.read(folder))
    torch.testing.assert_close(tuned.says(plain), wanted, **(near or {"atol": 0.0, "rtol": 0.0}))


@every_family
def test_what_we_export_comes_back_the_same(bases: dict[str, Path], name: str, tmp_path: Path) -> None:
    tuned = Tuned(bases[name], name, tmp_path, dora=True)
    stored, own = _taken(tuned, tuned.stored(), tmp_path / "unused")
    assert (stored["dora"], own) == (True, tmp_path / "adapter")
    file = tuned.exported("diffusers")
    back, made = _taken(tuned, {file.name: file}, tmp_path / "back")
    assert back == stored
    before, after = (load_file(folder / adapters.WEIGHTS) for folder in (own, made))
    assert set(before) == set(after) and len(before) == 3 * back["modules"]
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    _draws(tuned, made, tuned.said)


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_on_text_encoders_too(bases: dict[str, Path], name: str, tmp_path: Path) -> None:
    tuned = Tuned(bases[name], name, tmp_path, dora=True, **rigs.WITH_TEXT)
    stored, _ = _taken(tuned, tuned.stored(), tmp_path / "unused")
    file = tuned.exported("diffusers")
    back, made = _taken(tuned, {file.name: file}, tmp_path / "back")
    assert back == stored and back["text_modules"]
    networks = tuned.rig.family.load(bases[name])
    modules = {tuned.part: networks.denoiser, **networks.text}
    assert 3 * parts_of_adapters.apply_all(modules, tuned.rig.family.facts, adapters.read(made)) == back["keys"]
    same(reads(tuned, networks.text), reads(tuned, {}))


@every_family
def test_what_peft_saves_comes_in_and_says_what_peft_says(bases: dict[str, Path], name: str, tmp_path: Path) -> None:
    tuned = Tuned(bases[name], name, tmp_path)
    theirs = rigs.plain(tuned.rig).denoiser
    targets = list(tuned.rig.family.facts.targets["all"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = get_peft_model(theirs, LoraConfig(r=3, lora_alpha=5, target_modules=targets, use_dora=True))
        for path, value in model.named_parameters():
            if ".lora_B." in path:
                value.data.normal_(0.0, 0.05)
            if ".lora_magnitude_vector." in path:
                value.data *= 1 + 0.3 * torch.rand(value.shape)
    model.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    said = tuned.says(model.base_model.model.eval())
    files = {file: tmp_path / "theirs" / file for file in (adapters.CONFIG, adapters.WEIGHTS)}
    parameters, folder = _taken(tuned, files, tmp_path / "unused")
    assert (parameters["rank"], parameters["alpha"], parameters["dora"]) == (3, 5.0, True)
    assert parameters["keys"] == 3 * parameters["modules"]
    _draws(tuned, folder, said)


@pytest.mark.parametrize("apart", [False, True], ids=["one pair", "pairs side by side"])
@pytest.mark.parametrize("name", WITH_KOHYA)
def test_what_lycoris_names_say(bases: dict[str, Path], name: str, tmp_path: Path, apart: bool) -> None:
    """Layers of theirs that are several of ours have lengths as high as all of them. A part whose pair is zero
    (`apart`) has lengths all the same."""
    tuned = Tuned(bases[name], name, tmp_path)
    facts, plain = tuned.rig.family.facts, rigs.plain(tuned.rig).denoiser
    assert facts.kohya is not None
    modules = dict(plain.named_modules())
    targets = tuple(facts.targets["all"])
    tensors: dict[str, torch.Tensor] = {}
    torch.manual_seed(6)
    for theirs, parts in facts.kohya.layers(modules).items():
        if not all(part.endswith(targets) for part in parts):
            continue
        own = [modules[part].weight.data for part in parts]
        height, count = sum(one.shape[0] for one in own), len(parts)
        rank = 2 * count
        down = 0.2 * torch.randn(rank, *own[0].shape[1:])
        up = 0.2 * torch.randn(height, rank, *(1 for _ in own[0].shape[2:]))
        if apart and count > 1:
            blocks = [0.2 * torch.randn(one.shape[0], 2) for one in own]
            up = torch.block_diag(*blocks[:-1], torch.zeros_like(blocks[-1]))
            down[-2:] = 0.0
        weight = torch.cat(own)
        v = weight + 1.5 / rank * (up.flatten(1) @ down.flatten(1)).view(weight.shape)
        ones = [1] * (weight.ndim - 1)
        lengths = weight.flatten(1).norm(dim=1).view(-1, *ones) * (1 + 0.3 * torch.rand(height, *ones))
        stem = f"lora_unet_{theirs.replace('.', '_')}"
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        tensors |= {f"{stem}.alpha": torch.tensor(1.5), f"{stem}.dora_scale": lengths}
        tuned_weight = lengths / v.flatten(1).norm(dim=1).view(-1, *ones) * v
        for part, rows in zip(parts, tuned_weight.split([one.shape[0] for one in own]), strict=True):
            modules[part].weight.data = rows.contiguous()
    save_file(tensors, tmp_path / "theirs.safetensors")
    parameters, folder = _taken(tuned, {"theirs.safetensors": tmp_path / "theirs.safetensors"}, tmp_path / "made")
    assert (parameters["dora"], parameters["keys"]) == (True, len(tensors))
    _draws(tuned, folder, tuned.says(plain), atol=1e-4, rtol=1e-3)
