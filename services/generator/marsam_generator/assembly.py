"""The generator, put together. Importing this imports torch."""

import asyncio
import importlib
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from marsam.api.generator.v1 import generator_pb2_grpc
from marsam.core.clock import SystemClock
from marsam.core.errors import Precondition
from marsam.imaging.pool import DecodePool
from marsam.rpc.server import Assembly, Lifecycle, Page, Registration
from marsam.store.blobs import Blobs
from marsam.store.cache import Cache
from marsam.store.metered import MeteredBlobs
from marsam.store.open import open_store, prove
from marsam.telemetry import Log, Meter
from marsam_generator.bases import Bases
from marsam_generator.engines.building import local_engine
from marsam_generator.engines.contract import DrawingEngine
from marsam_generator.evaluation.hosting import Hosting, caller_tls, hosted
from marsam_generator.finishing import Finishing, Signs
from marsam_generator.heap import trimmed
from marsam_generator.images import LIMITS, Images
from marsam_generator.rest.pages import pages
from marsam_generator.service import SERVICE, GeneratorServicer
from marsam_generator.settings import GeneratorSettings
from marsam_generator.studio import Studio
from marsam_generator.trees import Trees

_log = Log(__name__)


@asynccontextmanager
async def assemble(settings: GeneratorSettings, meter: Meter, lifecycle: Lifecycle) -> AsyncIterator[Assembly]:
    """Build the service; when it ends, whatever is still being drawn is told so."""
    finishing = Finishing(await asyncio.to_thread(_signer, settings))
    clock = SystemClock()
    blobs = MeteredBlobs(await asyncio.to_thread(open_store, settings.store), meter)
    await prove(blobs)
    trees = Trees(blobs, await asyncio.to_thread(Cache, settings.cache, budget=settings.cache_bytes))
    pool = DecodePool(size=1, limits=LIMITS)
    engine, fitness = _engine(settings, blobs=blobs, trees=trees, meter=meter)
    bases = Bases(trees)
    studio = Studio(
        blobs=blobs,
        engine=engine,
        bases=bases,
        images=Images(blobs, pool),
        finishing=finishing,
        meter=meter,
        clock=clock,
        max_steps=settings.max_steps,
    )
    servicer = GeneratorServicer(studio=studio, blobs=blobs)
    registration = Registration(
        service=SERVICE, add=lambda server: generator_pb2_grpc.add_GeneratorServiceServicer_to_server(servicer, server)
    )
    hosting = Hosting(
        store=settings.store,
        cache=settings.cache,
        cache_bytes=settings.cache_bytes,
        slots=settings.evaluation_slots,
        attempts=settings.evaluation_attempts,
        target=settings.evaluation_target,
        token_file=settings.evaluation_token_file,
        needs_token=settings.token_file is not None,
        tls=caller_tls(settings.tls, target=settings.evaluation_target, ca=settings.evaluation_tls_ca_file),
    )
    stopping = asyncio.create_task(_stop_time(lifecycle), name="generator.stopping")
    try:
        async with (
            trimmed(),
            hosted(hosting, blobs=blobs, meter=meter, clock=clock, lifecycle=lifecycle) as evaluation,
        ):
            shown: Sequence[Page] = ()
            if settings.rest:
                shown = pages(studio=studio, servicer=servicer, blobs=blobs, bases=bases, lifecycle=lifecycle)
            yield Assembly(registrations=[registration, evaluation], fitness=fitness, pages=shown)
    finally:
        # Calls had the same seconds to end in: what is detached gets what they left of them.
        gone = time.monotonic() - stopping.result() if stopping.done() else math.inf
        left = settings.drain_seconds + settings.grace_seconds - gone
        stopping.cancel()
        await studio.close(patience_s=left, hurried=lifecycle.hurried)
        await engine.close()
        await asyncio.to_thread(finishing.close)
        await pool.close()
        await trees.close()


def _signer(settings: GeneratorSettings) -> Signs | None:
    """Raises `Invalid` for a certificate that cannot sign."""
    if not settings.signs:
        return None
    # Loaded only where it is asked for: 25 MB, and whoever signs nothing needs none of it.
    signing = importlib.import_module("marsam_generator.signing")
    if settings.c2pa_self_made:
        files = importlib.import_module("marsam_generator.selfmade").self_made(settings.cache)
    else:
        files = signing.Files(certificate=settings.c2pa_cert_file, key=settings.c2pa_key_file)
    signer = signing.Signer(files)
    trust = " (made here: nobody trusts it)" if settings.c2pa_self_made else ""
    _log.info("c2pa.signer", file=str(files.certificate), message=f"pictures are signed by {signer.subject}{trust}")
    return signer


async def _stop_time(lifecycle: Lifecycle) -> float:
    """The monotonic time at which the process was asked to end."""
    await lifecycle.stopped()
    return time.monotonic()


def _engine(
    settings: GeneratorSettings, *, blobs: Blobs, trees: Trees, meter: Meter
) -> tuple[DrawingEngine, Callable[[], AsyncIterator[bool]] | None]:
    """Who draws, and how to know whether it can; None where that goes without saying."""
    if settings.engine == "local":
        return local_engine(settings, blobs=blobs, trees=trees, meter=meter), None
    try:
        module = importlib.import_module("marsam_generator.engines.triton")
    except ModuleNotFoundError as error:
        raise Precondition(
            f"engine is triton, and {error.name} is not installed",
            reason="EXTRA_MISSING",
            field="engine",
            remedy="pip install 'marsam[triton]'",
        ) from error
    engine = module.TritonEngine(address=settings.triton_url, model=settings.triton_model)
    return engine, engine.fitness
