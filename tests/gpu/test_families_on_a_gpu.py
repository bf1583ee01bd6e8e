"""Every family and method on the device: what the conformance suite promises on a CPU, as far as a GPU can."""

import math
from pathlib import Path

import pytest
import torch
from marsam_trainer.run import preview
from marsam_trainer.run.checkpoint import write_state
from safetensors.torch import load_file

from marsam.diffusion import registry
from marsam.diffusion.lanes.net import Lanes
from marsam.diffusion.precision import Precision, Quantisation
from marsam.diffusion.spec import Part
from tests.contract.families import rig as rigs

pytestmark = pytest.mark.gpu

every_pair = pytest.mark.parametrize(
    ("family", "method"), [(family, method) for family in registry.families() for method in registry.methods()]
)


@pytest.mark.parametrize("family", registry.families())
def test_a_family_says_the_same_on_the_device_as_on_a_cpu(bases: dict[str, Path], family: str, device: str) -> None:
    net = registry.family(family)
    here, there = (net.load(bases[family], device=name) for name in ("cpu", device))
    cpu, gpu = (rigs.predict(net, parts) for parts in (here, there))
    assert float((cpu - gpu).abs().max()) <= 1e-3 * float(cpu.abs().max())
    texts = [net.encode_text(parts, rigs.PROMPTS).to("cpu").tensors for parts in (here, there)]
    for name, value in texts[0].items():
        assert torch.allclose(value.float(), texts[1][name].float(), atol=1e-3), name
    pixels = torch.zeros(1, 3, rigs.side(here.facts), rigs.side(here.facts))
    latents = [net.encode_image(parts, pixels).cpu() for parts in (here, there)]
    assert torch.allclose(*latents, atol=1e-3)


@every_pair
def test_a_run_in_bf16_learns_is_saved_and_goes_on(
    bases: dict[str, Path], family: str, method: str, device: str, tmp_path: Path
) -> None:
    rig = rigs.load(bases[family], family, method, precision=Precision.BF16, device=device)
    frozen = {
        name: value.detach().clone() for name, value in rig.denoiser.named_parameters() if name not in rig.trained
    }
    before = {name: value.detach().clone() for name, value in rig.trained.items()}
    loop = rigs.loop(rig, steps=6, ema_decay=0.9)
    losses = [loop.step() for _ in range(4)]
    assert all(map(math.isfinite, losses))
    assert {str(value.device) for value in rig.trained.values()} == {str(torch.zeros((), device=device).device)}
    assert {value.dtype for value in rig.trained.values()} == {torch.float32}
    assert [name for name, value in rig.trained.items() if torch.equal(value, before[name])] == []
    named = dict(rig.denoiser.named_parameters())
    assert all(torch.equal(named[name], value) for name, value in frozen.items())
    write_state(loop.state(), tmp_path / "state.safetensors")
    again = rigs.loop(
        rigs.load(bases[family], family, method, precision=Precision.BF16, device=device), steps=6, ema_decay=0.9
    )
    again.restore(load_file(tmp_path / "state.safetensors"), 4)
    for name, value in loop.state().items():
        assert torch.equal(value.cpu(), again.state()[name].cpu()), name
    # From the same state both take the same step, up to what a GPU rounds differently from call to call.
    assert again.step() == pytest.approx(loop.step(), rel=1e-2)


@every_pair
def test_a_preview_changes_nothing_on_the_device(bases: dict[str, Path], family: str, method: str, device: str) -> None:
    rig = rigs.load(bases[family], family, method, precision=Precision.BF16, device=device)
    loop = rigs.loop(rig, steps=4)
    loop.step()
    before = {name: value.clone() for name, value in loop.state().items()}
    generator = torch.cuda.get_rng_state(device) if device.startswith("cuda") else torch.get_rng_state()
    wanted = preview.pictures(["a red kite"], rig.parts.facts, side=rig.side, seed=3)
    texts = rig.family.encode_text(rig.parts, ["a red kite", ""]).to("cpu")
    drawn = preview.draw(rig.family, rig.parts, wanted, texts, lanes=Lanes(1), budget_s=120.0)
    assert drawn is not None
    assert drawn[0].startswith(b"\x89PNG")
    assert all(torch.equal(value, before[name]) for name, value in loop.state().items())
    after = torch.cuda.get_rng_state(device) if device.startswith("cuda") else torch.get_rng_state()
    assert torch.equal(generator, after)
    assert math.isfinite(loop.step())


def test_four_bits_are_those_of_a_cpu(bases: dict[str, Path], device: str) -> None:
    net = registry.family("flux")
    held = [
        net.load(bases["flux"], parts=frozenset({Part.DENOISER}), device=name, quantisation=Quantisation()).denoiser
        for name in ("cpu", device)
    ]
    for (name, here), there in zip(held[0].named_parameters(), held[1].parameters(), strict=True):
        if getattr(here, "quant_state", None) is not None:
            # A number half way between two codes may fall to either side.
            assert float((here != there.cpu()).float().mean()) <= 1e-3, name
            assert torch.allclose(here.quant_state.absmax.float(), there.quant_state.absmax.cpu().float(), atol=1.0)


@pytest.mark.parametrize("optimiser", ["adamw", "adamw_unfused", "adamw_8bit", "adamw_8bit_paged"])
def test_every_optimiser_steps_and_comes_back(
    bases: dict[str, Path], optimiser: str, device: str, tmp_path: Path
) -> None:
    def made():  # type: ignore[no-untyped-def]
        return rigs.loop(rigs.load(bases["sd1"], "sd1", "full", device=device), steps=6, optimiser=optimiser)

    loop = made()
    for _ in range(3):
        loop.step()
    write_state(loop.state(), tmp_path / "state.safetensors")
    again = made()
    again.restore(load_file(tmp_path / "state.safetensors"), 3)
    assert {name: value.dtype for name, value in again.state().items()} == {
        name: value.dtype for name, value in loop.state().items()
    }
    assert again.step() == pytest.approx(loop.step(), rel=1e-3)
