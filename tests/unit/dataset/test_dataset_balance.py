"""Association and coverage against numbers worked out by hand or by another formula."""

from random import Random

import numpy as np
import pytest
from marsam_dataset.balance import associations, coverage, cramers_v

from tests.unit.dataset.factory import item


def test_v_is_one_when_one_attribute_decides_the_other_and_zero_when_it_does_not() -> None:
    assert cramers_v(np.diag([70, 60, 50, 80])) == pytest.approx(1.0)
    assert cramers_v(np.full((4, 5), 10)) == 0.0
    assert cramers_v(np.array([[10, 20, 30]])) == 0.0
    assert cramers_v(np.array([[5, 5], [0, 0]])) == 0.0


def test_v_of_a_worked_table() -> None:
    # chi² = 100·(30·30-20·20)²/50⁴ = 4, so phi² = 0.04, less 1/99; divided by 2 - 1/99 - 1 = 98/99.
    assert cramers_v(np.array([[30, 20], [20, 30]])) == pytest.approx((0.04 - 1 / 99) ** 0.5 / (98 / 99) ** 0.5)


def test_the_correction_keeps_small_independent_sets_quiet() -> None:
    random = Random(4)
    values = []
    for _ in range(200):
        table = np.zeros((8, 10))
        for _ in range(60):
            table[random.randrange(8), random.randrange(10)] += 1
        values.append(cramers_v(table))
    # Without the correction the mean is sqrt(63 / 60 / 7), about 0.39.
    assert np.mean(values) < 0.1


def test_a_tied_pair_warns_and_a_free_one_does_not() -> None:
    random = Random(1)
    roles, places = ["doctor", "painter", "engineer"], ["hospital", "studio", "site"]
    tied = [
        item(n, attributes={"role": roles[n % 3], "place": places[n % 3], "hair": random.choice("abcd"), "id": str(n)})
        for n in range(120)
    ]
    first, *rest = associations(tied)
    assert (first.a, first.b, first.v, first.items, first.warns) == ("place", "role", 1.0, 120, True)
    assert "40 of 40 pictures with place 'studio' have role 'painter'" in first.message
    assert not any(other.warns for other in rest)
    assert {other.a for other in rest} | {other.b for other in rest} == {"hair", "place", "role"}, "ids are left out"
    free = [item(n, attributes={"role": random.choice(roles), "place": random.choice(places)}) for n in range(120)]
    assert associations(free)[0].v < 0.3
    assert associations(tied[:19]) == []


def test_coverage_counts_by_attribute_commonest_first() -> None:
    items = [item(n, attributes={"place": "field" if n else "street", "role": "farmer"}) for n in range(3)]
    assert coverage(items) == [("place", "field", 2), ("place", "street", 1), ("role", "farmer", 3)]
