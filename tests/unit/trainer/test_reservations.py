"""Who may publish a model under an id: one at a time, told by name, fenced, and free again without being given back."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest
from marsam_trainer.reservations import Reservations
from marsam_trainer.runs import Runs

from marsam.catalog.models import Lineage
from marsam.catalog.repository import load_model, save_model
from marsam.core.errors import Exists, Precondition
from marsam.core.ids import new_ulid
from marsam.core.names import format_name
from marsam.jobs.states import State
from marsam.store.folder import FolderBlobs
from tests.integration.trainer.harness import BASE, CLOCK, place_base

MODEL = "projects/default/models/wanted"


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(FolderBlobs(tmp_path / "store"), CLOCK)


@pytest.fixture
def reservations(runs: Runs) -> Reservations:
    return Reservations(runs)


async def placed(runs: Runs) -> str:
    run_id, _ = await runs.store("default").create(request=b"", request_id="", spec_for=lambda _: b"{}")
    return format_name("run", "default", run_id)


async def drive(runs: Runs, run: str, *states: State) -> None:
    store, run_id = runs.store("default"), run.split("/")[-1]
    for state in states:
        await store.append(run_id, await store.head(run_id), state)


async def refused(reservations: Reservations, holder: str, attempt: int = 0) -> Exists:
    with pytest.raises(Exists) as caught:
        await reservations.take("default", "wanted", holder=holder, attempt=attempt)
    return caught.value


async def test_of_many_at_once_one_has_it_and_the_others_are_told_whom(tmp_path: Path) -> None:
    """Each with a service of its own, and none of the runs is there yet."""
    names = [format_name("run", "default", new_ulid(CLOCK)) for _ in range(8)]
    outcomes = await asyncio.gather(
        *(Reservations(Runs(FolderBlobs(tmp_path), CLOCK)).take("default", "wanted", holder=name) for name in names),
        return_exceptions=True,
    )
    (winner,) = [name for name, outcome in zip(names, outcomes, strict=True) if outcome is None]
    lost = [outcome for outcome in outcomes if isinstance(outcome, Exists)]
    assert len(lost) == len(names) - 1
    assert {(error.reason, error.resource) for error in lost} == {("MODEL_ID_RESERVED", winner)}
    assert lost[0].message == f"{winner} will publish {MODEL}"


async def test_it_is_held_through_every_attempt_and_free_when_the_run_ends_without_a_model(
    runs: Runs, reservations: Reservations
) -> None:
    first, second = await placed(runs), await placed(runs)
    await reservations.take("default", "wanted", holder=first)
    for attempt in (1, 2):
        await drive(runs, first, State.STARTING)
        await reservations.take("default", "wanted", holder=first, attempt=attempt)
        await reservations.take("default", "wanted", holder=first, attempt=attempt)  # a service came back
        assert (await refused(reservations, second)).resource == first
        await drive(runs, first, State.RUNNING, State.PENDING)
        assert (await refused(reservations, second)).resource == first
    for end in (State.FAILED, State.CANCELLED):
        await drive(runs, first, end)
        await reservations.check("default", "wanted")
        await drive(runs, first, State.PENDING)
    await drive(runs, first, State.FAILED)
    await reservations.take("default", "wanted", holder=second)
    assert (await refused(reservations, first, attempt=2)).resource == second


async def test_who_looked_before_an_attempt_began_is_fenced_out(runs: Runs, reservations: Reservations) -> None:
    """A run is resumed while another, which saw it over, is about to take its id: one is told, before it works."""
    first, second = await placed(runs), await placed(runs)
    await reservations.take("default", "wanted", holder=first)
    await drive(runs, first, State.FAILED)
    store, looked, go_on = runs.store("default"), asyncio.Event(), asyncio.Event()
    head = store.head

    async def slow(job_id: str) -> object:
        found = await head(job_id)
        looked.set()
        await go_on.wait()
        return found

    store.head = slow  # type: ignore[method-assign,assignment]
    taking = asyncio.create_task(reservations.take("default", "wanted", holder=second))
    await looked.wait()
    store.head = head  # type: ignore[method-assign]
    await drive(runs, first, State.PENDING, State.STARTING)
    await reservations.take("default", "wanted", holder=first, attempt=1)
    go_on.set()
    with pytest.raises(Exists) as caught:
        await taking
    assert caught.value.resource == first


async def test_a_reservation_whose_run_never_came_is_free_after_a_while(
    runs: Runs, reservations: Reservations, tmp_path: Path
) -> None:
    never = format_name("run", "default", new_ulid(CLOCK))
    await reservations.take("default", "wanted", holder=never)
    late = await placed(runs)
    assert (await refused(reservations, late)).resource == never
    (entry,) = (tmp_path / "store/p/default/reservations/wanted").iterdir()
    os.utime(entry, (entry.stat().st_mtime - 61,) * 2)
    await reservations.take("default", "wanted", holder=late)


async def test_a_model_that_is_there_is_told_unless_it_is_the_runs_own(runs: Runs, reservations: Reservations) -> None:
    run = await placed(runs)
    base = await place_base(runs.blobs)
    await save_model(runs.blobs, replace(base, name=MODEL, lineage=Lineage(run=run)))
    await reservations.take("default", "wanted", holder=run, attempt=1)
    with pytest.raises(Exists) as caught:
        await reservations.check("default", "tiny")
    assert (caught.value.reason, caught.value.resource) == ("MODEL_EXISTS", BASE)
    await drive(runs, run, State.STARTING, State.SUCCEEDED)
    assert (await refused(reservations, await placed(runs))).reason == "MODEL_EXISTS"
    assert (await load_model(runs.blobs, MODEL)).lineage.run == run


async def test_a_deleted_models_id_is_nobodys(runs: Runs, reservations: Reservations) -> None:
    await runs.blobs.create("p/default/tombstones/models/wanted", b"x")
    with pytest.raises(Precondition) as caught:
        await reservations.take("default", "wanted", holder=await placed(runs))
    assert caught.value.reason == "MODEL_DELETED"
