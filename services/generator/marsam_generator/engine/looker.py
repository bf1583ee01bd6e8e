"""Who makes the looks: a thread of its own, so that neither ticks nor decodes wait for them; the latest only."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

from marsam.diffusion.sampling import Picture
from marsam.telemetry import Log
from marsam_generator.engine.coder import Coder
from marsam_generator.engine.ending import on
from marsam_generator.engine.looks import Colours, fitted, jpeg
from marsam_generator.engine.work import Glimpsed, Looked, Previews

Make = Callable[[Glimpsed], "asyncio.Future[bytes]"]
_log = Log(__name__)


class Looks:
    """The looks at one drawing's pictures. A glimpse that comes while another of its picture waits takes its place."""

    def __init__(self, make: Make | None, tell: Callable[[Looked], None]) -> None:
        self._make = make
        self._tell = tell
        self._latest: dict[int, Glimpsed] = {}
        self._ended: set[int] = set()
        self._work: asyncio.Task[None] | None = None

    def take(self, glimpse: Glimpsed) -> None:
        """A picture's newest latent."""
        if self._make is None:
            return
        self._latest[glimpse.index] = glimpse
        if self._work is None:
            self._work = asyncio.create_task(self._run(self._make), name="engine.look")

    def end(self, index: int) -> None:
        """A picture is done: there is nothing more to look at."""
        self._ended.add(index)
        self._latest.pop(index, None)

    def close(self) -> None:
        """Make no more."""
        if self._work is not None:
            self._work.cancel()

    async def _run(self, make: Make) -> None:
        try:
            while self._latest:
                index = next(iter(self._latest))
                glimpse = self._latest.pop(index)
                data = await make(glimpse)
                if index not in self._ended:
                    self._tell(Looked(index=index, step=glimpse.step, steps=glimpse.steps, data=data))
        except Exception:
            _log.exception("engine.look_failed")  # a picture does not fail for want of a look
        finally:
            self._work = None


class Looker:
    """Belongs to one engine; `begin` is called from its event loop."""

    def __init__(self) -> None:
        self._colours: WeakKeyDictionary[Coder, Colours | None] = WeakKeyDictionary()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="marsam-look")

    async def begin(
        self, coder: Coder, pictures: Sequence[Picture], previews: Previews | None, tell: Callable[[Looked], None]
    ) -> Looks:
        """Looks at `pictures`, told one by one. The first ones wait for the fit, once for each image coder; where it
        fails there are none."""
        there = asyncio.get_running_loop()
        colours = None if previews is None else await on(self._thread, lambda: self._fitted(coder))
        if previews is None or colours is None:
            return Looks(None, tell)

        def make(glimpse: Glimpsed) -> asyncio.Future[bytes]:
            picture = pictures[glimpse.index]
            size = {"width": picture.width, "height": picture.height, "max_side": previews.max_side}
            return there.run_in_executor(self._thread, lambda: jpeg(colours, glimpse.latent, **size))

        return Looks(make, tell)

    def close(self) -> None:
        """End the thread; what waits for it is given up."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _fitted(self, coder: Coder) -> Colours | None:
        if coder not in self._colours:
            try:
                self._colours[coder] = fitted(coder)
            except Exception:
                _log.exception("engine.look_unfitted")  # a picture does not fail for want of a look
                self._colours[coder] = None
        return self._colours[coder]
