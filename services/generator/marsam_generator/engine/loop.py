"""The step loop: one thread per base that puts every picture's next step into shared forwards.

A tick takes the next step of as many pictures as fit the width, whatever their step counts, schedulers, guidance,
seeds, adapters and weights. What must agree inside a tick is only the denoiser, the latent's shape and the text's
length. Arrivals, cancels, deadlines and changes of the bank happen between ticks and nowhere else.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from marsam.core.errors import Cancelled
from marsam.telemetry import Log
from marsam_generator.engine.ending import shutting_down, stated
from marsam_generator.engine.slots import Live
from marsam_generator.engine.stepper import Stepper
from marsam_generator.engine.work import Failed, Order

T = TypeVar("T")
_log = Log(__name__)


class StepLoop:
    """Owns the device and `stepper`, which is driven, calls back and measures on the loop's own thread. `submit`,
    `cancel` and `between` may be called from any.
    """

    def __init__(self, *, name: str, stepper: Stepper) -> None:
        self._stepper = stepper
        self._wake = threading.Condition()
        self._arrivals: list[Order] = []
        self._cancels: dict[str, int] = {}
        self._calls: list[tuple[Callable[[], object], Future[object]]] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"marsam-loop-{name}", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a picture is in the loop. Of the moment: the loop's thread goes on."""
        return self._stepper.busy

    @property
    def ticks(self) -> int:
        """Ticks that ended."""
        return self._stepper.ticks

    def submit(self, order: Order) -> None:
        """Hand in an order; its events begin with the next tick. Raises `Unavailable` once the loop is closing."""
        with self._wake:
            if self._closing:
                raise shutting_down()
            self._arrivals.append(order)
            self._wake.notify()

    def cancel(self, order_id: str) -> None:
        """Free an order's places before the next tick; it ends with `Failed(Cancelled)`. Unknown ids are ignored."""
        with self._wake:
            dropped = [order for order in self._arrivals if order.id == order_id]
            self._arrivals = [order for order in self._arrivals if order.id != order_id]
            self._cancels.setdefault(order_id, self._stepper.ticks)
            self._wake.notify()
        for order in dropped:
            Live(order).tell(Failed(error=Cancelled("the generation was cancelled")))

    def between(self, call: Callable[[], T]) -> "Future[T]":
        """Run `call` on the loop's thread between two ticks."""
        future: Future[T] = Future()
        with self._wake:
            if self._closing:
                future.set_exception(shutting_down())
                return future
            self._calls.append((call, future))  # type: ignore[arg-type]
            self._wake.notify()
        return future

    def close(self, *, timeout_s: float = 30.0) -> None:
        """Finish the running tick, fail what is left with `Unavailable`, end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout_s)

    # Everything below runs on the loop's thread.

    def _run(self) -> None:
        while self._prepare():
            try:
                self._stepper.tick()
            except BaseException as error:
                # Nothing that a tick can do may end the loop; whoever was in it is told.
                _log.exception("engine.tick_failed")
                self._stepper.abandon(stated(error), picked=True)
        self._stepper.abandon(shutting_down())
        self._stepper.close()

    def _prepare(self) -> bool:
        """Wait until there is something to do, take it in; False when the loop is to end."""
        with self._wake:
            while not (self._stepper.busy or self._arrivals or self._calls or self._closing):
                self._wake.wait()
            arrivals, self._arrivals = self._arrivals, []
            cancels, self._cancels = self._cancels, {}
            calls, self._calls = self._calls, []
            closing = self._closing
        for call, future in calls:
            _settle(call, future)
        # Before the arrivals: a cancel means the orders that were there when it came, not a later one of the same id.
        self._stepper.cancel(cancels)
        for order in arrivals:
            self._stepper.admit(order)
        self._stepper.expire()
        return not closing


def _settle(call: Callable[[], object], future: "Future[object]") -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(call())
    except Exception as error:
        future.set_exception(error)
