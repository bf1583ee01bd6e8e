"""DoRA adapters in the bank: what PEFT computes, beside strangers, at any weight, without a weight ever written."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from marsam_generator.engine.bank import AdapterBank

from marsam.core.errors import Corrupt, Invalid
from marsam.diffusion import registry
from marsam.diffusion.adapter.net import Adapter, apply, read
from marsam.diffusion.precision import Precision, Quantisation
from marsam.diffusion.spec import Conditioning
from tests.unit.generator.tiny import TOKENS, WIDTH, write_adapter

FAMILY = registry.family("sd1")


@pytest.fixture(scope="module")
def dora(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return read(write_adapter(tmp_path_factory.mktemp("adapters") / "dora", base_folder, seed=1, dora=True))


def predict(module: torch.nn.Module) -> torch.Tensor:
    noise = torch.Generator().manual_seed(7)
    noisy = torch.randn((4, 4, 8, 8), generator=noise)
    times = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    cond = Conditioning({"hidden": torch.randn((4, TOKENS, WIDTH), generator=noise)})
    with torch.inference_mode():
        return FAMILY.predict(module, noisy, times, cond, train_steps=1000).float()


def banked(bank: AdapterBank, module: torch.nn.Module, uses: Sequence[Mapping[str, float]]) -> torch.Tensor:
    with bank.rows(uses):
        return predict(module)


@pytest.mark.parametrize(
    ("loading", "tolerance"),
    [({}, 2e-5), ({"precision": Precision.BF16}, 0.1), ({"quantisation": Quantisation()}, 2e-4)],
    ids=["fp32", "bf16", "nf4"],
)
def test_it_draws_what_peft_computes_beside_strangers(base_folder, adapters, dora, loading, tolerance) -> None:
    held = FAMILY.load(base_folder, **loading).denoiser
    assert held is not None
    untouched = {name: value.clone() for name, value in held.state_dict().items() if isinstance(value, torch.Tensor)}
    plain = predict(held)
    expected = {}
    for weight in (1.0, 0.4):
        adapted = FAMILY.load(base_folder, **loading).denoiser
        apply(adapted, dora, weight=weight)
        expected[weight] = predict(adapted)
    bank = AdapterBank(held)
    for key, adapter in {"dora": dora, "b": adapters["b"]}.items():
        bank.install(bank.prepare(key, adapter))
    mixed = banked(bank, held, [{"dora": 1.0}, {"dora": 0.4}, {"b": 0.5}, {"dora": 0.0}])
    assert (mixed[0] - expected[1.0][0]).abs().max() < tolerance
    assert (mixed[1] - expected[0.4][1]).abs().max() < tolerance
    assert torch.equal(mixed[3], plain[3])
    # Not what its pairs alone come to.
    pairs = replace(dora, shape=replace(dora.shape, dora=False), magnitudes={})
    bank.install(bank.prepare("pairs", pairs))
    assert (banked(bank, held, [{"pairs": 1.0}] * 4)[0] - mixed[0]).abs().max() > 0.3
    after = held.state_dict()
    assert all(torch.equal(after[name], value) for name, value in untouched.items())


def test_it_is_drawn_alone_or_not_at_all(parts, adapters, dora) -> None:
    bank = AdapterBank(parts.denoiser)
    for key, adapter in {"dora": dora, "a": adapters["a"]}.items():
        bank.install(bank.prepare(key, adapter))
    for use in ({"dora": 1.0, "a": 0.5}, {"a": -1.0, "dora": 0.1}):
        with pytest.raises(Invalid, match="DoRA") as caught, bank.rows([{}, use]):
            pass
        assert (caught.value.reason, caught.value.resource) == ("ADAPTER_COMPOSITION", "dora")
    # What has no weight is not there.
    with bank.rows([{"dora": 1.0, "a": 0.0}, {"a": 1.0, "dora": 0.0}]):
        pass


def test_its_bytes_are_counted_and_its_lengths_checked(parts, adapters, dora) -> None:
    bank = AdapterBank(parts.denoiser)
    bank.install(bank.prepare("dora", dora))
    assert bank.size_bytes == dora.nbytes > adapters["a"].nbytes
    name, lengths = next(iter(dora.magnitudes.items()))
    # Lengths that are finite and of which the ratio to the layer's own is not.
    with pytest.raises(Corrupt) as caught:
        bank.prepare("wild", replace(dora, magnitudes={**dora.magnitudes, name: torch.full_like(lengths, 3.4e38)}))
    assert caught.value.reason == "ADAPTER_NOT_FINITE"
