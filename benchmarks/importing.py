"""Import through the dataset service against what nobody can do without: read, SHA-256 and Pillow decode of each file.

    python -m benchmarks.importing [ROUNDS]

Both sides take the same files in the same run, in turn. The service streams them over gRPC, stores the originals,
decodes in worker processes with limits, normalises, hashes, measures, encodes PNG, and makes every write durable; the
bare side does none of that, in as many processes as the service has decoders.
"""

import asyncio
import hashlib
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from marsam.api.common.v1 import common_pb2
from marsam.api.dataset.v1 import dataset_pb2 as pb
from marsam.api.dataset.v1 import dataset_pb2_grpc
from marsam.rpc.wire import channel

PROCESSES = 2
CHUNK = 256 * 1024


def drawings(count: int = 240) -> dict[str, bytes]:
    """PNGs of 256 px like those of the example sets: few colours, sharp edges."""
    files = {}
    for n in range(count):
        random = np.random.default_rng(n)
        image = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((256, 256), 0)
        files[f"{n:04d}.png"] = _saved(image, "PNG")
    return files


def photographs(count: int = 60) -> dict[str, bytes]:
    """JPEGs of 1024 × 768 with the grain and gradients of a photograph."""
    files = {}
    for n in range(count):
        random = np.random.default_rng(n)
        ground = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((1024, 768), 3)
        grain = np.asarray(ground, dtype=np.int16) + random.normal(0, 4, (768, 1024, 3)).astype(np.int16)
        files[f"{n:04d}.jpg"] = _saved(Image.fromarray(grain.clip(0, 255).astype(np.uint8)), "JPEG", quality=88)
    return files


def _saved(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format=format, **options)
    return out.getvalue()


def bare(path: Path) -> str:
    """One file of the bare side."""
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        image.load()
    return hashlib.sha256(data).hexdigest()


def _bare_seconds(pool: ProcessPoolExecutor, paths: list[Path]) -> float:
    began = time.perf_counter()
    list(pool.map(bare, paths, chunksize=8))
    return time.perf_counter() - began


async def _stream(parent: str, files: dict[str, bytes]) -> AsyncIterator[pb.ImportItemsRequest]:
    yield pb.ImportItemsRequest(header=pb.ImportHeader(parent=parent))
    for path, data in files.items():
        yield pb.ImportItemsRequest(file=common_pb2.FileHeader(path=path, size_bytes=len(data)))
        for at in range(0, len(data), CHUNK):
            yield pb.ImportItemsRequest(chunk=data[at : at + CHUNK])


async def _import_seconds(stub: Any, dataset: str, files: dict[str, bytes]) -> float:
    """From the first byte sent until every picture is a durable item."""
    parent, _, dataset_id = dataset.rpartition("/datasets/")
    await stub.CreateDataset(pb.CreateDatasetRequest(parent=parent, dataset_id=dataset_id), timeout=60)
    began = time.perf_counter()
    started = getattr(await stub.ImportItems(_stream(dataset, files), timeout=600), "import")
    accepted = 0
    async for update in stub.WatchImport(pb.WatchImportRequest(name=started.name), timeout=600):
        accepted = getattr(update, "import").items_accepted
    seconds = time.perf_counter() - began
    if accepted != len(files):
        raise RuntimeError(f"{accepted} of {len(files)} pictures were accepted")
    return seconds


async def compare(make: Callable[[], dict[str, bytes]], *, rounds: int) -> dict[str, float]:
    """Images per second of both sides (medians of `rounds`) and their ratio."""
    files = make()
    with tempfile.TemporaryDirectory(prefix="marsam-bench-") as folder:
        paths = []
        for name, data in files.items():
            paths.append(Path(folder, name))
            paths[-1].write_bytes(data)
        env = {**os.environ, "MARSAM_STORE": f"{folder}/store", "MARSAM_DECODE_WORKERS": str(PROCESSES)}
        service = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "marsam_dataset",
            "--until-stdin-closes",
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert service.stdout is not None
        async with asyncio.timeout(60):
            ready = json.loads(await service.stdout.readline())
        ours, theirs = [], []
        try:
            async with channel(ready["grpc"]) as connection:
                stub = dataset_pb2_grpc.DatasetServiceStub(connection)
                with ProcessPoolExecutor(PROCESSES) as pool:
                    # Both sides start their processes before anything is measured.
                    await _import_seconds(stub, "projects/default/datasets/warm-up", dict(list(files.items())[:8]))
                    _bare_seconds(pool, paths)
                    for number in range(rounds):
                        theirs.append(len(files) / _bare_seconds(pool, paths))
                        dataset = f"projects/default/datasets/round-{number}"
                        ours.append(len(files) / await _import_seconds(stub, dataset, files))
        finally:
            service.terminate()
            async with asyncio.timeout(30):
                await service.wait()
    import_rate, bare_rate = statistics.median(ours), statistics.median(theirs)
    return {"import": import_rate, "bare": bare_rate, "ratio": import_rate / bare_rate}


def main(rounds: int = 3) -> dict[str, dict[str, float]]:
    """Measure both kinds of pictures and print a line for each."""
    figures = {}
    for make in (drawings, photographs):
        figures[make.__name__] = found = asyncio.run(compare(make, rounds=rounds))
        print(
            f"import, {make.__name__}: {found['import']:.0f} images/s; bare Pillow decode + sha256 "
            f"{found['bare']:.0f}/s in {PROCESSES} processes; ratio {found['ratio']:.3f} "
            f"({platform.processor() or platform.machine()}, {os.cpu_count()} processors)"
        )
    return figures


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
