"""A supervisor with real programs: started, retried, cancelled, silenced, found again."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from marsam.core.clock import SystemClock
from marsam.core.errors import Invalid, Precondition
from marsam.jobs.cancel import ask_to_cancel
from marsam.jobs.progress import heartbeat, read_heartbeat
from marsam.jobs.states import State, Transition
from marsam.jobs.store import JobStore
from marsam.launch.attempt import Ended, Outcome, Policy
from marsam.launch.launcher import Cause, Program
from marsam.launch.supervisor import Supervisor
from marsam.store.folder import FolderBlobs
from tests.contract.launch.places import Place

CLOCK = SystemClock()
FAST = Policy(poll_s=0.05, backoff_s=0.05, grace_s=5, silence_s=None)

UNTIL_GO = "import os,time\nwhile not os.path.exists('go'): time.sleep(0.02)"

_BEATING = """
import asyncio, sys, time, os
from pathlib import Path
from marsam.core.clock import SystemClock
from marsam.jobs.progress import heartbeat, read_heartbeat
from marsam.jobs.store import JobStore
from marsam.store.folder import FolderBlobs
root, job_id, attempt = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
async def main():
    store = JobStore(FolderBlobs(root), "p", "evaluations", SystemClock())
    for n in range(3):
        await heartbeat(store, job_id, attempt, {"n": n})
        await asyncio.sleep(0.1)
    while not os.path.exists("go"):
        await asyncio.sleep(0.02)
asyncio.run(main())
"""


class Shell:
    """Jobs whose spec is a line of Python; exit code 0 succeeds, 75 goes again, 9 and others fail after `tries`."""

    def __init__(self, root: Path, *, python: str, tries: int = 3) -> None:
        self.root = root
        self.python = python
        self.tries = tries
        self.ends: list[Ended] = []

    async def program(self, store: JobStore, job_id: str, attempt: int) -> Program:
        code = (await store.spec(job_id)).decode()
        if code == "refuse":
            raise Invalid("this cannot be run", reason="BAD_SPEC")
        return Program(
            argv=(self.python, "-c", code, str(self.root / "store"), job_id, str(attempt)),
            log_path=self.root / "logs" / f"{job_id}-{attempt}.log",
            cwd=self.root,
        )

    async def judge(self, store: JobStore, job_id: str, ended: Ended) -> Outcome:
        self.ends.append(ended)
        if ended.exit.cause is Cause.DONE:
            return Outcome(state=State.SUCCEEDED, reason="DONE", detail={"attempt": ended.attempt})
        state = State.PENDING if ended.exit.code == 75 or ended.attempt < self.tries else State.FAILED
        return Outcome(state=state, reason=ended.exit.cause, message=str(ended.exit))


class House:
    """A store, a place for programs and a kind of work, from which supervisors come and go."""

    def __init__(self, root: Path, place: Place) -> None:
        self.root = root
        self.place = place
        self.work = Shell(root, python=place.python)
        self.jobs = JobStore(FolderBlobs(root / "store"), "p", "evaluations", CLOCK)

    @asynccontextmanager
    async def supervisor(
        self, policy: Policy = FAST, owner: str = "here", state: str = "state"
    ) -> AsyncIterator[Supervisor]:
        supervisor = Supervisor(
            FolderBlobs(self.root / "store"),
            "evaluations",
            launcher=await self.place.open(state),
            work=self.work,
            policy=policy,
            owner=owner,
            clock=CLOCK,
        )
        async with supervisor:
            yield supervisor

    async def job(self, code: str) -> str:
        return (await self.jobs.create(request=b"", request_id="", spec_for=lambda _: code.encode()))[0]

    async def until(self, job_id: str, *states: State, deadline_s: float = 30) -> Transition:
        async with asyncio.timeout(deadline_s):
            while (head := await self.jobs.head(job_id)).state not in states:  # other processes
                await asyncio.sleep(0.02)
            return head

    async def states(self, job_id: str) -> list[tuple[State, int]]:
        return [(t.state, t.attempt) for t in await self.jobs.history(job_id)]


@pytest.fixture
def house(tmp_path: Path, place: Place) -> House:
    return House(tmp_path, place)


async def test_a_job_is_started_and_seen_to_its_end(house: House) -> None:
    async with house.supervisor():
        job_id = await house.job(UNTIL_GO)
        await house.until(job_id, State.RUNNING)
        (house.root / "go").touch()
        head = await house.until(job_id, State.SUCCEEDED)
    assert await house.states(job_id) == [
        (State.PENDING, 0),
        (State.STARTING, 1),
        (State.RUNNING, 1),
        (State.SUCCEEDED, 1),
    ]
    assert (head.owner, head.detail) == ("here", {"attempt": 1})


async def test_jobs_that_waited_before_are_found(house: House) -> None:
    job_id = await house.job("")
    async with house.supervisor():
        await house.until(job_id, State.SUCCEEDED)


async def test_a_record_that_cannot_be_read_leaves_other_jobs_attended(house: House) -> None:
    broken, sound = await house.job(""), await house.job("")
    (entry,) = (house.root / "store").glob(f"p/p/evaluations/{broken}/log/*")
    entry.chmod(0o644)
    entry.write_text("{")
    (house.root / "store" / "p" / "No Project").mkdir()
    async with house.supervisor():
        await house.until(sound, State.SUCCEEDED)


async def test_a_failing_job_is_tried_again_and_given_up(house: House) -> None:
    async with house.supervisor():
        job_id = await house.job("raise SystemExit(70)")
        head = await house.until(job_id, State.FAILED)
    assert (head.attempt, head.reason, head.message) == (3, "FAILED", "ended with exit code 70")
    assert [e.attempt for e in house.work.ends] == [1, 2, 3]


async def test_what_cannot_be_run_fails_with_its_reason(house: House) -> None:
    async with house.supervisor():
        job_id = await house.job("refuse")
        head = await house.until(job_id, State.FAILED)
    assert (head.reason, head.message) == ("BAD_SPEC", "this cannot be run")


async def test_slots_are_kept_and_the_oldest_goes_first(house: House) -> None:
    code = "import time; open('order','a').write('<'); time.sleep(0.2); open('order','a').write('>')"
    ids = []
    for _ in range(3):
        ids.append(await house.job(code))
        await asyncio.sleep(0.002)
    async with house.supervisor():
        heads = [await house.until(job_id, State.SUCCEEDED) for job_id in ids]
    assert (house.root / "order").read_text() == "<><><>"
    assert [h.at for h in heads] == sorted(h.at for h in heads)


async def test_a_job_tried_again_or_resumed_keeps_its_place(house: House) -> None:
    """Waiting jobs go in the order of their creation, whenever they came to wait."""
    fails_once = (
        "import os,sys; open('order','a').write(NAME); "
        "seen = os.path.exists(NAME); open(NAME,'w'); sys.exit(0 if seen else CODE)"
    )
    ids = {}
    for name, code in (("a", 9), ("b", 75), ("c", 0)):
        ids[name] = await house.job(fails_once.replace("NAME", repr(name)).replace("CODE", str(code)))
        await asyncio.sleep(0.002)
    house.work.tries = 1
    async with house.supervisor():
        await house.until(ids["a"], State.FAILED)
        # "b" waits between two attempts while this one is resumed; "c" has not begun.
        await house.jobs.append(ids["a"], await house.jobs.head(ids["a"]), State.PENDING, reason="RESUMED")
        for job_id in ids.values():
            await house.until(job_id, State.SUCCEEDED)
    order = (house.root / "order").read_text()
    assert order in ("aabbc", "abbac")  # resumed in time to go before "b", or else before "c"


async def test_after_a_restart_what_is_tried_again_goes_before_what_came_later(house: House) -> None:
    note = "open('order','a').write({!r})"
    old = await house.job(note.format("old"))
    head = await house.jobs.append(old, await house.jobs.head(old), State.STARTING, owner="there")
    await asyncio.sleep(0.002)
    young = await house.job(note.format("young"))
    await house.jobs.append(old, head, State.PENDING, reason="RETRY")
    async with house.supervisor():
        for job_id in (old, young):
            await house.until(job_id, State.SUCCEEDED)
    assert (house.root / "order").read_text() == "oldyoung"


async def test_cancelling_a_waiting_job_is_immediate(house: House) -> None:
    job_id = await house.job("")
    assert (await ask_to_cancel(house.jobs, job_id)).state is State.CANCELLED
    assert (await ask_to_cancel(house.jobs, job_id)).state is State.CANCELLED
    async with house.supervisor():
        await asyncio.sleep(0.3)
    assert (await house.jobs.head(job_id)).seq == 2


async def test_cancelling_a_running_job_stops_its_program(house: House) -> None:
    code = "import signal,sys,time; signal.signal(15, lambda *_: sys.exit(75)); open('up','w'); time.sleep(60)"
    async with house.supervisor() as supervisor:
        job_id = await house.job(code)
        await house.until(job_id, State.RUNNING)
        await wait_for(lambda: (house.root / "up").exists())
        assert supervisor.running == 1
        assert (await ask_to_cancel(house.jobs, job_id, message="by ada")).state is State.CANCELLING
        head = await house.until(job_id, State.CANCELLED)
        await wait_for(lambda: supervisor.running == 0)
    assert head.attempt == 1
    assert house.work.ends[0].exit.code == 75
    with pytest.raises(Precondition):
        await house.jobs.append(job_id, head, State.RUNNING)


async def test_a_job_that_ended_cannot_be_cancelled(house: House) -> None:
    async with house.supervisor():
        job_id = await house.job("")
        await house.until(job_id, State.SUCCEEDED)
    with pytest.raises(Precondition):
        await ask_to_cancel(house.jobs, job_id)


async def test_a_silent_program_is_stopped_and_tried_again(house: House) -> None:
    policy = Policy(poll_s=0.05, backoff_s=0.05, grace_s=1, start_s=0.5, silence_s=0.5)
    house.work.tries = 1
    async with house.supervisor(policy):
        job_id = await house.job("import time; time.sleep(60)")
        await house.until(job_id, State.FAILED)
    assert [(e.silent, e.exit.signal) for e in house.work.ends] == [(True, 15)]
    assert State.RUNNING not in [state for state, _ in await house.states(job_id)]


async def test_a_heartbeat_makes_it_running(house: House) -> None:
    policy = Policy(poll_s=0.02, backoff_s=0.05, grace_s=1, start_s=30, silence_s=30)
    async with house.supervisor(policy):
        job_id = await house.job(_BEATING)
        await house.until(job_id, State.RUNNING)
        (house.root / "go").touch()
        await house.until(job_id, State.SUCCEEDED)
    assert await house.states(job_id) == [
        (State.PENDING, 0),
        (State.STARTING, 1),
        (State.RUNNING, 1),
        (State.SUCCEEDED, 1),
    ]


async def test_a_program_that_outlived_its_supervisor_is_found_again(house: House) -> None:
    code = "import os,time\nopen('starts','a').write('x')\nwhile not os.path.exists('go'): time.sleep(0.02)"
    async with house.supervisor():
        job_id = await house.job(code)
        await house.until(job_id, State.RUNNING)
    async with house.supervisor() as second:
        await wait_for(lambda: second.running == 1)
        (house.root / "go").touch()
        head = await house.until(job_id, State.SUCCEEDED)
    assert head.attempt == 1
    assert (house.root / "starts").read_text() == "x"


async def test_an_end_that_came_while_nobody_looked_is_learned(house: House) -> None:
    async with house.supervisor():
        job_id = await house.job(UNTIL_GO)
        await house.until(job_id, State.RUNNING)
    (house.root / "go").touch()
    await asyncio.sleep(0.5)
    async with house.supervisor():
        assert (await house.until(job_id, State.SUCCEEDED)).attempt == 1


async def test_a_service_that_stops_its_programs_goes_on_with_them_next_time(house: House) -> None:
    code = (
        "import os,signal,sys,time\nsignal.signal(15, lambda *_: sys.exit(75))\nopen('up','w').close()\n"
        "if os.path.exists('saved'): sys.exit(0)\nopen('saved','w').close(); time.sleep(60)"
    )
    async with house.supervisor() as supervisor:
        job_id = await house.job(code)
        await wait_for(lambda: (house.root / "saved").exists())
        await house.until(job_id, State.RUNNING)
        await supervisor.close(stop_programs=True)
    assert (await house.jobs.head(job_id)).state is State.RUNNING
    async with house.supervisor():
        assert (await house.until(job_id, State.SUCCEEDED)).attempt == 2
    assert house.work.ends[0].exit.code == 75


async def test_a_job_of_another_owner_is_left_alone_until_it_is_silent(house: House) -> None:
    job_id = await house.job("")
    head = await house.jobs.head(job_id)
    head = await house.jobs.append(job_id, head, State.STARTING, owner="elsewhere")
    await house.jobs.append(job_id, head, State.RUNNING, owner="elsewhere")
    patient = Policy(poll_s=0.05, backoff_s=0.05, start_s=60, silence_s=60)
    async with house.supervisor(patient):
        await asyncio.sleep(0.5)
    assert (await house.jobs.head(job_id)).owner == "elsewhere"
    hasty = Policy(poll_s=0.05, backoff_s=0.05, start_s=0.1, silence_s=0.1)
    async with house.supervisor(hasty):
        await house.until(job_id, State.SUCCEEDED)
    history = await house.jobs.history(job_id)
    assert [(t.reason, t.owner) for t in history if t.reason == "OWNER_LOST"] == [("OWNER_LOST", "here")]


async def test_an_attempt_that_was_replaced_is_stopped_and_its_end_counts_for_nothing(house: House) -> None:
    async with house.supervisor(owner="old"):
        job_id = await house.job("import time; time.sleep(60)")
        head = await house.until(job_id, State.RUNNING)
        head = await house.jobs.append(job_id, head, State.PENDING, owner="new", reason="OWNER_LOST")
        await house.jobs.append(job_id, head, State.STARTING, owner="new")
        program = await house.place.open()
        handle = await program.adopt(f"p.evaluations.{job_id}.1")
        assert handle is not None
        ended = await asyncio.wait_for(program.follow(handle), 20)
        await asyncio.sleep(0.3)
    assert ended.signal in (9, 15)
    assert house.work.ends == []
    assert (await house.states(job_id))[-2:] == [(State.PENDING, 1), (State.STARTING, 2)]


async def test_a_program_that_the_launcher_forgot_is_outlasted(house: House) -> None:
    job_id = await house.job("")
    head = await house.jobs.append(job_id, await house.jobs.head(job_id), State.STARTING, owner="here")
    await house.jobs.append(job_id, head, State.RUNNING, owner="here")
    await heartbeat(house.jobs, job_id, 1, {})
    beat = await read_heartbeat(house.jobs, job_id, 1)
    assert beat is not None
    async with house.supervisor(Policy(poll_s=0.05, backoff_s=0, start_s=30, silence_s=1.0)):
        head = await house.until(job_id, State.SUCCEEDED)
    assert (head.attempt, house.work.ends[0].exit.cause) == (2, Cause.LOST)
    again = next(t for t in await house.jobs.history(job_id) if t.attempt == 2)
    assert (again.at - beat.modified).total_seconds() >= 1.0


async def test_a_fault_in_the_work_itself_stops_nobody_else(house: House, caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(Shell):
        sound = False

        async def judge(self, store: JobStore, job_id: str, ended: Ended) -> Outcome:
            if ended.exit.code == 3 and not self.sound:
                self.sound = True
                raise ZeroDivisionError("a bug")
            return await super().judge(store, job_id, ended)

    house.work = Faulty(house.root, python=house.place.python, tries=1)
    async with house.supervisor(Policy(slots=2, poll_s=0.05, backoff_s=0.05, silence_s=None)):
        bad, good = await house.job("raise SystemExit(3)"), await house.job("")
        await house.until(good, State.SUCCEEDED)
        assert (await house.until(bad, State.FAILED)).attempt == 1
    assert "a bug" in caplog.text


async def test_what_a_launcher_remembers_does_not_grow(house: House) -> None:
    async with house.supervisor() as supervisor:
        for _ in range(3):
            await house.until(await house.job(""), State.SUCCEEDED)
        await wait_for(lambda: supervisor.running == 0 and not house.place.remembered())


async def test_two_supervisors_run_each_job_once(house: House) -> None:
    code = "import sys; open('ran','a').write(sys.argv[2] + '\\n')"
    async with house.supervisor(owner="one", state="one"), house.supervisor(owner="two", state="two"):
        ids = [await house.job(code) for _ in range(6)]
        for job_id in ids:
            await house.until(job_id, State.SUCCEEDED)
    assert sorted((house.root / "ran").read_text().split()) == sorted(ids)


def test_outcomes_and_policies_keep_their_bounds() -> None:
    with pytest.raises(Invalid):
        Outcome(state=State.RUNNING)
    with pytest.raises(Invalid):
        Policy(slots=0)
    with pytest.raises(Invalid):
        Policy(poll_s=0)


async def wait_for(condition: Callable[[], bool], deadline_s: float = 30) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():  # what is waited for happens in other processes
            await asyncio.sleep(0.02)
