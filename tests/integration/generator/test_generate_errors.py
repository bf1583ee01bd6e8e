"""Bad requests: each gets a typed error with reason, place and remedy."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from safetensors.torch import load_file, save_file

from marsam.api.generator.v1 import generator_pb2
from marsam.catalog.repository import load_model
from marsam.core.errors import Corrupt, Invalid, MarsamError, Missing, Precondition
from marsam.rpc.wire import error_of
from tests.integration.generator.support import PROJECT, Served, generate, model, publish, request
from tests.unit.generator.tiny import write_adapter, write_base


async def refused(served: Served, asked: generator_pb2.GenerateRequest) -> MarsamError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(served.stub, asked)
    return error_of(caught.value)


@pytest.mark.parametrize(
    ("fields", "field", "reason", "words"),
    [
        ({"steps": 0}, "steps", "STEPS_OUT_OF_RANGE", "between 1 and 250"),
        ({"steps": 10_000}, "steps", "STEPS_OUT_OF_RANGE", "between 1 and 250"),
        ({"guidance": -1.0}, "guidance", "GUIDANCE_OUT_OF_RANGE", "between 0 and 50"),
        ({"guidance": float("nan")}, "guidance", "GUIDANCE_OUT_OF_RANGE", "got nan"),
        ({"width": 21}, "width", "SIZE_UNSUPPORTED", "use 20 or 24"),
        ({"height": 100_000}, "height", "SIZE_UNSUPPORTED", "use 2048"),
        ({"scheduler": "eular"}, "scheduler", "UNKNOWN_SCHEDULER", "'euler'"),
    ],
)
async def test_settings_out_of_range(
    served: Served, fields: dict[str, Any], field: str, reason: str, words: str
) -> None:
    error = await refused(served, request(**fields))
    assert isinstance(error, Invalid)
    assert (error.violations[0].field, error.violations[0].reason) == (field, reason)
    assert words in str(error)


async def test_every_fault_is_named_at_once(served: Served) -> None:
    error = await refused(served, request(steps=0, width=21, scheduler="x"))
    assert isinstance(error, Invalid)
    assert {violation.field for violation in error.violations} == {"steps", "width", "scheduler"}


async def test_rules_of_the_proto_come_first(served: Served) -> None:
    error = await refused(served, request(count=17))
    assert isinstance(error, Invalid) and error.violations[0].field == "count"
    error = await refused(served, request(prompt="x" * 10_000))
    assert isinstance(error, Invalid) and error.violations[0].field == "prompt"


async def test_a_prompt_of_ten_megabytes_is_refused_before_anything_reads_it(served: Served) -> None:
    error = await refused(served, request(prompt="ط" * 5_000_000))
    assert isinstance(error, Invalid) and error.reason == "MESSAGE_TOO_LARGE"
    assert served.meter.value("marsam_queue_depth", queue="pictures") in (None, 0.0)


@pytest.mark.parametrize("weight", [1e9, -4.5, float("inf"), float("nan")])
async def test_absurd_weights_are_refused(served: Served, weight: float) -> None:
    error = await refused(served, request(adapters={"a": weight}))
    assert isinstance(error, Invalid) and error.violations[0].field == "adapters[0].weight"


@pytest.mark.parametrize("damage", ["cut off", "nonsense", "no numbers"])
async def test_a_malformed_adapter_in_the_store_fails_by_name_and_takes_nobody_along(
    served: Served, tmp_path: Path, damage: str
) -> None:
    base = await load_model(served.blobs, model("base"))
    folder = write_adapter(tmp_path / "adapter", write_base(tmp_path / "base"), seed=1)
    (weights,) = folder.glob("*.safetensors")
    data = weights.read_bytes()
    if damage == "no numbers":
        tensors = load_file(weights)
        save_file({name: value * float("nan") for name, value in tensors.items()}, weights)
    else:
        weights.write_bytes(data[: len(data) // 2] if damage == "cut off" else b"\xff" * 64)
    name = damage.replace(" ", "-")
    await publish(served.blobs, name, "adapter", folder, base=base)
    beside = asyncio.create_task(generate(served.stub, request(steps=30)))
    asked = request(adapters={name: 1.0}, request_id=name)
    error = await refused(served, asked)
    assert isinstance(error, Corrupt | Invalid) and error.reason not in ("", "INTERNAL"), error
    assert len((await beside).images) == 1
    listed = await served.stub.ListGenerations(generator_pb2.ListGenerationsRequest(parent=PROJECT), timeout=20)
    failed = {one.request.request_id: one for one in listed.generations}[name]
    assert failed.state == generator_pb2.GENERATION_STATE_FAILED
    assert failed.error_reason == error.reason and failed.error_message == error.message
    assert served.meter.value("marsam_queue_depth", queue="pictures") == 0


async def test_unknown_models_name_the_nearest(served: Served) -> None:
    error = await refused(served, request(model=model("bass")))
    assert isinstance(error, Missing) and error.reason == "MODEL_NOT_FOUND" and "'base'" in error.remedy
    error = await refused(served, request(adapters={"aa": 1.0}))
    assert isinstance(error, Missing) and error.resource == model("aa") and error.field == "adapters[0].model"


async def test_an_adapter_of_another_base_names_both_digests(served: Served) -> None:
    error = await refused(served, request(adapters={"alien": 1.0}))
    assert isinstance(error, Precondition) and error.reason == "ADAPTER_OF_ANOTHER_BASE"
    assert error.message.count("sha256:") == 2
    assert model("other") in error.remedy
    error = await refused(served, request(model=model("tuned"), adapters={"a": 1.0}))
    assert error.reason == "ADAPTER_OF_ANOTHER_BASE"


async def test_kinds_are_not_confused(served: Served) -> None:
    error = await refused(served, request(model=model("a")))
    assert error.reason == "MODEL_KIND" and model("base") in error.remedy
    error = await refused(served, request(adapters={"tuned": 1.0}))
    assert error.reason == "NOT_AN_ADAPTER"
    error = await refused(served, _twice())
    assert error.reason == "ADAPTER_TWICE"


async def test_a_dora_adapter_beside_another_is_refused_by_name(served: Served) -> None:
    error = await refused(served, request(adapters={"a": 0.5, "stretched": 1.0}))
    assert (error.reason, error.field) == ("ADAPTER_COMPOSITION", "adapters")
    assert model("stretched") in error.message


def _twice() -> generator_pb2.GenerateRequest:
    asked = request()
    asked.adapters.add(model=model("a"), weight=1.0)
    asked.adapters.add(model=model("a"), weight=0.5)
    return asked


async def test_unknown_generations(served: Served) -> None:
    name = f"{PROJECT}/generations/01kaxxxxxxxxxxxxxxxxxxxxxx"
    for method, message in (
        ("GetGeneration", generator_pb2.GetGenerationRequest(name=name)),
        ("CancelGeneration", generator_pb2.CancelGenerationRequest(name=name)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(served.stub, method)(message, timeout=20)
        assert error_of(caught.value).reason == "GENERATION_NOT_FOUND"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.GetGeneration(generator_pb2.GetGenerationRequest(name="nonsense"), timeout=20)
    assert error_of(caught.value).reason == "NAME_MALFORMED"
