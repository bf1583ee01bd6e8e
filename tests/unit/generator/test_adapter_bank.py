"""The bank against PEFT and against itself: mixed rows, weights, masks, slots."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from marsam_generator.engine.bank import AdapterBank

from marsam.core.errors import Corrupt, Invalid, Missing
from marsam.diffusion import registry
from marsam.diffusion.adapter.net import Adapter, apply
from marsam.diffusion.precision import Precision, Quantisation
from marsam.diffusion.spec import Components, Conditioning
from tests.unit.generator.tiny import TOKENS, WIDTH

FAMILY = registry.family("sd1")
TOLERANCE = 2e-5


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    noise = torch.Generator().manual_seed(7)
    noisy = torch.randn((5, 4, 8, 8), generator=noise)
    times = torch.tensor([0.1, 0.4, 0.6, 0.9, 1.0], dtype=torch.float64)
    return noisy, times, Conditioning({"hidden": torch.randn((5, TOKENS, WIDTH), generator=noise)})


def predict(module: torch.nn.Module, rows: tuple[torch.Tensor, torch.Tensor, Conditioning]) -> torch.Tensor:
    with torch.inference_mode():
        return FAMILY.predict(module, *rows, train_steps=1000)


def banked(
    bank: AdapterBank,
    module: torch.nn.Module,
    rows: tuple[torch.Tensor, torch.Tensor, Conditioning],
    uses: Sequence[Mapping[str, float]],
) -> torch.Tensor:
    with bank.rows(uses):
        return predict(module, rows)


def filled(parts: Components, adapters: Mapping[str, Adapter]) -> AdapterBank:
    assert parts.denoiser is not None
    bank = AdapterBank(parts.denoiser)
    for key, adapter in adapters.items():
        bank.install(bank.prepare(key, adapter))
    return bank


def test_a_mixed_batch_equals_peft_one_adapter_at_a_time(parts, adapters, rows) -> None:
    pristine = deepcopy(parts.denoiser)
    bank = filled(parts, adapters)
    uses = [{"a": 1.0}, {}, {"b": 0.7}, {"narrow": -1.5}, {"a": 0.0}]
    mixed = banked(bank, parts.denoiser, rows, uses)
    for row, use in enumerate(uses):
        alone = deepcopy(pristine)
        for name, weight in use.items():
            apply(alone, adapters[name], weight=weight)
        expected = predict(alone, rows)[row]
        assert (mixed[row] - expected).abs().max() < TOLERANCE
    assert (mixed[0] - predict(pristine, rows)[0]).abs().max() > 0.05  # the adapter does something at all


def test_rows_without_adapter_and_rows_at_weight_0_equal_the_base_bit_for_bit(parts, adapters, rows) -> None:
    base = predict(parts.denoiser, rows)
    bank = filled(parts, adapters)
    mixed = banked(bank, parts.denoiser, rows, [{"a": 1.0}, {}, {"b": 0.0}, {"b": 2.0}, {"a": 0.0, "b": 0.0}])
    assert all(torch.equal(mixed[row], base[row]) for row in (1, 2, 4))
    assert not torch.equal(mixed[0], base[0])
    assert torch.equal(banked(bank, parts.denoiser, rows, [{}] * 5), base)
    assert torch.equal(predict(parts.denoiser, rows), base)


def test_two_adapters_compose_as_their_sum(parts, adapters, rows) -> None:
    bank = filled(parts, adapters)
    both = banked(bank, parts.denoiser, rows, [{"a": 0.6, "narrow": 0.4}] * 5)
    # One adapter whose A and B hold both: the sum, by definition of a product of stacked matrices.
    a, narrow = adapters["a"], adapters["narrow"]
    pairs = {}
    for name, (down, up) in a.pairs.items():
        more = narrow.pairs.get(name)
        downs = [down] if more is None else [down, more[0]]
        ups = [0.6 * up] if more is None else [0.6 * up, 0.4 * more[1]]
        pairs[name] = (torch.cat(downs), torch.cat(ups, dim=1))
    bank.install(bank.prepare("sum", replace(a, pairs=pairs)))
    assert (both - banked(bank, parts.denoiser, rows, [{"sum": 1.0}] * 5)).abs().max() < TOLERANCE


def test_layers_with_a_rank_and_an_alpha_of_their_own(parts, adapters, rows) -> None:
    one = adapters["a"]
    names = sorted(one.pairs)
    thin = {name: (down[:1], up[:, :1]) for name, (down, up) in one.pairs.items() if name in names[::2]}
    shape = replace(one.shape, ranks=dict.fromkeys(thin, 1), alphas=dict.fromkeys(names[::3], 0.5))
    mixed = replace(one, shape=shape, pairs={**one.pairs, **thin})
    pristine = deepcopy(parts.denoiser)
    bank = filled(parts, {"mixed": mixed, "b": adapters["b"]})
    said = banked(bank, parts.denoiser, rows, [{"mixed": 1.0}, {"b": 1.0}, {"mixed": -0.5}, {}, {}])
    for row, weight in ((0, 1.0), (2, -0.5)):
        alone = deepcopy(pristine)
        apply(alone, mixed, weight=weight)
        assert (said[row] - predict(alone, rows)[row]).abs().max() < TOLERANCE
    # The scale is of the layer: ½ / 1 where both are its own.
    alone = deepcopy(pristine)
    apply(alone, mixed)
    layer, (down, up) = alone.get_submodule(names[0]), mixed.pairs[names[0]]
    assert layer.scaling["default"] == 0.5
    assert torch.equal(layer.get_delta_weight("default").flatten(1), 0.5 * (up.flatten(1) @ down.flatten(1)))


def test_an_overflowing_adapter_never_touches_a_strangers_row(parts, adapters, rows) -> None:
    bank = filled(parts, adapters)
    uses = [{"a": 1.0}, {}, {"narrow": 1.0}, {"b": 1.0}, {"a": 1.0}]
    calm = banked(bank, parts.denoiser, rows, uses)
    wild = {name: (torch.full_like(down, 3e38), up) for name, (down, up) in adapters["b"].pairs.items()}
    bank.evict("b")
    bank.install(bank.prepare("b", replace(adapters["b"], pairs=wild)))
    mixed = banked(bank, parts.denoiser, rows, uses)
    assert not torch.isfinite(mixed[3]).all()
    assert all(torch.equal(mixed[row], calm[row]) for row in (0, 1, 2, 4))


def test_rows_apart_have_the_same_bits_whatever_their_neighbours_ask_for(parts, adapters, rows) -> None:
    bank = filled(parts, adapters)
    own = {"a": 0.7, "narrow": 0.2}

    def third(*others: Mapping[str, float]) -> torch.Tensor:
        with bank.rows([*others[:2], own, *others[2:]], apart=True):
            return predict(parts.denoiser, rows)[2]

    alone = third({}, {}, {}, {})
    for others in ([own] * 4, [{"a": 0.7}, {"a": 0.7}, {"a": 1.0}, {"b": 1.0}], [{"b": 1.0}, {}, {"narrow": 1.0}, {}]):
        assert torch.equal(third(*others), alone)


def test_neighbours_that_share_an_operation_are_as_each_by_itself(parts, adapters, rows) -> None:
    bank = filled(parts, {**adapters, "c": replace(adapters["a"], pairs=dict(adapters["a"].pairs))})
    for uses in (
        [{"a": 1.0}, {"c": 0.5}, {"a": -0.3}, {"c": 1.0}, {"b": 1.0}],
        [{"a": 1.0}, {"a": 1.0}, {"c": 0.5}, {"c": 0.5}, {}],
        [{"a": 1.0, "b": 0.1}, {"c": 0.5, "b": 0.2}, {"narrow": 1.0, "a": 0.5}, {}, {"c": 1.0, "a": 1.0}],
    ):
        mixed = banked(bank, parts.denoiser, rows, uses)
        with bank.rows(uses, apart=True):
            apart = predict(parts.denoiser, rows)
        assert (mixed - apart).abs().max() < TOLERANCE


def test_numbers_are_checked_when_loaded(parts, adapters) -> None:
    bank = AdapterBank(parts.denoiser)
    name, (down, up) = next(iter(adapters["a"].pairs.items()))
    for bad in (float("inf"), float("nan")):
        poisoned = up.clone()
        poisoned.view(-1)[0] = bad
        with pytest.raises(Corrupt) as caught:
            bank.prepare("a", replace(adapters["a"], pairs={name: (down, poisoned)}))
        assert caught.value.reason == "ADAPTER_NOT_FINITE"
        assert name in caught.value.message


def test_an_adapter_of_another_shape_is_refused_by_layer(parts, adapters) -> None:
    bank = AdapterBank(parts.denoiser)
    name, (down, up) = next(iter(adapters["a"].pairs.items()))
    with pytest.raises(Invalid) as caught:
        bank.prepare("a", replace(adapters["a"], pairs={name: (down[:, :-1], up)}))
    assert caught.value.reason == "ADAPTER_SHAPE"
    with pytest.raises(Invalid) as caught:
        bank.prepare("a", replace(adapters["a"], pairs={"mid_block.nowhere": (down, up)}))
    assert caught.value.reason == "ADAPTER_LAYER_UNKNOWN"


def test_eviction_frees_rank_for_the_next_and_leaves_others_alone(parts, adapters, rows) -> None:
    bank = filled(parts, {"a": adapters["a"], "b": adapters["b"]})
    before = banked(bank, parts.denoiser, rows, [{"b": 1.0}] * 5)
    size = bank.size_bytes
    for cycle in range(20):
        bank.evict("a" if cycle % 2 == 0 else "c")
        key = "c" if cycle % 2 == 0 else "a"
        bank.install(bank.prepare(key, adapters["a"]))
    assert bank.size_bytes == size
    assert torch.equal(banked(bank, parts.denoiser, rows, [{"b": 1.0}] * 5), before)
    with pytest.raises(Missing):
        bank.evict("c")
    bank.evict("a")
    bank.evict("b")
    assert (bank.size_bytes, dict(bank.resident)) == (0, {})
    assert not any(module._forward_hooks for module in parts.denoiser.modules())


def test_its_size_is_that_of_the_adapters_tensors_and_goes_with_evictions(parts, adapters) -> None:
    def own(*keys: str) -> int:
        return sum(adapters[key].nbytes for key in keys)

    bank = filled(parts, {"narrow": adapters["narrow"]})
    assert bank.size_bytes == own("narrow")
    for key in ("a", "b"):
        bank.install(bank.prepare(key, adapters[key]))
    assert bank.size_bytes == own("narrow", "a", "b")
    bank.evict("a")
    assert bank.size_bytes == own("narrow", "b")
    bank.evict("b")
    assert bank.size_bytes == own("narrow")
    hooked = [name for name, module in parts.denoiser.named_modules() if module._forward_hooks]
    assert set(hooked) == set(adapters["narrow"].pairs)


def test_what_stays_draws_the_same_when_another_goes(parts, adapters, rows) -> None:
    bank = filled(parts, adapters)
    uses = [{"narrow": 1.0}, {}, {"b": 0.5}, {"b": 1.0, "narrow": 0.3}, {}]
    before = banked(bank, parts.denoiser, rows, uses)
    bank.evict("a")
    assert torch.equal(banked(bank, parts.denoiser, rows, uses), before)
    with pytest.raises(Missing) as caught, bank.rows([{"a": 1.0}]):
        pass
    assert caught.value.reason == "ADAPTER_NOT_RESIDENT"


def test_the_base_is_never_written(parts, adapters, rows) -> None:
    before = {name: value.clone() for name, value in parts.denoiser.state_dict().items()}
    bank = filled(parts, adapters)
    for _ in range(10):
        banked(bank, parts.denoiser, rows, [{"a": 1.0}, {"b": 1.0, "a": 0.3}, {}, {"narrow": 2.0}, {"a": 0.5}])
    after = parts.denoiser.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("loading", "tolerance"),
    [({"precision": Precision.BF16}, 0.05), ({"quantisation": Quantisation()}, 1e-4)],
    ids=["bf16", "nf4"],
)
def test_the_bank_on_a_base_in_fewer_bits(base_folder, adapters, rows, loading, tolerance) -> None:
    held = FAMILY.load(base_folder, **loading).denoiser
    adapted = FAMILY.load(base_folder, **loading).denoiser
    assert held is not None
    before = predict(held, rows)
    bank = AdapterBank(held)
    bank.install(bank.prepare("a", adapters["a"]))
    apply(adapted, adapters["a"])
    mixed = banked(bank, held, rows, [{"a": 1.0}, {}, {"a": 1.0}, {}, {}])
    expected = predict(adapted, rows)
    assert all((mixed[row] - expected[row]).abs().max() < tolerance for row in (0, 2))
    assert all(torch.equal(mixed[row], before[row]) for row in (1, 3, 4))
    assert (mixed[0] - before[0]).abs().max() > 0.05
