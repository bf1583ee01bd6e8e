"""Intervals against published values and their own promise; corrections against hand values."""

import numpy as np
import pytest
from marsam_generator.evaluation.statistics import (
    Agreement,
    PromptBootstrap,
    clustered_newcombe,
    clustered_wilson,
    effective_n,
    newcombe_paired,
    percentile_interval,
    rogan_gladen,
    wilson,
)

from marsam.core.errors import Invalid


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_limits(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson(successes, n)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


def test_wilson_is_closed_at_the_ends_and_symmetric() -> None:
    assert wilson(0, 8).low == 0.0
    assert wilson(8, 8).high == 1.0
    assert wilson(8, 8).low == pytest.approx(1 - wilson(0, 8).high)
    three_of_ten = wilson(3, 10)
    assert (three_of_ten.low, three_of_ten.high) == (pytest.approx(0.1078, abs=1e-4), pytest.approx(0.6032, abs=1e-4))


@pytest.mark.parametrize(("successes", "n"), [(-1, 10), (11, 10), (0, 0)])
def test_wilson_refuses_what_is_no_proportion(successes: int, n: int) -> None:
    with pytest.raises(Invalid):
        wilson(successes, n)


def test_newcombes_paired_interval_gives_the_published_limits() -> None:
    # Newcombe 1998 (Statistics in Medicine 17:2635), the example 36 / 12 / 2 / 0, method 10.
    interval = newcombe_paired(36, 12, 2, 0)
    assert interval.low == pytest.approx(0.0569, abs=5e-5)
    assert interval.high == pytest.approx(0.3404, abs=5e-5)


def test_newcombes_paired_interval_turns_with_its_arguments() -> None:
    there, back = newcombe_paired(20, 9, 3, 8), newcombe_paired(20, 3, 9, 8)
    assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))
    assert there.low < (9 - 3) / 40 < there.high


def test_pairs_that_agree_in_everything_still_leave_room() -> None:
    interval = newcombe_paired(43, 0, 0, 0)
    assert -0.09 < interval.low < -0.05
    assert interval.high == pytest.approx(-interval.low)


def test_effective_n_is_the_number_of_pictures_when_prompts_do_not_matter() -> None:
    assert effective_n(np.array([1.0] * 30), np.array([2.0] * 30)) == 60.0


def test_effective_n_is_the_number_of_prompts_when_prompts_decide_everything() -> None:
    successes = np.array([4.0] * 10 + [0.0] * 10)
    assert effective_n(successes, np.full(20, 4.0)) == pytest.approx(80 / (4 * 20 / 19))


def test_effective_n_assumes_a_correlation_where_all_pictures_agree() -> None:
    # 64 pictures in pairs, correlation 0.5: 64 / 1.5.
    assert effective_n(np.full(32, 2.0), np.full(32, 2.0)) == pytest.approx(64 / 1.5)
    assert effective_n(np.zeros(32), np.full(32, 1.0)) == 32.0


def test_clustered_wilson_is_wider_than_the_naive_one() -> None:
    successes, sizes = np.array([4.0, 0.0, 4.0, 4.0, 0.0, 4.0]), np.full(6, 4.0)
    assert clustered_wilson(successes, sizes).width > 1.5 * wilson(16, 24).width


def test_clustered_newcombe_widens_with_the_clusters() -> None:
    after, before = np.array([1.0] * 20 + [0.0] * 20), np.zeros(40)
    apart, together = np.arange(40), np.repeat(np.arange(10), 4)
    assert clustered_newcombe(after, before, together).width > 1.3 * clustered_newcombe(after, before, apart).width


def test_rogan_gladen_by_hand() -> None:
    # (0.20 + 0.95 - 1) / (0.90 + 0.95 - 1)
    assert float(rogan_gladen(0.20, 0.90, 0.95)) == pytest.approx(0.15 / 0.85)
    assert float(rogan_gladen(0.03, 0.90, 0.95)) == 0.0  # fewer alarms than false alarms alone would give
    assert float(rogan_gladen(0.4, 0.5, 0.5)) == 0.4  # a coin tells nothing, and nothing is corrected by it
    assert float(rogan_gladen(0.37, 1.0, 1.0)) == pytest.approx(0.37)


def test_agreement_counts() -> None:
    table = Agreement(hit=45, miss=5, false_alarm=15, correct_rejection=135)
    assert (table.sensitivity, table.specificity) == (0.9, 0.9)
    assert table.usable()
    assert not Agreement(hit=9, miss=0, false_alarm=0, correct_rejection=90).usable()  # nine cases are too few
    assert not Agreement(hit=30, miss=20, false_alarm=40, correct_rejection=60).usable()  # barely above guessing


def test_bootstrap_is_seeded_and_paired() -> None:
    bootstrap = PromptBootstrap(seed=7, draws=500)
    sizes = np.full(12, 2.0)
    one = np.array([2.0, 0.0] * 6)
    assert np.array_equal(bootstrap.rates(one, sizes), PromptBootstrap(seed=7, draws=500).rates(one, sizes))
    # The same resamples for both models: a constant shift leaves no spread at all in the difference.
    shifted = bootstrap.rates(2.0 - one, sizes) + bootstrap.rates(one, sizes)
    assert np.allclose(shifted, 1.0)
    assert not np.array_equal(bootstrap.rates(one, sizes), PromptBootstrap(seed=8, draws=500).rates(one, sizes))


def test_bootstrap_interval_of_a_mean_is_close_to_theory() -> None:
    rng = np.random.default_rng(3)
    successes = (rng.random(400) < 0.3).astype(float)
    interval = percentile_interval(PromptBootstrap(seed=1).rates(successes, np.ones(400)))
    half = 1.96 * (successes.mean() * (1 - successes.mean()) / 400) ** 0.5
    assert interval.low == pytest.approx(successes.mean() - half, abs=0.006)
    assert interval.high == pytest.approx(successes.mean() + half, abs=0.006)


def test_bootstrap_refuses_prompts_without_pictures() -> None:
    with pytest.raises(Invalid):
        PromptBootstrap(seed=1).rates(np.array([0.0, 1.0]), np.array([0.0, 1.0]))


def _clustered_world(rng: np.random.Generator, prompts: int, seeds: int, rate: float) -> np.ndarray:
    """Prompts × seeds of 0 and 1 whose prompts differ: intra-prompt correlation 0.4."""
    spread = 1 / 0.4 - 1
    chances = rng.beta(rate * spread, (1 - rate) * spread, prompts)
    return (rng.random((prompts, seeds)) < chances[:, None]).astype(float)


def test_a_rates_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    hits = naive = 0
    for _ in range(400):
        world = _clustered_world(rng, 32, 4, 0.35)
        interval = clustered_wilson(world.sum(axis=1), np.full(32, 4.0))
        hits += interval.low <= 0.35 <= interval.high
        plain = wilson(float(world.sum()), 128)
        naive += plain.low <= 0.35 <= plain.high
    assert 0.92 <= hits / 400 <= 0.985
    assert naive / 400 < 0.85  # what ignoring the prompts would have promised and not kept


def test_a_differences_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(12)
    bootstrap = PromptBootstrap(seed=5, draws=1000)
    cluster = np.repeat(np.arange(32), 2)
    hits = 0
    for _ in range(300):
        before = _clustered_world(rng, 32, 2, 0.6)
        after = np.where(rng.random((32, 2)) < 0.5, 1.0, before)  # half of the failures mended: + 0.2
        sizes = np.full(32, 2.0)
        draws = bootstrap.rates(after.sum(axis=1), sizes) - bootstrap.rates(before.sum(axis=1), sizes)
        pairs = clustered_newcombe(after.ravel(), before.ravel(), cluster)
        interval = percentile_interval(draws).union(pairs)
        hits += interval.low <= 0.2 <= interval.high
    assert hits / 300 >= 0.93


def test_correction_recovers_the_truth_from_an_erring_judge() -> None:
    rng = np.random.default_rng(4)
    truth = rng.random(4000) < 0.15
    seen = np.where(truth, rng.random(4000) < 0.85, rng.random(4000) < 0.10)
    assert seen.mean() > 0.19  # what the judge says is off by a third
    assert float(rogan_gladen(float(seen.mean()), 0.85, 0.90)) == pytest.approx(truth.mean(), abs=0.02)


def test_uncertainty_of_the_judge_enters_the_interval() -> None:
    bootstrap = PromptBootstrap(seed=2)
    successes, sizes = np.array([1.0] * 16 + [0.0] * 16), np.ones(32)
    widths = []
    for factor in (1, 20):
        table = Agreement(hit=18 * factor, miss=2 * factor, false_alarm=2 * factor, correct_rejection=18 * factor)
        se, sp = bootstrap.error_rates(table)
        widths.append(percentile_interval(rogan_gladen(bootstrap.posterior(successes, sizes), se, sp)).width)
    assert widths[0] > widths[1] > wilson(16, 32).width
