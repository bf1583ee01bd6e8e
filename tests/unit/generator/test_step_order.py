"""Who goes next: fair between tenants by seconds, short work first inside one, and nobody for ever last."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marsam_generator.engine.roster import LIFT
from marsam_generator.engine.turns import Turns
from marsam_generator.engine.work import Failed, Stepped

from marsam.core.errors import Cancelled, Deadline
from marsam.diffusion.spec import BaseFacts
from tests.unit.generator.still import Hall, Still, facts_of


@pytest.fixture(scope="module")
def facts(base_folder: Path) -> BaseFacts:
    return facts_of(base_folder)


@given(st.lists(st.tuples(st.floats(0.01, 9.0), st.sets(st.integers(0, 4), min_size=2)), min_size=1, max_size=60))
def test_those_who_wait_together_had_the_same_but_for_one_turn(rounds: Sequence[tuple[float, set[int]]]) -> None:
    turns: Turns[int] = Turns()
    since: dict[int, float] = {}
    had: dict[int, float] = {}
    dearest = 0.0
    for cost, waiting in rounds:
        turns.wait(waiting)
        # Counted from when both were there: whoever left starts anew.
        if waiting != set(had):
            had, since = dict.fromkeys(waiting, 0.0), {key: turns.had(key) for key in waiting}
        key = turns.first(waiting)
        turns.charge(key, cost)
        had[key] += cost
        dearest = max(dearest, cost)
        owed = {key: since[key] + had[key] for key in waiting}
        assert max(owed.values()) - min(owed.values()) <= dearest + max(since.values()) - min(since.values()) + 1e-6


def test_going_away_neither_pays_nor_pardons() -> None:
    turns: Turns[str] = Turns()
    turns.wait("ab")
    for _ in range(10):
        turns.charge(turns.first("ab"), 1.0)
    turns.charge("b", 3.0)
    turns.wait("a")
    turns.wait("ac")
    assert turns.had("c") == turns.had("a")  # who comes anew is not paid for the time before
    turns.wait("abc")
    assert turns.had("b") - turns.had("a") == 3.0  # and who comes back still owes


def test_a_hundred_pictures_of_one_tenant_do_not_hold_up_the_first_of_another(facts: BaseFacts) -> None:
    hall = Hall(facts, width=4)
    for _ in range(10):
        hall.enter([20] * 10, tenant="many")
    for _ in range(7):
        hall.turn()
    same = hall.enter(5, tenant="one")
    assert hall.until_done(same) <= 5 + 1
    other = hall.enter(5, tenant="two", side=32)
    # Of another shape it cannot share their ticks: it has every second one.
    assert hall.until_done(other) <= 2 * 5 + 1


def test_tenants_share_seconds_not_ticks(facts: BaseFacts) -> None:
    family = Still()
    hall = Hall(facts, width=1, family=family)
    hall.enter([900] * 3, tenant="small")
    hall.enter([900] * 3, tenant="large", side=64)
    spent = {16: 0.0, 64: 0.0}
    for _ in range(200):
        family.cost = lambda rows: 0.0
        lead = hall.stepper._roster.lead()
        assert lead is not None
        side = lead.walk.picture.width
        cost = {16: 0.25, 64: 1.75}[side]
        family.cost = lambda rows, cost=cost: cost  # type: ignore[misc]
        hall.turn()
        spent[side] += cost
    assert abs(spent[16] - spent[64]) <= 1.75
    assert [tick.sides[0] for tick in hall.ticks].count(16) > 3 * [tick.sides[0] for tick in hall.ticks].count(64)


def test_in_a_tenant_priority_goes_before_short_work_and_waiting_raises_it(facts: BaseFacts) -> None:
    hall = Hall(facts, width=1)
    short = hall.enter(3)
    urgent = hall.enter(9, priority=1)
    assert hall.until_done(urgent) == 9
    assert not hall.told[short]
    hall.until_done(short)
    # A stream of urgent work never ends, and still the other gets its steps.
    patient = hall.enter(3)
    hall.enter([1000] * 4, priority=1)
    assert hall.until_done(patient, most=4 * LIFT) > LIFT


def test_short_work_goes_first_and_long_work_goes_on(facts: BaseFacts) -> None:
    hall = Hall(facts, width=1)
    long = hall.enter(30)
    hall.turn()
    short = hall.enter(4)
    assert hall.until_done(short) <= 5
    for _ in range(80):  # work of three steps keeps coming
        if hall.over(long):
            break
        hall.enter(3)
        hall.turn()
    assert any(isinstance(event, Stepped) and event.done > 1 for event in hall.told[long])


def test_a_guided_picture_takes_two_rows_and_the_rest_is_filled_by_those_who_fit(facts: BaseFacts) -> None:
    hall = Hall(facts, width=3)
    hall.enter(4, guided=True)
    hall.enter(5, guided=True)
    hall.enter(6)
    hall.turn()
    assert hall.ticks[-1].rows == 3
    assert hall.ticks[-1].width == 3


_arrival = st.fixed_dictionaries(
    {
        "at": st.integers(0, 30),
        "steps": st.lists(st.integers(1, 6), min_size=1, max_size=4),
        "tenant": st.sampled_from(["", "a", "b"]),
        "priority": st.integers(-1, 1),
        "side": st.sampled_from([16, 32]),
        "guided": st.booleans(),
        "exact": st.booleans(),
        "patience": st.none() | st.integers(0, 40),
        "leaves": st.none() | st.integers(0, 20),
    }
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(arrivals=st.lists(_arrival, min_size=1, max_size=16), width=st.integers(1, 6))
def test_nobody_is_lost_nobody_starves_and_no_place_leaks(
    facts: BaseFacts, arrivals: Sequence[dict[str, object]], width: int
) -> None:
    hall = Hall(facts, width=width)
    entered: dict[str, tuple[dict[str, object], int]] = {}
    leaving: dict[int, dict[str, int]] = {}
    pictures = sum(len(one["steps"]) for one in arrivals)  # type: ignore[arg-type]
    # Tenants and groups take turns; inside one, every level of priority is waited for, then all steps and pictures.
    bound = (3 + 1) * (4 + 1) * (3 * LIFT + 6 + pictures)
    quiet: dict[str, int] = {}
    for tick in range(31 + bound * 2):
        for one in arrivals:
            if one["at"] == tick:
                fields = {key: one[key] for key in ("tenant", "priority", "side", "guided", "exact")}
                patience = one["patience"]
                deadline = None if patience is None else hall.family.now + patience
                name = hall.enter(one["steps"], deadline=deadline, **fields)  # type: ignore[arg-type]
                entered[name] = (one, tick)
                if one["leaves"] is not None:
                    leaving.setdefault(tick + one["leaves"], {})[name] = hall.stepper.ticks  # type: ignore[operator]
        hall.stepper.cancel(leaving.pop(tick, {}))
        hall.turn()
        for name in entered:
            quiet[name] = 0 if hall.over(name) else quiet.get(name, 0) + 1
            if any(isinstance(event, Stepped) for event in hall.told[name]):
                quiet[name] = 0
                hall.told[name][:] = [event for event in hall.told[name] if not isinstance(event, Stepped)]
            assert quiet[name] <= bound
        if tick > 30 and not hall.stepper.busy and not leaving:
            break
    assert not hall.stepper.busy
    for name, (one, _) in entered.items():
        failure = hall.failed(name)
        if failure is None:
            assert hall.pictures(name) == len(one["steps"])  # type: ignore[arg-type]
        else:
            assert isinstance(hall.told[name][-1], Failed)
            assert sum(isinstance(event, Failed) for event in hall.told[name]) == 1
            expected = (Cancelled,) * (one["leaves"] is not None) + (Deadline,) * (one["patience"] is not None)
            assert isinstance(failure.error, expected)
    roster = hall.stepper._roster
    assert not roster._waiting and not roster._groups and not roster._ticks and not roster._row_seconds
