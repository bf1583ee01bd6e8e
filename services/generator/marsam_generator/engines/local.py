"""Drawing in this process: the models in memory, and who may wait for them."""

import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace

from marsam.catalog.models import Model
from marsam.telemetry import Meter, metrics
from marsam_generator.engine.admission import Admission, Place
from marsam_generator.engine.engine import Denoising, Drawing, Drawn, Progress
from marsam_generator.engine.pace import Kind
from marsam_generator.engine.work import Looked
from marsam_generator.engines.contract import Admitted, Commission, Description, Residence, Said
from marsam_generator.models import Library

_QUEUE = "pictures"
_ETA_S = 1.0
"""A prediction counts down for so long before it is made again: making it looks at everybody in flight."""


class LocalEngine:
    """See `DrawingEngine`. Owns its library."""

    def __init__(self, *, library: Library, admission: Admission, meter: Meter) -> None:
        self._library = library
        self._admission = admission
        self._meter = meter
        meter.follow(metrics.QUEUE_WORK, lambda: admission.seconds_of_work, queue=_QUEUE)

    async def draw(self, commission: Commission) -> AsyncGenerator[Said, None]:
        """See `DrawingEngine.draw`."""
        began = time.monotonic()
        asked = _place_of(commission)
        try:
            with self._admission.enter(asked, deadline=commission.terms.deadline) as place:
                self._report_depth()
                yield Admitted(
                    ahead=place.ahead,
                    wait_seconds=self._admission.until_first_step(place),
                    work_seconds=self._admission.until_last_picture(place),
                    fingerprint=self._library.hardware.fingerprint,
                )
                eta = _Eta(lambda: self._admission.until_last_picture(place))
                async with contextlib.aclosing(self._drawn(commission)) as events:
                    async for event in events:
                        if isinstance(event, Progress):
                            self._began(place, began)
                            place.left = 1 - event.done / event.of
                            event = replace(event, eta=eta.now())
                        elif isinstance(event, Drawn):
                            self._admission.observe_decode(place.kind, event.decode_seconds)
                        yield event
        finally:
            self._report_depth()

    async def _drawn(self, commission: Commission) -> AsyncGenerator[Progress | Looked | Drawn | Denoising, None]:
        """What comes of a commission, once its models are in memory; they stay there until this generator is closed."""
        models = [adapter for adapter, _ in commission.adapters]
        async with self._library.lease(commission.model, models) as lease:
            drawing = Drawing(
                id=commission.id,
                pictures=commission.pictures,
                denoiser=lease.denoiser,
                adapters=dict(zip(lease.adapters, (weight for _, weight in commission.adapters), strict=True)),
                start=commission.start,
                terms=commission.terms,
                previews=commission.previews,
            )
            async with contextlib.aclosing(lease.engine.draw(drawing)) as events:
                async for event in events:
                    yield event

    async def describe(self) -> Description:
        """See `DrawingEngine.describe`."""
        hardware = self._library.hardware
        return Description(
            engine="local",
            device=hardware.device,
            precision=hardware.precision,
            fingerprint=hardware.fingerprint,
            quantisation=hardware.quantisation.label() if hardware.quantisation else "",
        )

    async def load(self, model: Model, base: Model | None, *, pin: bool) -> None:
        """See `DrawingEngine.load`."""
        async with self._library.lease(base or model, [] if base is None else [model]):
            if pin:
                self._library.pin(model)

    async def evict(self, model: Model) -> None:
        """See `DrawingEngine.evict`."""
        await self._library.evict(model)

    async def residents(self) -> Mapping[str, Residence]:
        """See `DrawingEngine.residents`."""
        found: dict[str, Residence] = {}
        for one in self._library.residents():
            so_far = found.get(one.model.digest, Residence(size=0, uses=0, pinned=False))
            found[one.model.digest] = Residence(
                size=so_far.size + one.size, uses=so_far.uses + one.uses, pinned=so_far.pinned or one.kept
            )
        return found

    async def close(self) -> None:
        """See `DrawingEngine.close`."""
        await self._library.close()

    def _began(self, place: Place, began: float) -> None:
        if not place.begun:
            place.begun = True
            self._meter.observe(metrics.QUEUE_WAIT, time.monotonic() - began, queue=_QUEUE)
            self._report_depth()

    def _report_depth(self) -> None:
        self._meter.set(metrics.QUEUE_DEPTH, self._admission.waiting, queue=_QUEUE)


class _Eta:
    """Seconds that are left, predicted now and then and counted down between."""

    def __init__(self, predict: Callable[[], float]) -> None:
        self._predict = predict
        self._at = float("-inf")
        self._seconds = 0.0

    def now(self) -> float:
        """The prediction of the moment, 0 when unknown."""
        passed = time.monotonic() - self._at
        if passed < _ETA_S and self._seconds:
            return max(0.0, self._seconds - passed)
        self._at, self._seconds = time.monotonic(), self._predict()
        return self._seconds


def _place_of(commission: Commission) -> Place:
    pictures = commission.pictures
    sides = (pictures[0].width, pictures[0].height)
    return Place(
        kind=Kind(model=commission.model.digest, sides=sides, exact=commission.terms.exact),
        tenant=commission.terms.tenant,
        pictures=len(pictures),
        rows=sum(picture.rows for picture in pictures),
        steps=max(picture.taken for picture in pictures),
        row_steps=sum(picture.rows * picture.taken for picture in pictures),
    )
