"""Models as tests send and get them."""

import json
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
import pytest
from safetensors.numpy import save as save_safetensors

from marsam.api.model.v1 import model_pb2
from marsam.core.ids import digest_of
from marsam.rpc.wire import error_of
from tests.integration.trainer.harness import LAYER, PARENT, Service

KINDS = {
    "base": model_pb2.MODEL_KIND_BASE,
    "adapter": model_pb2.MODEL_KIND_ADAPTER,
    "full": model_pb2.MODEL_KIND_FULL,
    "judge": model_pb2.MODEL_KIND_JUDGE,
}
PEFT = f"base_model.model.{LAYER}"
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["to_q"], "use_rslora": False}
A, B = np.ones((2, 6), np.float32), np.full((8, 2), 0.5, np.float32)


def header(kind: str, id_: str = "m", **fields: Any) -> model_pb2.ImportModelHeader:
    return model_pb2.ImportModelHeader(
        parent=PARENT, model_id=id_, kind=model_pb2.ModelKind.Name(KINDS[kind]), **fields
    )


def adapter_files(config: Mapping[str, Any] = CONFIG, **tensors: np.ndarray) -> dict[str, bytes]:
    pairs = tensors or {f"{PEFT}.lora_A.weight": A, f"{PEFT}.lora_B.weight": B}
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": save_safetensors(pairs, {"format": "pt"}),
    }


async def refused(service: Service, head: model_pb2.ImportModelHeader, files: Mapping[str, bytes]) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.send(head, files)
    return error_of(caught.value)


async def exported(service: Service, name: str, dialect: str) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    digests = {}
    path = ""
    async for message in service.models.ExportModel(model_pb2.ExportModelRequest(name=name, dialect=dialect)):
        if message.HasField("file"):
            path = message.file.path
            files[path], digests[path] = b"", message.file.digest
        else:
            files[path] += message.chunk
    assert {path: digest_of(data) for path, data in files.items()} == digests
    return files
