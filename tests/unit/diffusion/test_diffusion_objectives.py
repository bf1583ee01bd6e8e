"""Schedules and objectives against their closed forms."""

import math
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import pytest
import torch

from marsam.core.errors import Invalid
from marsam.diffusion import registry, schedule
from marsam.diffusion.spec import BaseFacts

_SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def _levels(*signals: float) -> tuple[torch.Tensor, torch.Tensor]:
    signal = torch.tensor(signals, dtype=torch.float64).view(-1, 1, 1, 1)
    return signal, (1 - signal**2).sqrt()


@pytest.mark.parametrize("name", ["epsilon", "v"])
def test_the_clean_latent_follows_from_a_perfect_prediction(name: str) -> None:
    objective = registry.objective(name)
    clean, noise = torch.randn(4, 2, 3, 3, dtype=torch.float64), torch.randn(4, 2, 3, 3, dtype=torch.float64)
    signal, level = _levels(0.99, 0.7, 0.3, 0.05)
    noisy = objective.noisy(clean, noise, signal, level)
    target = objective.target(clean, noise, signal, level)
    found = (noisy - level * target) / signal if name == "epsilon" else signal * noisy - level * target
    torch.testing.assert_close(found, clean)


def test_v_is_defined_without_any_signal() -> None:
    objective = registry.objective("v")
    clean, noise = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)
    signal, level = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    assert torch.equal(objective.target(clean, noise, signal, level), -clean)
    assert float(objective.weight(signal, level, 5.0)) == 0.0


@pytest.mark.parametrize("snr", [0.01, 1.0, 4.9, 5.0, 5.1, 100.0])
def test_min_snr_weights(snr: float) -> None:
    signal, level = _levels(math.sqrt(snr / (1 + snr)))
    assert float(registry.objective("epsilon").weight(signal, level, 5.0)) == pytest.approx(min(snr, 5.0) / snr)
    assert float(registry.objective("v").weight(signal, level, 5.0)) == pytest.approx(min(snr, 5.0) / (snr + 1))


@pytest.mark.parametrize("name", ["epsilon", "v", "flow"])
def test_weights_are_one_without_gamma_and_finite_everywhere(name: str) -> None:
    objective = registry.objective(name)
    signal, level = _levels(0.0, 0.5, 1.0)
    assert torch.equal(objective.weight(signal, level, None), torch.ones_like(signal))
    assert bool(torch.isfinite(objective.weight(signal, level, 5.0)).all())


def test_zero_terminal_snr_ends_at_pure_noise_and_keeps_its_beginning() -> None:
    plain, zero = schedule.from_config(_SD), schedule.from_config({**_SD, "rescale_betas_zero_snr": True})
    assert plain.signal[-1] == pytest.approx(0.0683, abs=1e-3)
    assert (zero.signal[-1], zero.noise[-1]) == (0.0, 1.0)
    assert zero.signal[0] == pytest.approx(plain.signal[0])
    assert all(a > b for a, b in zip(zero.signal, zero.signal[1:], strict=False))
    assert all(s**2 + n**2 == pytest.approx(1.0) for s, n in zip(zero.signal, zero.noise, strict=True))


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_every_known_schedule_is_diffusers_own(kind: str) -> None:
    from diffusers import DDPMScheduler

    config = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": kind, "num_train_timesteps": 1000}
    ours = torch.tensor(schedule.from_config(config).signal, dtype=torch.float64).square()
    theirs = DDPMScheduler(**config).alphas_cumprod.double()
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-4)


def test_times_run_from_the_first_step_to_one() -> None:
    table = schedule.from_config(_SD)
    assert table.steps == 1000
    assert table.time(0) == 0.001
    assert table.time(999) == 1.0


@pytest.mark.parametrize("t", [0.001, 0.4, 1.0])
def test_a_flow_is_a_straight_line_and_its_velocity_leads_to_the_clean_latent(t: float) -> None:
    objective = registry.objective("flow")
    clean, noise = torch.randn(2, 3, 2, 2, dtype=torch.float64), torch.randn(2, 3, 2, 2, dtype=torch.float64)
    signal, level = (torch.full((2, 1, 1, 1), value, dtype=torch.float64) for value in schedule.Line().levels(t))
    noisy, velocity = objective.noisy(clean, noise, signal, level), objective.target(clean, noise, signal, level)
    torch.testing.assert_close(noisy - t * velocity, clean)
    torch.testing.assert_close(noisy + (1 - t) * velocity, noise)
    snr = ((1 - t) / t) ** 2
    assert float(objective.weight(signal, level, 5.0)[0]) == pytest.approx(min(snr, 5.0) * t**2)


def test_flow_times_are_logit_normal_and_shifted_towards_noise() -> None:
    uniform = [(i + 0.5) / 4001 for i in range(4001)]
    plain = [schedule.Line().draw(u) for u in uniform]
    logits = [math.log(t / (1 - t)) for t in plain]
    mean = sum(logits) / len(logits)
    assert mean == pytest.approx(0.0, abs=1e-3)
    assert sum((value - mean) ** 2 for value in logits) / len(logits) == pytest.approx(1.0, abs=0.01)
    moved = [schedule.Line(3.0).draw(u) for u in uniform]
    assert moved[2000] == pytest.approx(0.75)
    # A shift is a constant in logits: log(t'/(1-t')) = log(t/(1-t)) + log(s).
    assert math.log(moved[17] / (1 - moved[17])) - logits[17] == pytest.approx(math.log(3.0))
    assert all(0.0 < t <= 1.0 for t in (schedule.Line(3.0).draw(0.0), schedule.Line(3.0).draw(1.0 - 2**-53)))


FLOW = BaseFacts(
    family="sd3", objective="flow", latent_channels=4, latent_factor=8, side_multiple=16, default_side=64,
    text_length=8, conditioning={}, train_steps=1000, scheduler={}, patch=2, flow=schedule.Flow(shift=3.0),
)  # fmt: skip


def test_the_law_of_times_can_be_chosen_and_is_the_bases_own_otherwise() -> None:
    assert schedule.of(FLOW, 64, 64) == schedule.of(FLOW, 64, 64, schedule.Times()) == schedule.Line(3.0)
    uniform = [(i + 0.5) / 4001 for i in range(4001)]

    def drawn(**times: Any) -> list[float]:
        return [schedule.of(FLOW, 64, 64, schedule.Times(**times)).draw(u) for u in uniform]

    # The same bits as before there was a choice: the base's shift of the logistic function of a normal number.
    was = [1.0 / (1.0 + math.exp(-(0.0 + 1.0 * NormalDist().inv_cdf(u)))) for u in uniform]
    assert drawn() == drawn(shift=3.0) == [3.0 * t / (1.0 + (3.0 - 1.0) * t) for t in was]
    assert drawn(uniform=True, shift=1.0) == pytest.approx(uniform)
    assert drawn(uniform=True)[2000] == pytest.approx(0.75)
    logits = [math.log(t / (1 - t)) for t in drawn(shift=1.0, mean=-0.5, spread=0.7)]
    mean = sum(logits) / len(logits)
    assert mean == pytest.approx(-0.5, abs=1e-3)
    assert math.sqrt(sum((value - mean) ** 2 for value in logits) / len(logits)) == pytest.approx(0.7, abs=0.01)
    edges = [0.0, 1.0 - 2**-53]
    for far in ({"uniform": True}, {"mean": 10.0, "spread": 10.0}, {"mean": -10.0, "spread": 10.0, "shift": 0.01}):
        assert all(0.0 < schedule.of(FLOW, 64, 64, schedule.Times(**far)).draw(u) <= 1.0 for u in edges)


def test_a_base_without_a_flow_has_no_law_of_times_to_choose() -> None:
    table = replace(FLOW, objective="epsilon", flow=None, scheduler=_SD)
    assert schedule.of(table, 64, 64) == schedule.from_config(_SD)
    for times in (schedule.Times(shift=3.0), schedule.Times(uniform=True), schedule.Times(mean=1.0)):
        with pytest.raises(Invalid) as caught:
            schedule.of(table, 64, 64, times)
        assert (caught.value.reason, "predicts epsilon" in caught.value.message) == ("TIMES_FIXED", True)


def test_a_flows_shift_is_its_schedulers_own() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    config = {
        "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256,
        "max_image_seq_len": 4096, "time_shift_type": "exponential",
    }  # fmt: skip
    flow = schedule.Flow(mu=schedule.line_through(config), even=True)
    assert flow.mu is not None
    assert flow.mu(256, 20) == pytest.approx(0.5)
    assert flow.mu(4096, 20) == pytest.approx(1.15)
    theirs = FlowMatchEulerDiscreteScheduler(**config)
    theirs.set_timesteps(4, sigmas=[1.0, 0.75, 0.5, 0.25], mu=flow.mu(1024, 4))
    ours = [schedule.shifted(t, flow.factor(1024, 4)) for t in (1.0, 0.75, 0.5, 0.25)]
    torch.testing.assert_close(torch.tensor(ours), theirs.sigmas[:4])
    assert schedule.Flow(mu=lambda tokens, steps: 1.7, exponential=False).factor(1, 1) == 1.7
    assert schedule.Flow(shift=3.0).factor(1024, 4) == 3.0
    read = schedule.flow(config, even=True)
    assert read.even
    assert read.factor(1024, 4) == flow.factor(1024, 4)
    assert schedule.flow({**config, "time_shift_type": "linear"}, even=False).factor(256, 4) == pytest.approx(0.5)
    assert schedule.flow({"shift": 6.0, "use_dynamic_shifting": False}, even=True) == schedule.Flow(
        shift=6.0, even=True
    )


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(Invalid) as caught:
        schedule.from_config({**_SD, "beta_schedule": "laplace"})
    assert caught.value.reason == "SCHEDULE_UNKNOWN"
