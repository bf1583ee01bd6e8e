"""From settings to the engine that draws in this process."""

from marsam.diffusion.devices.net import gpu_memory
from marsam.store.blobs import Blobs
from marsam.telemetry import Meter
from marsam_generator.engine.admission import Admission
from marsam_generator.engines.local import LocalEngine
from marsam_generator.hardware import choose
from marsam_generator.models import Library
from marsam_generator.settings import EngineSettings
from marsam_generator.trees import Trees


def local_engine(settings: EngineSettings, *, blobs: Blobs, trees: Trees, meter: Meter) -> LocalEngine:
    """The engine on the hardware that the settings name. Raises `Precondition` for hardware that is not there."""
    hardware = choose(
        settings.device, settings.precision, settings.threads, settings.quantisation, settings.image_precision
    )
    if hardware.device != "cpu":
        meter.add_memory_source(gpu_memory)
    admission = Admission(seconds=settings.queue_seconds, pictures=settings.queue_pictures, lanes=hardware.lanes)
    library = Library(
        blobs=blobs,
        trees=trees,
        hardware=hardware,
        tick_rows=settings.tick_rows,
        curves=settings.cache / "curves",
        budget=settings.memory_mib * 2**20 or hardware.total_memory // 2,
        admission=admission,
        meter=meter,
    )
    return LocalEngine(library=library, admission=admission, meter=meter)
