"""Pictures drawn while a run trains. A preview cannot harm the run: it changes no state, has a budget, and no error
of it leaves this file but one: a fault inside of a denoiser that ranks hold in parts. There the others wait for this
rank's next part, and blocks stay put together, so the attempt ends; the next one draws nothing."""

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image

from marsam.core.errors import Cancelled, Unavailable
from marsam.diffusion.lanes.net import Lanes, cuts
from marsam.diffusion.parts.net import at_rest
from marsam.diffusion.sampling import Picture, sample
from marsam.diffusion.spec import BaseFacts, Components, Conditioning, Family
from marsam.telemetry.logs import Log
from marsam_trainer.run.ranks import of_words

STEPS = 15
GUIDANCE = 3.0
BATCH = 1
"""Pictures that a lane draws at once: a preview should not need more memory than a step."""

_log = Log(__name__)


def pictures(prompts: Sequence[str], facts: BaseFacts, *, side: int, seed: int) -> list[Picture]:
    """One picture per prompt. Seeds do not change over a run, so that what changes is the model."""
    # A distilled base was made for few steps, and guidance spoils its pictures.
    steps, guidance = (facts.default_steps, facts.default_guidance) if facts.distilled else (STEPS, GUIDANCE)
    return [
        Picture(prompt=prompt, seed=seed + row, width=side, height=side, steps=steps, guidance=guidance)
        for row, prompt in enumerate(prompts)
    ]


def draw(
    family: Family,
    parts: Components,
    wanted: Sequence[Picture],
    texts: Conditioning | None,
    *,
    lanes: Lanes,
    budget_s: float,
    agree: Callable[[bool], bool] = bool,
    stopping: Callable[[], bool] = lambda: False,
    in_parts: bool = False,
) -> list[bytes] | None:
    """The pictures as PNG, or None when they did not come about (no memory, no time, or a fault, which is logged), or
    when `stopping`, which is asked before every step, says so.

    `texts` holds the conditionings of the prompts, then of the empty caption for each picture; when None they are
    encoded here, by the text encoders as they are now. Modes and generators are put back as they were.
    Ranks that draw together `agree` before every step that nobody is done with it, and once at the end: they get their
    pictures all or none. Where they hold the denoiser `in_parts`, raises Unavailable (PREVIEW_OUT_OF_MEMORY,
    PREVIEW_FAULT) for what goes wrong inside of it.
    """
    inside: list[str] = []
    generators = (torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])
    deadline = time.monotonic() + budget_s

    def late() -> bool:
        return agree(stopping() or time.monotonic() > deadline)

    try:

        def some(rows: slice) -> list[bytes]:
            places = range(len(wanted))[rows]
            texts_of = texts and texts.rows([*places, *(len(wanted) + place for place in places)])
            pixels = sample(family, parts, wanted[rows], batch=BATCH, texts=texts_of, cancelled=late)
            return [png(one) for one in pixels]

        with at_rest(parts), _noted(parts.denoiser, inside) if in_parts else contextlib.nullcontext():
            drawn = [one for piece in lanes.map(some, cuts(len(wanted), lanes.count)) for one in piece]
        if agree(False):
            raise Cancelled("another rank drew nothing")
        return drawn
    except Cancelled:
        why = "STOPPED" if stopping() else "OUT_OF_TIME" if time.monotonic() > deadline else "ANOTHER_RANK"
        _log.warning("preview.skipped", reason=why, seconds=budget_s)
    except (MemoryError, torch.OutOfMemoryError) as error:
        if inside:
            raise _stuck("a preview ran out of memory", error, "PREVIEW_OUT_OF_MEMORY") from error
        torch.cuda.empty_cache() if torch.cuda.is_available() else None
        _log.warning("preview.skipped", reason="OUT_OF_MEMORY", message=str(error))
        agree(True)
    except Exception as error:
        if inside:
            if isinstance(error, RuntimeError) and of_words(error):
                raise
            raise _stuck("a preview failed", error, "PREVIEW_FAULT") from error
        _log.exception("preview.skipped", reason="FAULT", message=str(error))
        agree(True)
    finally:
        torch.set_rng_state(generators[0])
        if generators[1]:
            torch.cuda.set_rng_state_all(generators[1])
    return None


@contextlib.contextmanager
def _noted(denoiser: Any, inside: list[str]) -> Iterator[None]:
    """Something is in `inside` for as long as the denoiser computes, from before its first part is put together."""
    hooks = (
        denoiser.register_forward_pre_hook(lambda *_: inside.append("denoiser"), prepend=True),
        denoiser.register_forward_hook(lambda *_: inside.clear()),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _stuck(what: str, error: Exception, reason: str) -> Unavailable:
    return Unavailable(
        f"{what} inside of the model that the ranks hold in parts: {error}",
        reason=reason,
        remedy="the run goes on from its last checkpoint without previews; lower resolution to have some",
    )


def png(pixels: torch.Tensor) -> bytes:
    """(3, H, W) in [-1, 1] as PNG."""
    levels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    out = io.BytesIO()
    Image.fromarray(levels.numpy(), mode="RGB").save(out, format="PNG")
    return out.getvalue()
