"""Every family's denoiser in every type, held in every way, beside adapters: who asks for none has the base's bits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from marsam_generator.engine.bank import AdapterBank

from marsam.diffusion import registry
from marsam.diffusion.adapter.net import Adapter, read
from marsam.diffusion.held.net import whole
from marsam.diffusion.precision import QUANTISATIONS, Precision, Quantisation
from marsam.diffusion.sampling import Picture, for_base, sample, told
from marsam.diffusion.spec import Part
from tests.contract.families import rig as rigs

pytestmark = pytest.mark.slow
HELD = ("", *QUANTISATIONS)
ALONE = {Precision.FP32: 1e-4, Precision.BF16: 0.1, Precision.FP16: 0.02}
"""Largest difference between a row in a batch of four and alone, of predictions' standard deviations."""


@pytest.fixture(scope="module")
def adapters(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    known: dict[str, Adapter] = {}

    def of(name: str) -> Adapter:
        if name not in known:
            rig, folder = rigs.load(bases[name], name, "lora"), tmp_path_factory.mktemp(name)
            rigs.taught(rig)
            rig.save(folder)
            known[name] = read(folder)
        return known[name]

    return of


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("name", registry.families())
def test_a_mixed_batch_on_bases_in_fewer_bits(
    bases: dict[str, Path], adapters: Any, name: str, precision: Precision, held: str
) -> None:
    family, quantisation = registry.family(name), Quantisation.of(held) if held else None
    parts = family.load(
        bases[name], parts=frozenset({Part.DENOISER, Part.TEXT}), precision=precision, quantisation=quantisation
    )
    low_rank = adapters(name)
    lengths = {}
    for layer, (down, _) in low_rank.pairs.items():
        norm = whole(parts.denoiser.get_submodule(layer)).flatten(1).norm(dim=1) * 1.1
        lengths[layer] = norm.view(1, -1, 1, 1) if down.ndim == 4 else norm
    dora = replace(low_rank, shape=replace(low_rank.shape, dora=True), magnitudes=lengths)
    bank = AdapterBank(parts.denoiser)
    for key, adapter in {"tuned": low_rank, "dora": dora}.items():
        bank.install(bank.prepare(key, adapter))
    side = rigs.side(parts.facts)
    picture = for_base(Picture(prompt="a kite", seed=1, width=side, height=side, guidance=2.0), parts.facts)
    with torch.no_grad():
        cond = told(family.encode_text(parts, ["a kite"]), [picture])
    noisy = torch.randn((1, *parts.facts.latent_shape(side, side)), generator=torch.Generator().manual_seed(3))

    def predict(*uses: dict[str, float]) -> torch.Tensor:
        count, t = len(uses), torch.tensor([0.7], dtype=torch.float64)
        with torch.inference_mode(), bank.rows(list(uses)):
            return family.predict(
                parts.denoiser, noisy.expand(count, -1, -1, -1), t.expand(count), cond.rows([0] * count),
                train_steps=parts.facts.train_steps,
            ).float()  # fmt: skip

    base = predict({}, {}, {}, {})
    mixed = predict({"tuned": 1.0}, {"tuned": 0.0}, {"dora": 0.0}, {"dora": 1.0})
    assert torch.isfinite(mixed).all()
    assert torch.equal(mixed[1:3], base[1:3])
    for row, use in ((0, {"tuned": 1.0}), (3, {"dora": 1.0})):
        alone = predict(use)[0]
        assert (mixed[row] - alone).abs().max() < ALONE[precision] * float(base.std())
        assert not torch.equal(mixed[row], base[row])


@pytest.mark.parametrize("name", registry.families())
def test_pictures_on_eight_bits_are_nearer_to_the_bases_than_on_four(bases: dict[str, Path], name: str) -> None:
    family = registry.family(name)
    pictures = {}
    for held in ("", "int8", "nf4"):
        parts = family.load(bases[name], quantisation=Quantisation.of(held) if held else None)
        side = rigs.side(parts.facts)
        wanted = Picture(prompt="a kite", seed=1, width=side, height=side, steps=3, guidance=2.0)
        pictures[held] = sample(family, parts, [for_base(wanted, parts.facts)])[0]
    far = {held: float((pictures[held] - pictures[""]).abs().mean()) for held in ("int8", "nf4")}
    assert 0 < far["int8"] < far["nf4"] / 2
