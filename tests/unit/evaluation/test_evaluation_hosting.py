"""What the end of an attempt means, and what one attempt leaves to the next."""

from pathlib import Path

import pytest
from marsam_generator.evaluation import codes
from marsam_generator.evaluation.counting import count
from marsam_generator.evaluation.drawing import Shot
from marsam_generator.evaluation.hosting import EvaluationWork, Hosting, dialable
from marsam_generator.evaluation.journal import Journal, Kept, recall

from marsam.core.clock import SystemClock
from marsam.core.errors import Corrupt, Invalid, Missing, Precondition, Unavailable
from marsam.core.records import canonical
from marsam.jobs.progress import read_events, read_heartbeat
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.launch.attempt import Ended
from marsam.launch.launcher import Cause, Exit
from marsam.store import keys
from marsam.store.folder import FolderBlobs
from marsam.telemetry import Meter

FAILED = Exit(cause=Cause.FAILED, code=codes.UNAVAILABLE)


@pytest.fixture
def jobs(tmp_path: Path) -> JobStore:
    return JobStore(FolderBlobs(tmp_path / "store"), "demo", "evaluations", SystemClock())


@pytest.fixture
def work(tmp_path: Path) -> EvaluationWork:
    hosting = Hosting(
        store=str(tmp_path / "store"), cache=tmp_path / "cache", attempts=2, token_file=tmp_path / "token"
    )
    return EvaluationWork(hosting, address=lambda: "127.0.0.1:5003", meter=Meter(service="test", version="0"))


async def started(jobs: JobStore) -> str:
    """A job whose first attempt runs."""
    job_id, _ = await jobs.create(request=b"{}", request_id="", spec_for=lambda _: b"{}")
    for state in (State.STARTING, State.RUNNING):
        await jobs.append(job_id, await jobs.head(job_id), state, owner="generator")
    return job_id


async def leave(jobs: JobStore, job_id: str, name: str, content: object, attempt: int = 1) -> None:
    await jobs.blobs.put(keys.attempt_file("demo", "evaluations", job_id, attempt, name), canonical(content))


async def test_a_result_is_a_success_with_its_references(jobs: JobStore, work: EvaluationWork) -> None:
    job_id = await started(jobs)
    result = {
        "report": {"digest": "sha256:" + "a" * 64, "size": 1},
        "verdict": "It worked.",
        "pictures": 3,
        "judge": "j",
    }
    await leave(jobs, job_id, "result.json", result)
    outcome = await work.judge(jobs, job_id, Ended(attempt=1, exit=Exit(cause=Cause.DONE, code=0)))
    assert (outcome.state, outcome.message, outcome.detail) == (State.SUCCEEDED, "It worked.", result)


async def test_a_wrong_request_is_not_tried_again(jobs: JobStore, work: EvaluationWork) -> None:
    job_id = await started(jobs)
    await leave(jobs, job_id, "failure.json", {"reason": "MODEL_KIND", "message": "no", "remedy": "use a base"})
    outcome = await work.judge(jobs, job_id, Ended(attempt=1, exit=Exit(cause=Cause.FAILED, code=codes.BAD_SPEC)))
    assert (outcome.state, outcome.reason, outcome.message) == (State.FAILED, "MODEL_KIND", "no (use a base)")


async def test_a_passing_failure_is_tried_again_until_it_is_one_too_many(jobs: JobStore, work: EvaluationWork) -> None:
    job_id = await started(jobs)
    first = await work.judge(jobs, job_id, Ended(attempt=1, exit=FAILED))
    assert (first.state, first.detail) == (State.PENDING, {"failures": 1})
    await jobs.append(job_id, await jobs.head(job_id), State.PENDING, detail=first.detail)
    # Stopped with its service: that costs nothing.
    stopped = await work.judge(jobs, job_id, Ended(attempt=2, exit=Exit(cause=Cause.FAILED, code=codes.STOPPED)))
    assert (stopped.state, stopped.detail) == (State.PENDING, {"failures": 1})
    last = await work.judge(jobs, job_id, Ended(attempt=2, exit=FAILED))
    assert last.state is State.FAILED
    assert last.message.startswith("given up after 2 attempts")


async def test_the_last_words_of_a_program_that_could_not_speak(jobs: JobStore, work: EvaluationWork) -> None:
    job_id = await started(jobs)
    log = (await work.program(jobs, job_id, 1)).log_path
    log.parent.mkdir(parents=True)
    log.write_text('{"event": "x"}\nImportError: no module named torch\n')
    outcome = await work.judge(jobs, job_id, Ended(attempt=1, exit=Exit(cause=Cause.FAILED, code=1)))
    assert outcome.message == "the program ended with exit code 1: ImportError: no module named torch"
    silent = await work.judge(jobs, job_id, Ended(attempt=3, exit=FAILED, silent=True))
    assert silent.reason == "RETRY" and "no sign of life" in silent.message


async def test_the_program_knows_where_to_draw(jobs: JobStore, work: EvaluationWork, tmp_path: Path) -> None:
    program = await work.program(jobs, "01kb0000000000000000000000", 2)
    said = " ".join(program.argv)
    assert "-m marsam_generator.evaluation run" in said
    assert "--evaluation projects/demo/evaluations/01kb0000000000000000000000 --attempt 2" in said
    assert f"--generator 127.0.0.1:5003 --token-file {tmp_path / 'token'}" in said


def test_an_address_that_can_be_called() -> None:
    assert dialable("0.0.0.0:5003") == "127.0.0.1:5003"
    assert dialable("[::]:5003") == "127.0.0.1:5003"
    assert dialable("10.0.0.7:5003") == "10.0.0.7:5003"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("x"), codes.BAD_SPEC),
        (Missing("x"), codes.BAD_SPEC),
        (Corrupt("x"), codes.BAD_DATA),
        (Unavailable("x"), codes.UNAVAILABLE),
        (OSError("x"), codes.UNAVAILABLE),
        (ZeroDivisionError("x"), codes.INTERNAL),
    ],
)
def test_exit_codes(error: Exception, code: int) -> None:
    assert codes.code_of(error) == code


async def test_pictures_of_an_attempt_are_known_to_the_next(jobs: JobStore) -> None:
    job_id = await started(jobs)
    shot = Shot(model=1, prompt="lab-01", language="ar", seed=11)
    kept = Kept(digest="sha256:" + "b" * 64, size=7, fingerprint="cpu")
    journal = Journal(jobs, job_id, 1, pictures=4)
    journal.phase("generating")
    journal.drew(shot, kept, model="tuned")
    journal.close()
    await journal.write()
    assert await recall(jobs, job_id, before=1) == {}
    assert await recall(jobs, job_id, before=2) == {shot: kept}
    events, _ = await read_events(jobs, job_id, 1)
    told = events[-1]
    assert (told["phase"], told["pictures_done"], told["pictures"], told["model"]) == ("generating", 1, 4, "tuned")
    beat = await read_heartbeat(jobs, job_id, 1)
    assert beat is not None and beat.payload["pictures_done"] == 1


async def test_an_attempt_that_was_replaced_is_stopped(jobs: JobStore) -> None:
    job_id = await started(jobs)
    for state in (State.PENDING, State.STARTING):
        await jobs.append(job_id, await jobs.head(job_id), state)
    with pytest.raises(Precondition, match=r"attempt 1 of .* is over"):
        await Journal(jobs, job_id, 1, pictures=4).write()


async def test_open_evaluations_are_counted(jobs: JobStore) -> None:
    await started(jobs)
    await jobs.create(request=b"{}", request_id="", spec_for=lambda _: b"{}")
    meter = Meter(service="test", version="0")
    await count(jobs.blobs, meter, SystemClock())
    assert meter.value("marsam_jobs", kind="evaluations", state="RUNNING") == 1
    assert meter.value("marsam_jobs", kind="evaluations", state="CANCELLING") == 0
    assert meter.value("marsam_queue_depth", queue="evaluations") == 1
