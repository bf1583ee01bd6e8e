"""Who makes the looks: a thread of its own, so that neither ticks nor decodes wait for them; the latest only."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from marsam.diffusion.sampling import Picture
from marsam.telemetry import Log
from marsam_generator.engine.coder import Coder
from marsam_generator.engine.looks import Colours, fitted, jpeg
from marsam_generator.engine.work import Glimpsed, Looked, Previews

_log = Log(__name__)


class Looks:
    """The looks at one drawing's pictures. A glimpse that comes while another of its picture waits takes its place."""

    def __init__(self, make: Callable[[Glimpsed], "asyncio.Future[bytes]"], tell: Callable[[Looked], None]) -> None:
        self._make = make
        self._tell = tell
        self._latest: dict[int, Glimpsed] = {}
        self._ended: set[int] = set()
        self._work: asyncio.Task[None] | None = None

    def take(self, glimpse: Glimpsed) -> None:
        """A picture's newest latent."""
        self._latest[glimpse.index] = glimpse
        if self._work is None:
            self._work = asyncio.create_task(self._run(), name="engine.look")

    def end(self, index: int) -> None:
        """A picture is done: there is nothing more to look at."""
        self._ended.add(index)
        self._latest.pop(index, None)

    def close(self) -> None:
        """Make no more."""
        if self._work is not None:
            self._work.cancel()

    async def _run(self) -> None:
        try:
            while self._latest:
                index = next(iter(self._latest))
                glimpse = self._latest.pop(index)
                data = await self._make(glimpse)
                if index not in self._ended:
                    self._tell(Looked(index=index, step=glimpse.step, steps=glimpse.steps, data=data))
        except Exception:
            _log.exception("engine.look_failed")  # a picture does not fail for want of a look
        finally:
            self._work = None


class Looker:
    """Belongs to one engine; `begin` is called from its event loop."""

    def __init__(self) -> None:
        self._colours: dict[int, Colours] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="marsam-look")

    async def begin(
        self, coder: Coder, pictures: Sequence[Picture], previews: Previews | None, tell: Callable[[Looked], None]
    ) -> Looks:
        """Looks at `pictures`, told one by one. The first ones wait for the fit, once for each image coder."""
        there = asyncio.get_running_loop()
        if previews is not None:
            await there.run_in_executor(self._thread, self._fit, coder)

        def make(glimpse: Glimpsed) -> asyncio.Future[bytes]:
            picture, most = pictures[glimpse.index], previews.max_side if previews else 0
            return there.run_in_executor(self._thread, self._jpeg, coder, glimpse, picture, most)

        return Looks(make, tell)

    def forget(self, coder: Coder) -> None:
        """An image coder left the memory."""
        self._colours.pop(id(coder), None)

    def close(self) -> None:
        """End the thread; what waits for it is given up."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _fit(self, coder: Coder) -> None:
        if id(coder) not in self._colours:
            self._colours[id(coder)] = fitted(coder)

    def _jpeg(self, coder: Coder, glimpse: Glimpsed, picture: Picture, max_side: int) -> bytes:
        return jpeg(
            self._colours[id(coder)],
            glimpse.latent,
            width=picture.width,
            height=picture.height,
            max_side=max_side,
        )
