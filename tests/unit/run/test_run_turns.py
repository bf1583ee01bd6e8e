"""Whose turn it is: every picture once in every epoch, and no batch of two sizes."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marsam_trainer.run import turns

_KEYS = tuple(f"key-{row}" for row in range(10))


def test_without_sizes_the_turns_are_those_of_all_runs_before() -> None:
    rows = turns.in_a_row(_KEYS, seed=1, batch_size=4)
    assert [rows(step) for step in range(4)] == [(0, 9, 7, 2), (1, 6, 5, 3), (8, 4, 9, 4), (2, 7, 5, 0)]


@given(
    st.lists(st.sampled_from(["wide", "tall", "square"]), min_size=1, max_size=40),
    st.integers(1, 9),
    st.integers(0, 5),
)
def test_every_epoch_shows_every_picture_once_in_batches_of_one_size(
    sizes: list[str], batch_size: int, seed: int
) -> None:
    keys = [f"key-{row}" for row in range(len(sizes))]
    rows = turns.by_size(keys, sizes, seed=seed, batch_size=batch_size)
    length = sum(-(-count // batch_size) for count in Counter(sizes).values())
    for epoch in range(3):
        batches = [rows(epoch * length + step) for step in range(length)]
        assert sorted(row for batch in batches for row in batch) == list(range(len(sizes)))
        lengths: dict[str, list[int]] = {}
        for batch in batches:
            assert 1 <= len(batch) <= batch_size
            (size,) = {sizes[row] for row in batch}
            lengths.setdefault(size, []).append(len(batch))
        assert all(max(found) - min(found) <= 1 for found in lengths.values())


def test_a_step_is_the_same_whenever_and_wherever_it_is_asked_for() -> None:
    sizes = [(4, 8), (8, 4), (8, 4)] * 4
    keys = [f"key-{row}" for row in range(12)]
    rows = turns.by_size(keys, sizes, seed=3, batch_size=3)
    forward = [rows(step) for step in range(20)]
    assert [turns.by_size(keys, sizes, seed=3, batch_size=3)(step) for step in reversed(range(20))] == forward[::-1]
    assert [turns.by_size(keys, sizes, seed=4, batch_size=3)(step) for step in range(20)] != forward


@pytest.mark.parametrize("batch_size", [1, 4])
def test_epochs_differ_and_sizes_mix(batch_size: int) -> None:
    sizes = ["wide"] * 12 + ["tall"] * 12
    rows = turns.by_size([f"key-{row}" for row in range(24)], sizes, seed=1, batch_size=batch_size)
    length = 24 // batch_size
    first, second = ([rows(epoch * length + step) for step in range(length)] for epoch in range(2))
    assert first != second
    order = [sizes[batch[0]] for batch in first]
    assert order not in (sorted(order), sorted(order, reverse=True))
