"""What the registry does not take, and what it says then. One service for all: nothing of a refused model stays."""

import io
import json
import pickle
import zipfile
from typing import Any

import grpc
import numpy as np
import pytest
from safetensors.numpy import save as save_safetensors

from marsam.api.common.v1 import common_pb2
from marsam.api.model.v1 import model_pb2
from marsam.core.errors import Corrupt, Invalid, Missing
from marsam.core.ids import digest_of
from marsam.rpc.wire import error_of
from tests.integration.trainer.harness import BASE, PARENT, Service, base_files
from tests.integration.trainer.samples import CONFIG, PEFT, A, B, adapter_files, exported, header, refused

PAIR = {f"{PEFT}.lora_A.weight": A, f"{PEFT}.lora_B.weight": B}

pytestmark = pytest.mark.asyncio(loop_scope="module")


def torch_archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": 1}))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("drop", "words"),
    [
        ("model_index.json", "model_index.json"),
        ("unet/diffusion_pytorch_model.safetensors", "unet/ has no .safetensors"),
        ("vae/", "the folder vae/ is missing"),
        ("scheduler/scheduler_config.json", "scheduler"),
        ("tokenizer/vocab.json", "vocabulary"),
    ],
)
async def test_a_base_that_is_not_whole_is_refused(shared: Service, drop: str, words: str) -> None:
    files = {path: data for path, data in base_files().items() if not path.startswith(drop)}
    error = await refused(shared, header("base"), files)
    assert error.reason == "BASE_INCOMPLETE"
    assert words in error.message


async def test_a_shard_that_the_index_names_must_be_there(shared: Service) -> None:
    files = base_files()
    files["unet/diffusion_pytorch_model-00001-of-00002.safetensors"] = files.pop(
        "unet/diffusion_pytorch_model.safetensors"
    )
    index = {"weight_map": {"a": "diffusion_pytorch_model-00001-of-00002.safetensors",
                            "b": "diffusion_pytorch_model-00002-of-00002.safetensors"}}  # fmt: skip
    files["unet/diffusion_pytorch_model.safetensors.index.json"] = json.dumps(index).encode()
    error = await refused(shared, header("base"), files)
    assert "00002-of-00002.safetensors, which" in error.message


async def test_a_base_of_another_family_is_refused_with_what_was_seen(shared: Service) -> None:
    files = base_files()
    config = json.loads(files["unet/config.json"]) | {"_class_name": "SanaTransformer2DModel"}
    files["unet/config.json"] = json.dumps(config).encode()
    error = await refused(shared, header("base"), files)
    assert error.reason == "BASE_FAMILY"
    assert "SanaTransformer2DModel" in error.message
    unknown = await refused(shared, header("base", family="sd11"), base_files())
    assert (unknown.reason, "'sd1'" in unknown.remedy) == ("UNKNOWN_FAMILY", True)


@pytest.mark.parametrize(
    ("path", "data", "reason"),
    [
        ("unet/diffusion_pytorch_model.bin", b"x", "PICKLE_REFUSED"),
        ("unet/diffusion_pytorch_model.safetensors", pickle.dumps({"w": 1}), "PICKLE_REFUSED"),
        ("unet/diffusion_pytorch_model.safetensors", torch_archive(), "PICKLE_REFUSED"),
        ("unet/diffusion_pytorch_model.safetensors", b"\0" * 100, "FILE_BROKEN"),
        ("unet/config.json", b"{", "FILE_BROKEN"),
        ("picture.png", b"\x89PNG\r\n\x1a\n\0\0", "FILE_NOT_ALLOWED"),
        ("../escape.json", b"{}", "PATH_UNSAFE"),
    ],
)
async def test_only_what_cannot_run_is_stored(shared: Service, path: str, data: bytes, reason: str) -> None:
    error = await refused(shared, header("base"), base_files() | {path: data})
    assert isinstance(error, Invalid)
    assert error.reason == reason
    if reason == "PICKLE_REFUSED":
        assert path in error.message
        assert "save_file" in error.remedy
    assert not list((shared.cache / "incoming").iterdir())
    with pytest.raises(grpc.aio.AioRpcError):
        await shared.models.GetModel(model_pb2.GetModelRequest(name=f"{PARENT}/models/m"))


async def test_bytes_that_are_not_those_announced_are_refused(shared: Service) -> None:
    async def messages() -> Any:
        yield model_pb2.ImportModelRequest(header=header("base"))
        yield model_pb2.ImportModelRequest(
            file=common_pb2.FileHeader(path="a.json", size_bytes=2, digest=digest_of(b"[]"))
        )
        yield model_pb2.ImportModelRequest(chunk=b"{}")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shared.models.ImportModel(messages())
    error = error_of(caught.value)
    assert isinstance(error, Corrupt)
    assert error.reason == "DIGEST_MISMATCH"


async def test_streams_that_begin_otherwise_than_with_a_header_are_refused(shared: Service) -> None:
    async def messages() -> Any:
        yield model_pb2.ImportModelRequest(chunk=b"{}")

    for call in (messages(), iter(())):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await shared.models.ImportModel(call)
        assert error_of(caught.value).reason == "STREAM_ORDER"
    assert (await refused(shared, header("judge"), {})).reason == "NO_FILES"


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({f"{PEFT}.lora_A.weight": A}, "ADAPTER_LAYOUT"),
        ({f"{PEFT}.lora_A.weight": A, f"{PEFT}.lora_B.weight": np.zeros((8, 3), np.float32)}, "ADAPTER_LAYOUT"),
        ({f"{PEFT}.lora_A.weight": A[:, :5], f"{PEFT}.lora_B.weight": B}, "BASE_MISMATCH"),
        (
            {"base_model.model.nowhere.lora_A.weight": A, "base_model.model.nowhere.lora_B.weight": B},
            "ADAPTER_LAYERS_UNKNOWN",
        ),
        ({"lora_unet_down_blocks_0.lora_down.weight": A}, "ADAPTER_LAYERS_UNKNOWN"),
        (
            {**PAIR, "lora_unet_x.alpha": np.array(4, np.float32)},
            "ADAPTER_LAYERS_UNKNOWN",
        ),
        ({**PAIR, "y.alpha": np.array(4, np.float32)}, "ADAPTER_LAYERS_UNKNOWN"),
        ({"text_encoder.x.lora_A.weight": A, "text_encoder.x.lora_B.weight": B}, "ADAPTER_LAYERS_UNKNOWN"),
        ({"w": A}, "ADAPTER_LAYOUT"),
    ],
)
async def test_an_adapter_that_does_not_fit_is_refused(shared: Service, tensors: Any, reason: str) -> None:
    error = await refused(shared, header("adapter", base=BASE), {"a.safetensors": save_safetensors(tensors)})
    assert error.reason == reason


async def test_an_adapter_needs_a_base_and_a_config_that_agrees(shared: Service) -> None:
    assert (await refused(shared, header("adapter"), adapter_files())).reason == "BASE_REQUIRED"
    missing = await refused(shared, header("adapter", base=f"{PARENT}/models/tinny"), adapter_files())
    assert isinstance(missing, Missing)
    assert "'tiny'" in missing.remedy
    wrong = await refused(shared, header("adapter", base=BASE), adapter_files(CONFIG | {"r": 3}))
    assert "says rank 3, the tensors say 2" in wrong.message
    dora = await refused(shared, header("adapter", base=BASE), adapter_files(CONFIG | {"use_dora": True}))
    assert dora.reason == "ADAPTER_LAYOUT"
    assert "says use_dora, and the tensors hold none of its lengths" in dora.message


async def test_dialects(shared: Service) -> None:
    for dialect, kind in (("kohya", Invalid), ("diffuser", Invalid), ("peft", Invalid)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await exported(shared, BASE, dialect)
        error = error_of(caught.value)
        assert isinstance(error, kind)
        assert error.field == "dialect"
