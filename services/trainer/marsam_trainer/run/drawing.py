"""The pictures that a run is shown by: its prompts, drawn while it trains and when it is done."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from marsam.catalog.files import FileRef
from marsam.core.errors import MarsamError
from marsam.core.records import to_plain
from marsam.diffusion.sampling import Picture
from marsam.diffusion.spec import Components, Conditioning, Family, Part
from marsam.jobs.states import State, Transition
from marsam.telemetry.logs import Log
from marsam_trainer.run import codes, preview, publish
from marsam_trainer.run.card import Shown
from marsam_trainer.run.data import Encoder
from marsam_trainer.run.ranks import ALONE, World
from marsam_trainer.run.work import Work

PREVIEW_BUDGET_S = 60.0
_log = Log(__name__)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """All that drawing the run's prompts takes; the image decoder is loaded on the first use. `texts` is None where
    text encoders train: prompts are encoded anew each time."""

    family: Family
    parts: Components
    encoder: Encoder
    prompts: list[str]
    texts: Conditioning | None
    side: int
    seed: int
    world: World = ALONE
    """The ranks that must draw together, because each holds a part of the model."""
    able: bool = True
    """Whether anything is drawn at all."""

    def only(self, row: int) -> "Drawing":
        """The same for one of the prompts."""
        texts = self.texts and self.texts.rows([row, len(self.prompts) + row])
        return replace(self, prompts=[self.prompts[row]], texts=texts, seed=self.seed + row)

    def draw(self, *, stopping: Callable[[], bool] = lambda: False) -> list[bytes] | None:
        """A PNG per prompt, or None, as when `stopping` says so. Raises as `preview.draw`."""
        if not self.able:
            return None
        coder = self._coder()
        if self.world.any(coder is None):
            return None
        return preview.draw(
            self.family,
            Components(**{**vars(self.parts), "image_coder": coder}),
            self._wanted(),
            self.texts,
            lanes=self.encoder.lanes,
            budget_s=PREVIEW_BUDGET_S,
            agree=self.world.any,
            stopping=stopping,
            in_parts=self.world.size > 1,
        )

    def _coder(self) -> Any:
        if self.parts.image_coder is not None:
            return self.parts.image_coder  # it trains
        try:
            return self.encoder.part(Part.IMAGE).image_coder
        except (MarsamError, OSError, MemoryError, RuntimeError) as error:
            _log.warning("preview.skipped", reason="DECODER", message=str(error))
            return None

    def shown(self) -> list[Shown]:
        """How each picture is drawn, and its path beside a model."""
        return [
            Shown(
                path=f"samples/{row:03d}.png",
                prompt=one.prompt,
                seed=one.seed,
                steps=one.steps,
                guidance=one.guidance,
                width=one.width,
                height=one.height,
            )
            for row, one in enumerate(self._wanted())
        ]

    def _wanted(self) -> list[Picture]:
        return preview.pictures(self.prompts, self.parts.facts, side=self.side, seed=self.seed)


def fell_before(history: Iterable[Transition]) -> str:
    """The cause of an attempt that ended in a preview, since the run was ordered or resumed; '' where none did."""
    found = ""
    for entry in history:
        if entry.state is State.PENDING and entry.reason != "RETRY":
            found = ""
        if (cause := str(entry.detail.get("cause", ""))) in codes.PREVIEW_REASONS:
            found = cause
    return found


def show(work: Work, drawing: Drawing, step: int) -> None:
    """Draw the run's prompts and tell of them; of several ranks those that must draw do, and the first tells."""
    if not work.world.first and drawing.world.size == 1:
        return
    work.reporter.phase("preview")
    # A run that is asked to stop saves at once: its time is counted.
    pictures = drawing.draw(stopping=work.stopping)
    if not work.world.first:
        return
    if pictures is None:
        work.reporter.event("log", level="warning", message=f"the preview at step {step} was skipped")
        return

    async def store() -> list[FileRef]:
        name = f"previews/{step:08d}"
        return [
            await publish.picture(work.jobs.blobs, work.spec.project, f"{name}/{row:03d}.png", data)
            for row, data in enumerate(pictures)
        ]

    try:
        files = work.bridge.call(store(), timeout_s=60.0)
    except MarsamError as error:
        _log.warning("preview.not_stored", reason=error.reason, message=error.message)
        return
    work.reporter.event("preview", step=step, files=[to_plain(file) for file in files], prompts=drawing.prompts)
