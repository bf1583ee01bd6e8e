"""DoRA under every family: a start to the bit, what it computes, what is saved, and where it can go."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from marsam.core.errors import Corrupt, Invalid
from marsam.diffusion import registry
from marsam.diffusion.adapter import net as adapters
from marsam.diffusion.adapter.parts import net as parts_of_adapters
from marsam.diffusion.precision import Precision
from marsam.diffusion.spec import Components
from tests.contract.families import rig as rigs
from tests.contract.families.tuned import Tuned

DORA = {"dora": True}
every_pair = pytest.mark.parametrize(
    ("family", "method"), [(family, method) for family in registry.families() for method in ("lora", "qlora")]
)


class _Two(nn.Module):
    """A Linear layer and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 10)
        self.conv = nn.Conv2d(3, 5, 3, padding=1)


def _tuned(two: _Two) -> adapters.LowRank:
    """Put a DoRA adapter with random numbers on both layers."""
    shape = adapters.LowRank(rank=2, alpha=6.0, targets=("line", "conv"), dora=True)
    trained = adapters.inject(two, shape, seed=1)
    with torch.no_grad():
        for value in trained.values():
            value += 0.3 * torch.randn(value.shape)
    return shape


@torch.no_grad()
def test_a_layer_computes_what_the_paper_says() -> None:
    torch.manual_seed(0)
    two = _Two()
    x, picture = torch.randn(4, 6), torch.randn(2, 3, 8, 8)
    plain = (two.line(x), two.conv(picture))
    shape = _tuned(two)
    wanted = []
    for layer in (two.line, two.conv):
        own = layer.get_base_layer().weight
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        v = own + shape.scale_of("line") * (up.flatten(1) @ down.flatten(1)).view(own.shape)
        m = layer.lora_magnitude_vector["default"].weight.flatten()
        wanted.append((m / v.flatten(1).norm(dim=1)).view(-1, *[1] * (v.ndim - 1)) * v)
    line, conv = two.line.get_base_layer(), two.conv.get_base_layer()
    tuned = (functional.linear(x, wanted[0], line.bias), functional.conv2d(picture, wanted[1], conv.bias, padding=1))
    for have, want in zip((two.line(x), two.conv(picture)), tuned, strict=True):
        torch.testing.assert_close(have, want, atol=1e-5, rtol=1e-5)
    adapters.set_weight(two, 0.25)
    for have, want, before in zip((two.line(x), two.conv(picture)), tuned, plain, strict=True):
        torch.testing.assert_close(have, before + 0.25 * (want - before), atol=1e-5, rtol=1e-5)
    adapters.set_weight(two, 0.0)
    for have, before in zip((two.line(x), two.conv(picture)), plain, strict=True):
        assert torch.equal(have, before)
    with adapters.muted([two]):
        assert torch.equal(two.line(x), plain[0])


def test_lengths_that_are_missing_or_surplus_are_refused(tmp_path: Path) -> None:
    two = _Two()
    _tuned(two)
    adapters.save(two, tmp_path, metadata={})
    assert set(adapters.read(tmp_path).magnitudes) == {"line", "conv"}
    config, weights = tmp_path / adapters.CONFIG, tmp_path / adapters.WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(b"")
    tensors = {key: value for key, value in _loaded(whole, tmp_path).items() if key != f"{_KEY}line.{_LENGTHS}"}
    save_file(tensors, weights)
    with pytest.raises(Corrupt) as caught:
        adapters.read(tmp_path)
    assert caught.value.reason == "ADAPTER_INCOMPLETE"
    weights.write_bytes(whole)
    config.write_text(config.read_text().replace('"use_dora": true', '"use_dora": false'))
    with pytest.raises(Corrupt) as caught:
        adapters.read(tmp_path)
    assert caught.value.reason == "ADAPTER_INCOMPLETE"


_KEY, _LENGTHS = "base_model.model.", "lora_magnitude_vector"


def _loaded(data: bytes, folder: Path) -> dict[str, torch.Tensor]:
    (folder / "copy.safetensors").write_bytes(data)
    return load_file(folder / "copy.safetensors")


@pytest.mark.slow
@every_pair
def test_a_start_to_the_bit(bases: dict[str, Path], family: str, method: str) -> None:
    rig = rigs.load(bases[family], family, method, params=DORA)
    assert torch.equal(rigs.predict(rig.family, rig.parts), rigs.predict(rig.family, rigs.plain(rig)))
    # In half precision too, as a run computes it.
    first = [
        rigs.loop(rigs.load(bases[family], family, method, params=params, precision=Precision.BF16)).step()
        for params in (DORA, {})
    ]
    assert first[0] == first[1]


@pytest.mark.slow
@every_pair
def test_trained_saved_and_loaded(bases: dict[str, Path], family: str, method: str, tmp_path: Path) -> None:
    rig = rigs.load(bases[family], family, method, params=DORA)
    rigs.moves_alone(rig, dict(rig.denoiser.named_parameters()))
    tuned, base = rigs.predict(rig.family, rig.parts), rigs.plain(rig)
    untuned = rigs.predict(rig.family, base)
    rig.save(tmp_path)
    adapter = adapters.read(tmp_path)
    assert 3 * adapters.apply(base.denoiser, adapter) == adapter.tensors == len(rig.trained)
    assert torch.equal(rigs.predict(rig.family, base), tuned)
    # Not what the pairs alone come to.
    pairs = rigs.plain(rig)
    adapters.apply(pairs.denoiser, replace(adapter, shape=replace(adapter.shape, dora=False), magnitudes={}))
    assert float((rigs.predict(rig.family, pairs) - tuned).abs().max()) > 1e-3
    adapters.set_weight(base.denoiser, 0.0)
    assert torch.equal(rigs.predict(rig.family, base), untuned)


@pytest.mark.slow
@every_pair
def test_resumed_in_the_same_bits(bases: dict[str, Path], family: str, method: str, tmp_path: Path) -> None:
    rigs.goes_on_in_the_same_bits(
        lambda: rigs.loop(rigs.load(bases[family], family, method, params=DORA), ema_decay=0.9), tmp_path
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sdxl", "z_image"])
def test_on_text_encoders_too(bases: dict[str, Path], family: str, tmp_path: Path) -> None:
    rig = rigs.load(bases[family], family, "lora", params={**DORA, **rigs.WITH_TEXT})
    base = rig.family.load(bases[family])
    before = _reads(rig, base)
    assert all(torch.equal(_reads(rig, rig.parts)[name], value) for name, value in before.items())
    rigs.taught(rig)
    after = _reads(rig, rig.parts)
    rig.save(tmp_path)
    adapter = adapters.read(tmp_path)
    assert adapter.tensors == len(rig.trained)
    encoders = {folder: base.text[folder] for folder in rig.family.facts.encoders}
    modules = {rig.family.facts.denoiser_folder: base.denoiser, **encoders}
    assert 3 * parts_of_adapters.apply_all(modules, rig.family.facts, adapter) == len(rig.trained)
    again = _reads(rig, base)
    assert all(torch.equal(again[name], value) for name, value in after.items())
    assert any(not torch.equal(again[name], value) for name, value in before.items())


@torch.no_grad()
def _reads(rig: rigs.Rig, parts: Components) -> dict[str, torch.Tensor]:
    for folder in rig.family.facts.encoders:
        parts.text[folder].eval()
    return dict(rig.family.encode_text(parts, rigs.PROMPTS).tensors)


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.families())
def test_diffusers_and_peft_read_it_and_others_are_not_given_it(
    bases: dict[str, Path], name: str, tmp_path: Path
) -> None:
    tuned = Tuned(bases[name], name, tmp_path, **DORA)
    theirs = PeftModel.from_pretrained(rigs.plain(tuned.rig).denoiser, tmp_path / "adapter").base_model.model
    assert torch.equal(tuned.says(theirs), tuned.said)
    pipeline = DiffusionPipeline.from_pretrained(bases[name], local_files_only=True)
    pipeline.load_lora_weights(tuned.exported("diffusers"))
    torch.testing.assert_close(tuned.says(getattr(pipeline, tuned.part)), tuned.said, atol=1e-5, rtol=1e-4)
    for dialect in ("comfyui", "kohya"):
        with pytest.raises(Invalid) as caught:
            tuned.exported(dialect)
        assert caught.value.reason == "DIALECT_UNSUITED"
