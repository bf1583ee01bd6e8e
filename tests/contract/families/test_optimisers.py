"""Every optimiser resumes in the same bits, keeps what the plan says, and refuses another one's state; steps taken in
parts, and blocks computed again, give the gradients of the whole."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from marsam_trainer.run import effect, optimisers, recompute
from marsam_trainer.run.checkpoint import write_state
from safetensors.torch import load_file

from marsam.catalog.runs import Optimiser
from marsam.core.errors import Invalid, Unsupported
from marsam.diffusion import registry
from tests.contract.families import rig as rigs

pytestmark = pytest.mark.slow
KINDS: tuple[Optimiser, ...] = get_args(Optimiser)
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _small_tensors_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # At tiny sizes no tensor would be held in 8 bits otherwise.
    monkeypatch.setattr(optimisers, "LEAST_8BIT", 64)


def _loop(bases: dict[str, Path], method: str, **plan: Any) -> Any:
    return rigs.loop(rigs.load(bases["sd1"], "sd1", method), **plan)


@every_kind
@pytest.mark.parametrize("method", registry.methods())
def test_a_resumed_run_ends_in_the_same_bits(
    bases: dict[str, Path], method: str, kind: Optimiser, tmp_path: Path
) -> None:
    whole = _loop(bases, method, optimiser=kind, ema_decay=0.9, steps=6)
    while not whole.done:
        whole.step()
    first = _loop(bases, method, optimiser=kind, ema_decay=0.9, steps=6)
    for _ in range(3):
        first.step()
    write_state(first.state(), tmp_path / "state.safetensors")
    second = _loop(bases, method, optimiser=kind, ema_decay=0.9, steps=6)
    second.restore(load_file(tmp_path / "state.safetensors"), 3)
    while not second.done:
        second.step()
    assert second.position.losses == whole.position.losses
    assert rigs.digest(second.state()) == rigs.digest(whole.state())


@every_kind
def test_its_state_takes_what_the_plan_says(bases: dict[str, Path], kind: Optimiser) -> None:
    loop = _loop(bases, "lora", optimiser=kind)
    loop.step()
    moments = [
        part
        for name, part in optimisers.state(loop.optimiser, loop.trained).items()
        if not name.startswith("optimiser/step/")
    ]
    eight = [part for part in moments if part.dtype == torch.uint8]
    assert bool(eight) == kind.startswith("adamw_8bit")
    sizes = [value.numel() for value in loop.trained.values()]
    assert sum(part.nbytes for part in moments) == optimisers.state_bytes(kind, sizes)


def test_the_fused_kernel_is_used_where_it_was_asked_for(bases: dict[str, Path]) -> None:
    fused, plain = (_loop(bases, "lora", optimiser=kind, rate=1e-3) for kind in ("adamw", "adamw_unfused"))
    assert fused.optimiser.param_groups[0]["fused"] is True
    assert not plain.optimiser.param_groups[0]["fused"]
    for _ in range(4):
        assert fused.step() == pytest.approx(plain.step(), rel=1e-4)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_fused_kernel_moves_what_the_plain_one_moves(bases: dict[str, Path], method: str) -> None:
    fused, plain = (_loop(bases, method, optimiser=kind, rate=1e-3) for kind in ("adamw", "adamw_unfused"))
    gradients = _gradients(fused)[1]
    fused.step()
    plain.step()
    assert all(gradients[name].stride() == value.stride() for name, value in fused.trained.items())
    # An eighth of what a first step moves a number by.
    for name, value in plain.trained.items():
        torch.testing.assert_close(fused.trained[name], value, atol=6e-5, rtol=0.0, msg=name)


def test_eight_bits_learn_nearly_the_same(bases: dict[str, Path]) -> None:
    exact, coarse = (_loop(bases, "full", optimiser=kind, rate=1e-3) for kind in ("adamw", "adamw_8bit"))
    for _ in range(6):
        assert coarse.step() == pytest.approx(exact.step(), rel=0.05)


@pytest.mark.parametrize(("saved", "read"), [("adamw", "adamw_8bit"), ("adamw_8bit", "adamw")])
def test_another_optimisers_state_is_refused(bases: dict[str, Path], saved: Optimiser, read: Optimiser) -> None:
    one = _loop(bases, "lora", optimiser=saved)
    one.step()
    with pytest.raises(Invalid) as caught:
        _loop(bases, "lora", optimiser=read).restore(one.state(), 1)
    assert caught.value.reason == "CHECKPOINT_MISMATCH"


def test_a_checkpoint_of_before_pictures_were_held_out_is_gone_on_from(bases: dict[str, Path]) -> None:
    one = _loop(bases, "lora")
    one.step()
    old = {name: value for name, value in one.state().items() if name != "validation"}
    two = _loop(bases, "lora")
    two.restore(old, 1)
    assert (two.position.validation, two.step()) == ([], one.step())


def test_validation_asks_the_weights_that_would_be_published_and_leaves_those_that_learn(
    bases: dict[str, Path],
) -> None:
    loop = _loop(bases, "lora", ema_decay=0.5)
    for _ in range(3):
        loop.step()
    held_out = [loop.feed.batch(100), loop.feed.batch(101)]
    before = rigs.digest(loop.state())
    asked = loop.validate(held_out, stopping=lambda: False)
    assert loop.position.validation == [(3, asked)]
    loop.position.validation.clear()
    assert rigs.digest(loop.state()) == before
    assert loop.parts.denoiser.training
    loop.settle()
    assert loop.validate(held_out, stopping=lambda: False) == asked


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_the_best_weights_are_kept_as_they_would_have_been_published(
    bases: dict[str, Path], ema_decay: float | None, tmp_path: Path
) -> None:
    loop = _loop(bases, "lora", ema_decay=ema_decay, keep_best=True, rate=0.05, steps=9)
    held_out = [loop.feed.batch(100)]
    published: dict[int, dict[str, torch.Tensor]] = {}
    loop.validate(held_out, stopping=lambda: False)
    assert (loop.best, loop.best_step) == ({}, None)
    while not loop.done:
        loop.step()
        loop.validate(held_out, stopping=lambda: False)
        shown = loop.average or loop.trained
        published[loop.position.step] = {name: value.detach().clone() for name, value in shown.items()}
        if loop.position.step == 5:
            write_state(loop.state(), tmp_path / "state.safetensors")
    losses = {step: loss for step, loss in loop.position.validation if step > 0}
    best = min(losses, key=lambda step: losses[step])
    assert loop.best_step == best
    assert rigs.digest(loop.best) == rigs.digest(published[best])
    again = _loop(bases, "lora", ema_decay=ema_decay, keep_best=True, rate=0.05, steps=9)
    again.restore(load_file(tmp_path / "state.safetensors"), 5)
    while not again.done:
        again.step()
        again.validate(held_out, stopping=lambda: False)
    assert rigs.digest(again.state()) == rigs.digest(loop.state())
    again.settle_best()
    assert rigs.digest(again.trained) == rigs.digest(published[best])


def test_a_checkpoint_that_lost_the_best_weights_is_refused(bases: dict[str, Path]) -> None:
    loop = _loop(bases, "lora", keep_best=True)
    loop.step()
    loop.validate([loop.feed.batch(100)], stopping=lambda: False)
    poor = {name: value for name, value in loop.state().items() if not name.startswith("best/")}
    with pytest.raises(Invalid) as caught:
        _loop(bases, "lora", keep_best=True).restore(poor, 1)
    assert caught.value.reason == "CHECKPOINT_MISMATCH"


@every_kind
def test_parameters_that_never_had_a_gradient_are_known(kind: Optimiser) -> None:
    named = {name: torch.nn.Parameter(torch.ones(64, 64)) for name in ("heard", "unheard", "absent")}
    optimiser = optimisers.make(kind, list(named.values()), 1e-3)
    for _ in range(2):
        named["heard"].grad, named["unheard"].grad = torch.full((64, 64), 1e-3), torch.zeros(64, 64)
        optimisers.take_step(optimiser)
    assert not torch.equal(named["unheard"], torch.ones(64, 64)), "weight decay moves it"
    assert optimisers.without_gradient(optimiser, named) == {"unheard", "absent"}


def test_what_did_not_move_is_named_and_nothing_moved_is_an_error(bases: dict[str, Path]) -> None:
    loop = _loop(bases, "lora")
    start = effect.Start(loop.trained)
    loop.step()
    # After one step first halves stand still: the second ones were zero.
    assert start.check(loop) == ""
    assert all("lora_A" in name for name in start.still(loop)[0])
    loop.step()
    assert (start.check(loop), start.still(loop)) == ("", ([], len(loop.trained)))
    name, left_out = next(iter(loop.trained.items()))
    other = _loop(bases, "lora")
    start = effect.Start(other.trained)
    other.optimiser.param_groups[0]["params"].remove(other.trained[name])
    for _ in range(3):
        other.step()
    assert start.check(other) == f"1 of {len(other.trained)} trained parameters did not move: {name}"
    assert not torch.equal(other.trained[name], left_out)
    nothing = _loop(bases, "full", rate=1e-60)
    start = effect.Start(nothing.trained)
    for _ in range(2):
        nothing.step()
    with pytest.raises(Invalid) as caught:
        start.check(nothing)
    assert (caught.value.reason, "learning_rate" in caught.value.remedy) == ("TRAINED_NOTHING", True)


def test_validation_stops_when_told_and_notes_only_numbers(bases: dict[str, Path]) -> None:
    loop = _loop(bases, "lora")
    asked: list[int] = []

    def batches() -> Any:
        for step in range(5):
            asked.append(step)
            yield loop.feed.batch(step)

    assert loop.validate(batches(), stopping=lambda: len(asked) == 3) is None
    assert (len(asked), loop.position.validation) == (3, [])
    with torch.no_grad():
        next(iter(loop.trained.values())).fill_(math.nan)
    assert math.isnan(loop.validate([loop.feed.batch(0)], stopping=lambda: False))
    assert loop.position.validation == []


def _gradients(loop: Any) -> tuple[float, dict[str, torch.Tensor]]:
    loop.parts.denoiser.train()
    loss, _ = loop._gradients(loop.feed.batch(0))
    return loss, {name: value.grad.clone() for name, value in loop.trained.items()}


def test_a_step_weighs_what_its_batch_says_and_its_loss_is_told_as_it_is(bases: dict[str, Path]) -> None:
    loop = _loop(bases, "lora", accumulate=2, lanes=2)
    loss, plain = _gradients(loop)
    batch = loop.feed.batch(0)
    loop.feed = SimpleNamespace(batch=lambda step: replace(batch, weight=0.5))
    told, half = _gradients(loop)
    assert told == loss
    for name, gradient in plain.items():
        assert torch.equal(half[name], 0.5 * gradient)


@pytest.mark.parametrize("accumulate", [2, 3, 4])
@pytest.mark.parametrize("lanes", [1, 2])
def test_a_step_in_parts_has_the_gradient_of_the_whole(bases: dict[str, Path], accumulate: int, lanes: int) -> None:
    loss, whole = _gradients(_loop(bases, "lora"))
    parted, parts = _gradients(_loop(bases, "lora", accumulate=accumulate, lanes=lanes))
    assert parted == pytest.approx(loss, rel=1e-5)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", registry.methods())
def test_blocks_computed_again_give_the_same_gradients_from_less_memory(bases: dict[str, Path], method: str) -> None:
    plain, again = (_loop(bases, method) for _ in range(2))
    recompute.checkpoint_blocks(again.parts.denoiser)
    kept = [0, 0]
    found = []
    for place, loop in enumerate((plain, again)):

        def keep(value: torch.Tensor, place: int = place) -> torch.Tensor:
            kept[place] += value.nbytes
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            found.append(_gradients(loop))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])
    assert kept[1] < 0.7 * kept[0]


def test_a_network_that_cannot_is_told() -> None:
    with pytest.raises(Unsupported) as caught:
        recompute.checkpoint_blocks(torch.nn.Linear(2, 2))
    assert caught.value.reason == "CHECKPOINTING_UNSUPPORTED"
