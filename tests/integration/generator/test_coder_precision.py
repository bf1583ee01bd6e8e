"""A service that holds image coders in half precision."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from marsam.store.open import open_store
from tests.integration.generator.support import Answer, generate, model, publish, request, serving
from tests.unit.generator.tiny import write_base

pytestmark = pytest.mark.slow


def _pixels(answer: Answer) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(answer.images[0][1])).convert("RGB")).astype(int)


async def test_what_half_precision_holds_is_near_and_what_it_does_not_is_the_same(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    blobs = open_store(store)
    await publish(blobs, "plain", "base", write_base(tmp_path / "plain"))
    loud = write_base(tmp_path / "loud")
    weights = loud / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    # More than fp16 can say, before the next layer brings it to measure; rounded, so that both hold the same numbers.
    for name, value in tensors.items():
        tensors[name] = (value * (2e5 if name.startswith("decoder.conv_in.") else 1.0)).half().float()
    save_file(tensors, weights, metadata={"format": "pt"})
    await publish(blobs, "loud", "base", loud)
    drawn: dict[str, list[Answer]] = {}
    for precision in ("fp32", "bf16", "fp16"):
        async with serving(store, tmp_path / f"cache-{precision}", image_precision=precision) as served:
            drawn[precision] = [await generate(served.stub, request(model=model(name))) for name in ("plain", "loud")]
    whole, brain, half = (drawn[precision] for precision in ("fp32", "bf16", "fp16"))
    assert "image coder" not in whole[0].accepted.fingerprint
    assert "image coder fp16" in half[0].accepted.fingerprint
    for near, most in ((brain[0], 16), (half[0], 3)):
        assert 0 < np.abs(_pixels(near) - _pixels(whole[0])).max() <= most
    assert np.array_equal(_pixels(half[1]), _pixels(whole[1]))
    assert _pixels(half[1]).std() > 1.0
