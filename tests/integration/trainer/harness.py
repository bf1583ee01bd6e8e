"""A trainer service as a process, callers for it, and the smallest base and dataset that it admits."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_safetensors

from marsam.api.common.v1 import common_pb2
from marsam.api.model.v1 import model_pb2, model_pb2_grpc
from marsam.api.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from marsam.catalog.acceptance import Acceptance
from marsam.catalog.datasets import Caption, DatasetVersion, Item, Mask, Rights
from marsam.catalog.files import FileRef
from marsam.catalog.models import Model
from marsam.catalog.repository import save_item, save_model, save_version
from marsam.core.clock import SystemClock
from marsam.core.ids import digest_of, new_ulid
from marsam.rpc.wire import channel
from marsam.store.blobs import Blobs
from marsam.store.content import put_blob

PROGRAM = Path(__file__).with_name("program.py")
PARENT = "projects/default"
BASE = "projects/default/models/tiny"
VERSION = "projects/default/datasets/hayy/versions/v1"
HELD_OUT = "projects/default/datasets/hayy/versions/held-out"
OTHERS = "projects/default/datasets/world/versions/v1"
CLOCK = SystemClock()

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def base_files() -> dict[str, bytes]:
    """A base in diffusers layout that is whole to whoever does not load it: tiny, with one attention layer."""
    text = {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "safety_checker": [None, None],
        },
        "unet/config.json": {
            "_class_name": "UNet2DConditionModel",
            "in_channels": 4,
            "sample_size": 16,
            "block_out_channels": [32, 64, 64],
        },
        "vae/config.json": {"_class_name": "AutoencoderKL", "latent_channels": 4, "block_out_channels": [32, 32, 32]},
        "text_encoder/config.json": {"max_position_embeddings": 77, "hidden_size": 32},
        "scheduler/scheduler_config.json": {"prediction_type": "epsilon", "num_train_timesteps": 1000},
        "tokenizer/tokenizer_config.json": {"model_max_length": 77},
        "tokenizer/vocab.json": {"a": 0},
    }
    files = {path: json.dumps(value).encode() for path, value in text.items()}
    files["tokenizer/merges.txt"] = b"#version: 0.2\na b\n"
    files["unet/diffusion_pytorch_model.safetensors"] = save_safetensors(
        {f"{LAYER}.weight": np.zeros((8, 6), np.float32), "conv_in.weight": np.zeros((8, 4, 3, 3), np.float32)}
    )
    for part, stem in (("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
        files[f"{part}/{stem}.safetensors"] = save_safetensors({"w": np.zeros(3, np.float32)})
    return files


async def place_base(
    blobs: Blobs,
    name: str = BASE,
    *,
    kind: Any = "base",
    licence: str = "Apache-2.0",
    accepted: Acceptance | None = None,
    changed: Mapping[str, bytes] | None = None,
) -> Model:
    """Put the tiny base into the registry without the service; `changed` files replace its own."""
    refs = []
    for path, data in (base_files() | dict(changed or {})).items():
        stored = await put_blob(blobs, "default", data)
        refs.append(FileRef(path=path, digest=stored.digest, size=stored.size))
    model = Model(
        name=name,
        kind=kind,
        create_time=CLOCK.now(),
        files=tuple(refs),
        family="sd1",
        licence=licence,
        accepted=accepted,
    )
    await save_model(blobs, model)
    return model


async def place_version(
    blobs: Blobs,
    name: str = VERSION,
    *,
    items: int = 3,
    size: tuple[int, int] = (64, 64),
    masked: int = 0,
    held_out: int = 0,
) -> DatasetVersion:
    """Put a dataset version of `items` pictures of a size in English and Arabic into the catalog, some of them
    masked; `held_out` of them are for validation."""
    made = []
    for number in range(items):
        stored = await put_blob(blobs, "default", f"picture {number}".encode())
        image = FileRef(path=f"{number}.png", digest=stored.digest, size=stored.size)
        made.append(
            Item(
                id=new_ulid(CLOCK),
                file_name=f"{number}.png",
                image=image,
                original_digest=stored.digest,
                pixel_digest=digest_of(str(number).encode()),
                width=size[0],
                height=size[1],
                phash=number,
                dhash=number,
                captions=(Caption(language="en", text=f"a man {number}"), Caption(language="ar", text=f"رجل {number}")),
                split="validation" if number < held_out else "train",
                rights=Rights(licence="CC-BY-4.0", holder="the quarter", consent="none depicted"),
                mask=Mask(image=image, original_digest=stored.digest) if number < masked else None,
            )
        )
    dataset = "/".join(name.split("/")[:4])
    for item in made:
        await save_item(blobs, dataset, item)
    version = DatasetVersion(name=name, create_time=CLOCK.now(), items=tuple(made))
    await save_version(blobs, version)
    return version


class Service:
    """One trainer process over `folder`; `kill` and `start` it again at will."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.store = folder / "store"
        self.cache = folder / "cache"
        self.log = folder / "trainer.log"
        self._settings = {
            "store": self.store,
            "cache": self.cache,
            "run_command": f"{sys.executable},{PROGRAM}",
            "poll_s": 0.1,
            "retry_delay_s": 0.1,
            "stop_grace_s": 5,
            "run_metrics": "false",
            "hub_offline": "true",
            **settings,
        }
        self._process: asyncio.subprocess.Process | None = None
        self.http = self.address = ""

    async def start(self) -> None:
        settings = {f"MARSAM_{name.upper()}": str(value) for name, value in self._settings.items()}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MARSAM_")}
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-X", "faulthandler", "-m", "marsam_trainer", env={**inherited, **settings},
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), timeout=60)
        assert line, self.log.read_text()
        ready = json.loads(line)
        self.http, self.address = ready["http"], ready["grpc"]
        self._channel = channel(ready["grpc"])
        self.trainer = trainer_pb2_grpc.TrainerServiceStub(self._channel)
        self.models = model_pb2_grpc.ModelServiceStub(self._channel)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def stop(self, number: int = signal.SIGTERM) -> int:
        process, self._process = self._process, None
        assert process is not None
        await self._channel.close()
        if process.returncode is None:
            process.send_signal(number)
        try:
            return await asyncio.wait_for(process.wait(), timeout=60)
        except TimeoutError as error:
            process.send_signal(signal.SIGABRT)  # it writes down where each of its threads is
            await process.wait()
            raise AssertionError(f"it did not end within a minute\n{self._told()}") from error

    def _told(self) -> str:
        """The end of what the service said."""
        return self.log.read_text(errors="replace")[-8000:]

    async def __aenter__(self) -> "Service":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            await self.stop()

    def ordered(self, *, labels: Mapping[str, str] | None = None, **fields: Any) -> trainer_pb2.RunSpec:
        """A small valid spec, changed by `fields`."""
        given = {
            "base": BASE,
            "dataset_version": VERSION,
            "method": "lora",
            "steps": 5,
            "checkpoint_every": 2,
            **fields,
        }
        return trainer_pb2.RunSpec(labels=labels or {}, **given)

    async def create(self, *, request_id: str = "", labels: Mapping[str, str] | None = None, **fields: Any) -> Any:
        request = trainer_pb2.CreateRunRequest(
            parent=PARENT, spec=self.ordered(labels=labels, **fields), request_id=request_id
        )
        return (await self.trainer.CreateRun(request, timeout=30)).run

    async def get(self, name: str) -> Any:
        return (await self.trainer.GetRun(trainer_pb2.GetRunRequest(name=name), timeout=30)).run

    async def until(self, name: str, *states: str, timeout_s: float = 60, attempt: int = 0) -> Any:
        """The run as soon as it is in one of `states` (and in `attempt` or a later one)."""
        wanted = {common_pb2.JobState.Value(f"JOB_STATE_{state}") for state in states}
        run = None
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    run = await self.get(name)
                    if run.state in wanted and run.attempt >= attempt:
                        return run
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise AssertionError(f"not {states} within {timeout_s} s: {run}\n{self._told()}") from error

    async def watch(self, name: str, token: str = "") -> AsyncGenerator[Any, None]:
        request = trainer_pb2.WatchRunRequest(name=name, resume_token=token)
        async with contextlib.aclosing(_messages(self.trainer.WatchRun(request, timeout=60))) as messages:
            async for message in messages:
                yield message

    async def send(self, header: model_pb2.ImportModelHeader, files: Mapping[str, bytes]) -> Any:
        """Import a model from bytes."""

        async def messages() -> AsyncIterator[model_pb2.ImportModelRequest]:
            yield model_pb2.ImportModelRequest(header=header)
            for path, data in files.items():
                head = common_pb2.FileHeader(path=path, size_bytes=len(data), digest=digest_of(data))
                yield model_pb2.ImportModelRequest(file=head)
                for start in range(0, len(data), 1 << 18):
                    yield model_pb2.ImportModelRequest(chunk=data[start : start + (1 << 18)])

        return (await self.models.ImportModel(messages(), timeout=60)).model


async def _messages(call: Any) -> AsyncGenerator[Any, None]:
    try:
        async for message in call:
            yield message
    finally:
        call.cancel()


def state(run: Any) -> str:
    """A run's state as a word."""
    return str(common_pb2.JobState.Name(run.state)).removeprefix("JOB_STATE_")
