"""Pictures that diffusers' own pipelines draw with an exported adapter are those drawn with what was trained."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from marsam.diffusion import registry
from tests.contract.families.tuned import Tuned

pytestmark = pytest.mark.slow

READ_BY_DIFFUSERS = [
    *((name, "diffusers") for name in registry.families()),
    *((name, dialect) for name in ("sd1", "sdxl") for dialect in ("kohya", "comfyui")),
]
"""Families and dialects whose files `load_lora_weights` reads. FLUX.1's kohya is read at the real sizes only
(test_original_names); diffusers has no reader for SD3's, nor for alphas beside diffusers' names."""


def drawn(pipeline: Any, side: int) -> np.ndarray:
    """A picture (side, side, 3) in 0…255."""
    generator = torch.Generator().manual_seed(3)
    # Of what not all pipelines know: captions as short as the tiny encoders, and no rounding to sizes of a list.
    known = inspect.signature(pipeline.__call__).parameters
    more = {"max_sequence_length": 8, "use_resolution_binning": False}
    picture = pipeline(
        prompt="a red kite", num_inference_steps=3, height=side, width=side, generator=generator, output_type="np",
        **{name: value for name, value in more.items() if name in known},
    ).images[0]  # fmt: skip
    found: np.ndarray = np.round(np.asarray(picture) * 255)
    return found


@pytest.mark.parametrize(("name", "dialect"), READ_BY_DIFFUSERS)
def test_pictures(bases: dict[str, Path], name: str, dialect: str, tmp_path: Path) -> None:
    tuned = Tuned(bases[name], name, tmp_path)
    pipeline = DiffusionPipeline.from_pretrained(bases[name], local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    before = drawn(pipeline, tuned.rig.side)
    file = tuned.exported(dialect)
    pipeline.load_lora_weights(file.parent, weight_name=file.name)
    theirs = drawn(pipeline, tuned.rig.side)
    pipeline.unload_lora_weights()
    assert np.array_equal(drawn(pipeline, tuned.rig.side), before)
    pipeline.register_modules(**{tuned.part: tuned.rig.denoiser})
    ours = drawn(pipeline, tuned.rig.side)
    assert np.abs(theirs - ours).max() <= 1
    assert (theirs != before).mean() > 0.2
