"""Steps from two sets: exactly the share that was asked, each set whole, and nothing but (seed, step) decides."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from marsam_trainer.run.feed import Feed, TrainingSet
from marsam_trainer.run.mixture import Mixture

from marsam.diffusion import schedule
from marsam.diffusion.spec import Conditioning

_TABLE = schedule.from_config({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012})


def _feed(name: str, count: int, seed: int) -> Feed:
    samples = TrainingSet(
        keys=tuple(f"{name}-{row}" for row in range(count)),
        latents=torch.full((count, 4, 2, 2), float(len(name))),
        texts=Conditioning({"hidden": torch.zeros(2, 1, 1)}),
        captions=((1,),) * count,
    )
    return Feed(samples, lambda height, width: _TABLE, seed=seed, batch_size=3, caption_dropout=0.0)


def _mixture(share: float, weight: float = 1.0) -> Mixture:
    return Mixture(_feed("new", 7, 1), _feed("world", 5, 2), share=share, weight=weight)


def _is_apart(mixture: Mixture, step: int) -> bool:
    return float(mixture.batch(step).clean[0, 0, 0, 0]) == float(len("world"))


@pytest.mark.parametrize(("share", "steps", "apart"), [(0.2, 100, 20), (0.1, 30, 3), (0.75, 8, 6), (1 / 3, 300, 100)])
def test_the_share_is_exact_and_evenly_spread(share: float, steps: int, apart: int) -> None:
    mixture = _mixture(share)
    taken = [step for step in range(steps) if _is_apart(mixture, step)]
    assert len(taken) == apart
    if share < 0.5:
        gaps = {later - earlier for earlier, later in pairwise(taken)}
        assert max(gaps) - min(gaps) <= 1
        assert taken[0] >= 1 / share - 2


def test_every_picture_of_both_sets_is_used_equally() -> None:
    mixture = _mixture(0.25)
    seen: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
    for step in range(4 * 35):
        batch = mixture.batch(step)
        seen[_is_apart(mixture, step)].update(batch.rows)
    assert seen[True] == Counter(dict.fromkeys(range(5), 35 * 3 // 5))
    assert seen[False] == Counter(dict.fromkeys(range(7), 3 * 35 * 3 // 7))


def test_a_step_is_the_same_whenever_it_is_asked_for_and_knows_its_weight() -> None:
    forward, alone = _mixture(0.2, 0.5), _mixture(0.2, 0.5)
    batches = [forward.batch(step) for step in range(15)]
    for step in (14, 9, 3):
        again = alone.batch(step)
        assert (again.rows, again.weight) == (batches[step].rows, batches[step].weight)
        assert torch.equal(again.noise, batches[step].noise)
    assert [batch.weight for batch in batches] == [1.0, 1.0, 1.0, 1.0, 0.5] * 3
    assert batches[4].part(slice(0, 1)).weight == batches[4].to("cpu").weight == 0.5


def test_what_is_learnt_is_learnt_in_the_order_of_a_run_without_the_other_set() -> None:
    mixture, plain = _mixture(0.2), _feed("new", 7, 1)
    learnt = [mixture.batch(step) for step in range(20) if not _is_apart(mixture, step)]
    for step, batch in enumerate(learnt):
        assert batch.rows == plain.batch(step).rows
        assert torch.equal(batch.noise, plain.batch(step).noise)
