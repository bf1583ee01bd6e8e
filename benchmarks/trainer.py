"""The trainer service as a process of its own, and runs that it finds in its store."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from marsam.api.trainer.v1 import trainer_pb2_grpc
from marsam.catalog.runs import RunSpec
from marsam.core.names import format_name
from marsam.core.records import dump
from marsam.rpc.wire import channel

PROJECT = "bench"
_DIGEST = f"sha256:{'0' * 64}"


def run_spec(run_id: str) -> bytes:
    """What a run was asked to do, as the trainer records it."""
    return dump(
        RunSpec(
            name=format_name("run", PROJECT, run_id),
            base=format_name("model", PROJECT, "base"),
            base_digest=_DIGEST,
            dataset_version=format_name("version", PROJECT, "set", "v1"),
            dataset_digest=_DIGEST,
            method="lora",
            output_model_id=run_id,
            steps=1000,
            batch_size=4,
            learning_rate=1e-4,
            resolution=512,
            seed=0,
        )
    )


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A service that is ready."""

    stub: "trainer_pb2_grpc.TrainerServiceAsyncStub"
    pid: int
    start_s: float

    def resident_mb(self) -> float:
        """How much of its memory is in use."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


@asynccontextmanager
async def serving(settings: Mapping[str, str]) -> AsyncIterator[Trainer]:
    """The service with these variables beside this process's own, while the block runs."""
    began = time.perf_counter()
    service = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "marsam_trainer", "--until-stdin-closes", env={**os.environ, **settings},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert service.stdout is not None
        async with asyncio.timeout(120):
            ready = json.loads(await service.stdout.readline())
        start_s = time.perf_counter() - began
        async with channel(ready["grpc"]) as connection:
            yield Trainer(stub=trainer_pb2_grpc.TrainerServiceStub(connection), pid=service.pid, start_s=start_s)
    finally:
        service.terminate()
        async with asyncio.timeout(60):
            await service.wait()
