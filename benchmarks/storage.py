"""What the store on S3 costs, against the same client without us, over a real SeaweedFS on loopback.

    python -m benchmarks.storage [small] [large] [jobs] [--out benchmarks/results]

`small`: 1 KiB created, put, read and looked at, sixteen at once, ours and bare in turn. `large`: 512 MiB of weights
from the store into memory by way of the cache, against one streamed GET that hashes as it goes. `jobs`: a trainer over
10,000 ended runs, 60,000 objects, in the bucket and in a folder. Each part writes its rows to `storage.json`, and the
page `storage.md` has them all.
"""

import asyncio
import functools
import hashlib
import io
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from hayy.demo.seaweed import REGION, Seaweed, running
from minio import Minio
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.measures import latencies, quantiles
from benchmarks.rows import Row, run
from benchmarks.trainer import PROJECT, run_spec, serving
from marsam.api.trainer.v1 import trainer_pb2
from marsam.core.clock import SystemClock
from marsam.core.ids import new_ulid
from marsam.core.records import dump
from marsam.jobs.ended import mark_ended
from marsam.jobs.states import State, Transition
from marsam.store import keys
from marsam.store.blobs import Blobs
from marsam.store.cache import Cache
from marsam.store.content import digest_file, put_blob
from marsam.store.open import open_store

BUCKET = "bench"
URL = f"s3://{BUCKET}/marsam"
SMALL = 200
SMALL_ROUNDS = 20
AT_ONCE = 16
LARGE = 512 << 20
LARGE_ROUNDS = 5
JOBS = 10_000
DAYS = 100
_STATES = (State.PENDING, State.STARTING, State.RUNNING, State.SUCCEEDED)
_CHUNK = 1 << 20


def small(server: Seaweed, blobs: Blobs) -> list[Row]:
    """Operations a second: ours on an event loop, the bare client's on as many threads."""
    client, data = bare(server), secrets.token_bytes(1024)

    def put(key: str) -> None:
        client.put_object(BUCKET, key, io.BytesIO(data), len(data))

    def create(key: str) -> None:
        client._put_object(BUCKET, key, data, {"If-None-Match": "*"})

    def get(key: str) -> None:
        response = client.get_object(BUCKET, key)
        try:
            assert len(response.read()) == len(data)
        finally:
            response.close()
            response.release_conn()

    pairs: list[tuple[str, Callable[[str], Awaitable[Any]], str, Callable[[str], Any]]] = [
        # Like against like: the condition costs the server a look.
        ("create", lambda key: blobs.create(key, data), "put with If-None-Match", create),
        ("put", lambda key: blobs.put(f"again/{key}", data), "put", lambda key: put(f"again/{key}")),
        ("get", blobs.get, "get", get),
        ("stat", blobs.stat, "stat", lambda key: client.stat_object(BUCKET, key)),
    ]
    seconds: dict[str, list[tuple[float, float]]] = {ours: [] for ours, *_ in pairs}
    with ThreadPoolExecutor(AT_ONCE) as pool, asyncio.Runner() as loop:
        for turn in range(SMALL_ROUNDS + 1):
            names = [f"small/{turn}-{n}" for n in range(SMALL)]
            for name, ours, _, theirs in pairs:

                def us(ours: Callable[[str], Awaitable[Any]] = ours, names: list[str] = names) -> None:
                    loop.run(latencies([lambda key=key: ours(key) for key in names], at_once=AT_ONCE))  # type: ignore[misc]

                def them(theirs: Callable[[str], Any] = theirs, names: list[str] = names) -> None:
                    list(pool.map(theirs, names))

                # Who is first changes: what a write leaves to do for the server falls on both.
                taken = {work: timed(work) for work in ((us, them) if turn % 2 else (them, us))}
                if turn:  # the first warms both up
                    seconds[name].append((taken[us], taken[them]))
    rows = []
    for name, _, peer, _ in pairs:
        us_s, them_s = (statistics.median(found) for found in zip(*seconds[name], strict=True))
        rows.append(Row(name=f"{name}, 1 KiB", value=SMALL / us_s, unit="/s"))
        rows.append(Row(name=f"bare {peer}", value=SMALL / them_s, unit="/s"))
        ratio = statistics.median(them / us for us, them in seconds[name])
        rows.append(Row(name=f"{name} of bare {peer}", value=ratio, unit="×", at_least=0.9))
    return rows


async def large(server: Seaweed, blobs: Blobs, folder: Path) -> list[Row]:
    """Seconds from the store, or the cache, into memory. The peer's copy is as durable as the cache's; what it takes
    without that is shown beside it.
    """
    client, cache, copy = bare(server), Cache(folder / "cache"), folder / "copy"
    module = await asyncio.to_thread(weights, folder / "weights")
    found = await asyncio.to_thread(digest_file, folder / "weights")
    await put_blob(blobs, PROJECT, folder / "weights", expected=found.digest)
    key = f"marsam/{keys.blob(PROJECT, found.digest)}"
    ours, hit, hashed, plain = "verified fetch", "cache hit", "one GET with SHA-256", "one GET, not verified"
    peers = {hashed: (True, True), plain: (False, True)}  # verified, durable
    peers |= {f"{name}, not fsynced": (verify, False) for name, (verify, _) in peers.items()}
    taken: dict[str, list[float]] = {name: [] for name in (ours, *peers, hit)}
    for turn in range(LARGE_ROUNDS + 1):
        cache.path(found.digest).unlink(missing_ok=True)
        order = [ours, *peers]
        for name in (*(order if turn % 2 else reversed(order)), hit):
            os.sync()
            began = time.perf_counter()
            if name in (ours, hit):
                path = await cache.fetch(blobs, PROJECT, found.digest, found.size)
            else:
                path = copy
                verify, durable = peers[name]
                said = await asyncio.to_thread(stream, client, key, copy, verify=verify, durable=durable)
                assert not verify or f"sha256:{said}" == found.digest
            await asyncio.to_thread(fill, path, module)
            if turn:
                taken[name].append(time.perf_counter() - began)
            copy.unlink(missing_ok=True)
    rows = [Row(name=f"{name}, 512 MiB into memory", value=statistics.median(s), unit="s") for name, s in taken.items()]
    for name, bar in ((ours, 1.0), (hit, 15.0)):
        ratio = statistics.median(them / us for us, them in zip(taken[name], taken[hashed], strict=True))
        rows.append(Row(name=f"{name}, times as fast as {hashed}", value=ratio, unit="×", at_least=bar))
    return rows


async def jobs(name: str, url: str, environment: dict[str, str], folder: Path) -> list[Row]:
    """A trainer over ten thousand ended runs: its start, its index, and its list of them."""
    await record(open_store(url, environment))
    settings = {**environment, "MARSAM_STORE": url, "MARSAM_CACHE": str(folder / f"trainer-{name}")}
    request = trainer_pb2.ListRunsRequest(parent=f"projects/{PROJECT}")
    async with serving(settings) as trainer:
        began = time.perf_counter()
        first = await trainer.stub.ListRuns(request, timeout=600)
        cold = time.perf_counter() - began
        assert len(first.runs) == 50
        p50, p95 = quantiles(await latencies([lambda: trainer.stub.ListRuns(request, timeout=60)] * 100, at_once=1))
        return [
            Row(name=f"{name}: trainer ready, 60,000 objects", value=trainer.start_s, unit="s", at_most=5.0),
            Row(name=f"{name}: first ListRuns of 10,000 runs, its index cold", value=cold, unit="s", at_most=10.0),
            Row(name=f"{name}: ListRuns, median", value=p50, unit="ms", at_most=50.0),
            Row(name=f"{name}: ListRuns, 95 of 100", value=p95, unit="ms"),
            Row(name=f"{name}: memory of the service", value=trainer.resident_mb(), unit="MB"),
        ]


async def record(blobs: Blobs) -> None:
    """Runs that ended in the last hundred days, as services would have recorded them."""
    clock = SystemClock()

    async def one(number: int) -> None:
        run_id, at = new_ulid(clock), clock.now() - timedelta(days=number % DAYS)
        await blobs.put(keys.job_spec(PROJECT, "runs", run_id), run_spec(run_id))
        for seq, state in enumerate(_STATES, start=1):
            attempt = int(state is not State.PENDING)
            last = Transition(seq=seq, state=state, attempt=attempt, writer_id=new_ulid(clock), at=at, reason="BENCH")
            await blobs.put(f"{keys.job_log(PROJECT, 'runs', run_id)}/{keys.number(seq)}", dump(last))
        await mark_ended(blobs, PROJECT, "runs", run_id, last)

    await latencies([lambda number=number: one(number) for number in range(JOBS)], at_once=AT_ONCE)  # type: ignore[misc]


def bare(server: Seaweed) -> Minio:
    """The client as anybody would make it."""
    host = server.endpoint.removeprefix("http://")
    return Minio(host, server.access_key, server.secret_key, secure=False, region=REGION)


def timed(work: Callable[[], None]) -> float:
    """Seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Write weights to `path`; return a model of the same shape, to be filled."""
    each = LARGE // 8
    tensors = {f"w{n}": torch.frombuffer(bytearray(os.urandom(each)), dtype=torch.float16) for n in range(8)}
    save_file(tensors, path)
    return tensors


def fill(path: Path, module: dict[str, torch.Tensor]) -> None:
    """Fill a model that is there already from a mapped file, as our own loader does."""
    with safe_open(path, framework="pt") as file:
        for name, into in module.items():
            into.copy_(file.get_tensor(name))


def stream(client: Minio, key: str, path: Path, *, verify: bool, durable: bool) -> str:
    """One GET to a file; with `verify`, its SHA-256."""
    digest = hashlib.sha256()
    response = client.get_object(BUCKET, key)
    try:
        with open(path, "wb") as file:
            for chunk in response.stream(_CHUNK):
                file.write(chunk)
                if verify:
                    digest.update(chunk)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    finally:
        response.close()
        response.release_conn()
    return digest.hexdigest()


def measure(part: str) -> list[Row]:
    """The rows of one part."""
    with tempfile.TemporaryDirectory(prefix="marsam-bench-") as scratch, running(Path(scratch, "seaweed")) as server:
        server.make_bucket(BUCKET)
        folder, environment = Path(scratch), dict(server.environment)
        blobs = open_store(URL, environment)
        if part == "small":
            return small(server, blobs)
        if part == "large":
            return asyncio.run(large(server, blobs, folder))
        over_folder = asyncio.run(jobs("folder", str(folder / "store"), {}, folder))
        return over_folder + asyncio.run(jobs("S3", URL, environment, folder))


def main(argv: Sequence[str] | None = None) -> int:
    """See `benchmarks.rows.run`."""
    head = ["# What the store on S3 costs", "", "`python -m benchmarks.storage`: SeaweedFS on loopback, same machine."]
    parts = {part: functools.partial(measure, part) for part in ("small", "large", "jobs")}
    return run("storage", head, parts, argv)


if __name__ == "__main__":
    sys.exit(main())
