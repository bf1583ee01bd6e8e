"""Both engines over one store of tiny models, with the same settings."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from diffusers import AutoencoderKL
from marsam_generator.engines.building import local_engine
from marsam_generator.engines.contract import DrawingEngine
from marsam_generator.engines.triton import TritonEngine
from marsam_generator.settings import EngineSettings
from marsam_generator.trees import Trees

from marsam.catalog.models import Model
from marsam.catalog.repository import load_model
from marsam.store.cache import Cache
from marsam.store.open import open_store
from marsam.telemetry import Meter
from tests.contract.engine.triton_server import MODEL, Triton, serving
from tests.integration.generator.support import model, publish, tiny_models
from tests.unit.generator.tiny import write_base

KINDS = ("local", "triton")
PLACES = 24
TICK_ROWS = 8
STEPS = "marsam_generation_steps_total"


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The tiny models, and `large`: a base whose image coder makes 1024 px of a latent of 128."""
    root = tmp_path_factory.mktemp("engines")
    with tiny_models(root) as url:
        large = write_base(root / "large", seed=11)
        coder = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=8,
            sample_size=64,
        )
        coder.eval().save_pretrained(large / "vae", safe_serialization=True)
        asyncio.run(publish(open_store(url), "large", "base", large))
        yield url


@pytest.fixture(scope="session")
def models(store: str) -> dict[str, Model]:
    """The models of the store by their short names."""

    async def read() -> dict[str, Model]:
        names = ("base", "other", "a", "b", "alien", "tuned", "large")
        return {name: await load_model(open_store(store), model(name)) for name in names}

    return asyncio.run(read())


@pytest.fixture(scope="session")
def triton(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """One server for all that leave it well."""
    folder = tmp_path_factory.mktemp("triton")
    settings = {
        "MARSAM_THREADS": "1",
        "MARSAM_TICK_ROWS": str(TICK_ROWS),
        "MARSAM_QUEUE_PICTURES": str(PLACES),
        "MARSAM_LOG_LEVEL": "debug",
    }
    with serving(folder, store=store, **settings) as server:
        yield server


@dataclass(kw_only=True)
class Drawing:
    """An engine, and how many rows it has put through denoisers so far."""

    kind: str
    engine: DrawingEngine
    rows: Callable[[], float]


@contextlib.asynccontextmanager
async def local(store: str, folder: Path) -> AsyncIterator[Drawing]:
    """The engine in this process."""
    meter = Meter(service="engine", version="0")
    settings = EngineSettings(
        store=store, cache=folder / "cache", threads=1, tick_rows=TICK_ROWS, queue_pictures=PLACES
    )
    blobs = open_store(store)
    trees = Trees(blobs, Cache(settings.cache, budget=settings.cache_bytes))
    engine = local_engine(settings, blobs=blobs, trees=trees, meter=meter)

    def rows() -> float:
        return sum(meter.value(STEPS, base=model(name)) or 0.0 for name in ("base", "large", "other"))

    yield Drawing(kind="local", engine=engine, rows=rows)
    await engine.close()
    await trees.close()


@contextlib.asynccontextmanager
async def remote(server: Triton) -> AsyncIterator[Drawing]:
    """The engine in Triton."""
    engine = TritonEngine(address=server.grpc, model=MODEL)
    yield Drawing(kind="triton", engine=engine, rows=lambda: server.value(STEPS))
    await engine.close()


@pytest.fixture(params=KINDS)
async def drawing(request: pytest.FixtureRequest, store: str, tmp_path: Path) -> AsyncIterator[Drawing]:
    """Each engine in turn."""
    made = local(store, tmp_path) if request.param == "local" else remote(request.getfixturevalue("triton"))
    async with made as one:
        yield one
