"""Runs from order to end: success, failures by rule, cancel, resume. One service for all tests here."""

import asyncio
from typing import Any

import grpc
import pytest

from marsam.api.trainer.v1 import trainer_pb2
from marsam.core.errors import Invalid, Missing, Precondition
from marsam.rpc.wire import error_of
from tests.integration.trainer.harness import PARENT, Service, state

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


def reasons(run: trainer_pb2.Run) -> list[str]:
    return [entry.reason for entry in run.history]


async def test_a_run_goes_from_pending_to_a_published_model(shared: Service) -> None:
    created = await shared.create()
    assert created.spec.learning_rate == 1e-4
    assert created.spec.resolution == 64
    assert created.spec.method_params["rank"] == 16
    assert created.spec.output_model_id == created.name.split("/")[-1]
    run = await shared.until(created.name, "SUCCEEDED", "FAILED")
    assert state(run) == "SUCCEEDED", run
    assert [state(entry) for entry in run.history] == ["PENDING", "STARTING", "RUNNING", "SUCCEEDED"]
    assert run.model == f"projects/default/models/{run.spec.output_model_id}"
    assert (run.attempt, run.queue_position, run.progress.step, run.progress.steps) == (1, 0, 5, 5)
    assert run.progress.loss == pytest.approx(0.2)
    assert run.create_time.ToDatetime() < run.update_time.ToDatetime()


@pytest.mark.parametrize("how", ["kill", "70", "74", "3"])
async def test_what_may_pass_is_tried_again(shared: Service, how: str) -> None:
    run = await shared.create(labels={"fail-until": "2", "how": how})
    run = await shared.until(run.name, "SUCCEEDED", "FAILED")
    assert state(run) == "SUCCEEDED"
    assert run.attempt == 3
    assert reasons(run).count("RETRY") == 2


async def test_attempts_are_limited_and_the_last_words_are_told(shared: Service) -> None:
    run = await shared.create(labels={"fail-until": "9", "how": "70", "failure": "the moon is full"})
    run = await shared.until(run.name, "FAILED")
    assert (run.attempt, run.reason) == (3, "INTERNAL")
    assert run.message == (
        "given up after 3 failed attempts; the last: the run program failed on a fault of its own: "
        "the moon is full (try less)"
    )


@pytest.mark.parametrize(
    ("code", "reason"), [("64", "BAD_SPEC"), ("65", "BAD_DATA"), ("71", "OUT_OF_MEMORY"), ("78", "LOSS_NOT_FINITE")]
)
async def test_what_cannot_pass_is_not_tried_again(shared: Service, code: str, reason: str) -> None:
    run = await shared.create(labels={"fail-until": "9", "how": code, "words": "ValueError: no"})
    run = await shared.until(run.name, "FAILED")
    assert (run.attempt, run.reason) == (1, reason)
    assert run.message.endswith("ValueError: no")
    if code == "71":
        assert "halve batch_size" in run.message


async def test_orderly_stops_are_not_counted(shared: Service) -> None:
    run = await shared.create(labels={"fail-until": "5", "how": "75"})
    run = await shared.until(run.name, "SUCCEEDED", "FAILED")
    assert (state(run), run.attempt) == ("SUCCEEDED", 6)


async def test_a_good_exit_without_a_result_is_a_failure(shared: Service) -> None:
    run = await shared.create(labels={"no-result": "1"}, steps=1)
    run = await shared.until(run.name, "FAILED")
    assert run.reason == "RESULT_MISSING"


async def test_a_cancelled_run_stops_and_can_be_resumed_from_its_checkpoint(shared: Service) -> None:
    run = await shared.create(labels={"step-s": "0.1"}, steps=30)
    await shared.until(run.name, "RUNNING")
    while (await shared.get(run.name)).progress.step < 4:
        await asyncio.sleep(0.05)
    cancelling = (await shared.trainer.CancelRun(trainer_pb2.CancelRunRequest(name=run.name))).run
    assert state(cancelling) == "CANCELLING"
    cancelled = await shared.until(run.name, "CANCELLED")
    assert cancelled.attempt == 1
    listed = await shared.trainer.ListCheckpoints(trainer_pb2.ListCheckpointsRequest(name=run.name))
    steps = [checkpoint.step for checkpoint in listed.checkpoints]
    assert steps[:2] == [2, 4]
    assert steps == sorted(steps)
    resumed = (await shared.trainer.ResumeRun(trainer_pb2.ResumeRunRequest(name=run.name))).run
    assert (state(resumed), resumed.reason) == ("PENDING", "RESUMED")
    lines = [message.log_line async for message in shared.watch(run.name) if message.log_line]
    assert lines == [f"resumed at step {steps[-1]}"]
    done = await shared.get(run.name)
    assert (state(done), done.attempt) == ("SUCCEEDED", 2)
    for call, request in (
        (shared.trainer.CancelRun, trainer_pb2.CancelRunRequest(name=run.name)),
        (shared.trainer.ResumeRun, trainer_pb2.ResumeRunRequest(name=run.name)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request)
        assert isinstance(error_of(caught.value), Precondition)


async def test_a_run_goes_on_otherwise_where_that_changes_nothing_that_is_learnt(shared: Service) -> None:
    run = await shared.create(labels={"fail-until": "1", "how": "71", "for": "a test"}, steps=6)
    await shared.until(run.name, "FAILED")

    async def resume(*paths: str, **fields: Any) -> trainer_pb2.Run:
        request = trainer_pb2.ResumeRunRequest(name=run.name, spec=trainer_pb2.RunSpec(**fields))
        request.update_mask.paths.extend(paths)
        return (await shared.trainer.ResumeRun(request)).run

    for paths, fields, reason, where, words in (
        (["steps"], {"steps": 9}, "CHANGE_REFUSED", ["spec.steps"], "learning rate falls to zero"),
        (["shift"], {"shift": 3.0}, "CHANGE_REFUSED", ["spec.shift"], "learnt otherwise"),
        (["seed", "batch_size"], {"seed": 1}, "CHANGE_REFUSED", ["spec.seed", "spec.batch_size"], "learnt otherwise"),
        (["method_params.rank"], {}, "CHANGE_REFUSED", ["spec.method_params.rank"], "learnt otherwise"),
        (["stps"], {}, "CHANGE_REFUSED", ["spec.stps"], "no such field"),
        (["profile"], {"profile": "huge"}, "UNKNOWN_PROFILE", ["spec.profile"], "huge"),
        (["checkpoint_every"], {"checkpoint_every": 0}, "OUT_OF_RANGE", ["spec.checkpoint_every"], "≥ 1"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await resume(*paths, **fields)
        error = error_of(caught.value)
        assert isinstance(error, Invalid)
        assert (error.reason, [violation.field for violation in error.violations]) == (reason, where)
        assert words in str([violation.message for violation in error.violations])
        if reason == "CHANGE_REFUSED":
            assert "checkpoint_every, display_name, gradient_checkpointing, labels, preview, profile" in str(error)
    assert state(await shared.get(run.name)) == "FAILED"
    preview = trainer_pb2.PreviewSpec(prompts=["a kite"], every=2)
    mask = ("checkpoint_every", "gradient_checkpointing", "preview", "display_name", "labels")
    fields = {"checkpoint_every": 3, "gradient_checkpointing": True, "preview": preview, "display_name": "again"}
    resumed = await resume(*mask, **fields, steps=77)
    for told in (resumed, await shared.until(run.name, "SUCCEEDED")):
        spec = told.spec
        assert (spec.checkpoint_every, spec.gradient_checkpointing, spec.steps) == (3, True, 6)
        assert (spec.preview, spec.display_name, dict(spec.labels)) == (preview, "again", {})
    # The attempt that followed did what was asked: it saved every third step.
    listed = await shared.trainer.ListCheckpoints(trainer_pb2.ListCheckpointsRequest(name=run.name))
    assert [checkpoint.step for checkpoint in listed.checkpoints if checkpoint.attempt == 2] == [3, 6]


async def test_names_that_do_not_exist_are_said_to_be_missing(shared: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shared.get(f"{PARENT}/runs/01jd0000000000000000000000")
    error = error_of(caught.value)
    assert isinstance(error, Missing)
    assert error.reason == "JOB_NOT_FOUND"
