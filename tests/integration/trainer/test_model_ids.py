"""Ids of models to be, through the service: one run has one, imports respect it, and a resume asks again."""

import asyncio

import grpc
import pytest
from marsam_trainer.admission import OUTPUT

from marsam.api.trainer.v1 import trainer_pb2
from marsam.core.errors import Exists, Invalid
from marsam.rpc.wire import error_of
from marsam.store.open import open_store
from tests.integration.trainer.harness import BASE, HELD_OUT, PARENT, Service, place_version
from tests.integration.trainer.samples import adapter_files, header, refused

pytestmark = pytest.mark.slow


async def test_of_runs_admitted_at_once_one_has_the_id_and_the_others_name_it(service: Service) -> None:
    outcomes = await asyncio.gather(
        *(service.create(output_model_id="wanted", steps=1) for _ in range(6)), return_exceptions=True
    )
    (run,) = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    errors = [error_of(outcome) for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert len(errors) == 5
    for error in errors:
        assert isinstance(error, Invalid)
        assert error.reason == "MODEL_ID_RESERVED"
        assert [violation.field for violation in error.violations] == [f"spec.{OUTPUT}"]
        assert run.name in error.message
    listed = await service.trainer.ListRuns(trainer_pb2.ListRunsRequest(parent=PARENT))
    assert [one.name for one in listed.runs] == [run.name]
    done = await service.until(run.name, "SUCCEEDED", "FAILED")
    assert done.model == f"{PARENT}/models/wanted"


async def test_a_resumed_run_whose_id_went_to_another_is_told(service: Service) -> None:
    run = await service.create(output_model_id="wanted", labels={"fail-until": "1", "how": "65"})
    await service.until(run.name, "FAILED")
    second = await service.create(output_model_id="wanted", steps=40, labels={"step-s": "0.05"})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.trainer.ResumeRun(trainer_pb2.ResumeRunRequest(name=run.name))
    error = error_of(caught.value)
    assert isinstance(error, Exists)
    assert (error.reason, error.resource) == ("MODEL_ID_RESERVED", second.name)
    error = await refused(service, header("adapter", "wanted", base=BASE), adapter_files())
    assert (error.reason, error.resource) == ("MODEL_ID_RESERVED", second.name)
    await service.trainer.CancelRun(trainer_pb2.CancelRunRequest(name=second.name))
    await service.until(second.name, "CANCELLED")
    await service.trainer.ResumeRun(trainer_pb2.ResumeRunRequest(name=run.name))
    done = await service.until(run.name, "SUCCEEDED", "FAILED")
    assert done.model == f"{PARENT}/models/wanted"
    assert done.attempt == 2


async def test_the_id_of_the_best_weights_belongs_to_the_run_too(service: Service) -> None:
    await place_version(open_store(str(service.store)), HELD_OUT, items=4, held_out=2)
    run = await service.create(output_model_id="wanted", dataset_version=HELD_OUT, steps=40, labels={"step-s": "0.05"})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.create(output_model_id="wanted-best")
    error = error_of(caught.value)
    assert isinstance(error, Invalid)
    assert (error.reason, run.name in error.message) == ("MODEL_ID_RESERVED", True)
    error = await refused(service, header("adapter", "wanted-best", base=BASE), adapter_files())
    assert (error.reason, error.resource) == ("MODEL_ID_RESERVED", run.name)
