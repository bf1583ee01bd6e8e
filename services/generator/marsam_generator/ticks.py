"""What the ticks of one base tell: metrics, and what work costs."""

from marsam.catalog.models import Model
from marsam.telemetry import Meter, metrics
from marsam_generator.engine.admission import Admission
from marsam_generator.engine.engine import BASE
from marsam_generator.engine.pace import Kind
from marsam_generator.engine.stepper import Cut, Tick


class Ticks:
    """Of the base `model`; called from its loop's thread."""

    def __init__(self, model: Model, *, admission: Admission, meter: Meter) -> None:
        self._model = model
        self._admission = admission
        self._meter = meter
        meter.begin(metrics.GENERATION_FIRST_IMAGE_SECONDS, base=model.name)
        meter.begin(metrics.GENERATION_STEPS_SAVED, base=model.name)
        self._images = meter.rate(metrics.GENERATION_IMAGES_PER_SECOND, base=model.name)
        self._steps = meter.rate(metrics.GENERATION_STEPS_PER_SECOND, base=model.name)

    def observe(self, tick: Tick) -> None:
        """A tick ended."""
        digest = self._model.digest if tick.denoiser == BASE else tick.denoiser
        self._admission.observe(
            Kind(model=digest, sides=tick.sides, exact=tick.exact),
            rows=tick.rows,
            width=tick.width,
            seconds=tick.seconds,
            curve=tick.curve,
        )
        base = self._model.name
        self._steps.add(tick.rows)
        self._images.add(tick.pictures_done)
        self._meter.inc(metrics.GENERATION_STEPS, tick.rows, base=base)
        self._meter.inc(metrics.GENERATION_IMAGES, tick.pictures_done, base=base)
        self._meter.observe(metrics.GENERATION_TICK_SECONDS, tick.seconds, base=base)
        self._meter.observe(metrics.GENERATION_TICK_ROWS, tick.rows, base=base)
        self._meter.set(metrics.GENERATION_WIDTH, tick.width, base=base)

    def cut(self, cut: Cut) -> None:
        """An order ended before its time."""
        self._meter.inc(metrics.GENERATION_STEPS_SAVED, cut.row_steps, base=self._model.name)
