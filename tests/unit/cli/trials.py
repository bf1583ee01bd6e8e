"""Runs to compare, made up: losses that fall, pictures of one colour, words of two languages."""

import io
import math
import random

from PIL import Image

from marsam.api.trainer.v1 import trainer_pb2
from marsam.cli.compare.gather import Sample, Trial, settings
from marsam.core.ids import new_ulid

PROMPTS = ("an Arab scientist weighs powders in a laboratory", "عالِمة عربية تقيس بالمسطرة في المختبر")


def picture(red: int, green: int = 90, blue: int = 120) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").point(lambda v: v // 2 + 40).save(out, "PNG")
    image = Image.blend(Image.open(out).convert("RGB"), Image.new("RGB", (64, 64), (red, green, blue)), 0.6)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def trial(number: int, *, state: str = "succeeded", title: str = "", seed: int = 7, **spec: object) -> Trial:
    """A run; `spec` changes its order."""
    asked = trainer_pb2.RunSpec(
        base="projects/p/models/hayy-base", dataset_version="projects/p/datasets/quarter/versions/v2", method="lora",
        steps=300, batch_size=8, learning_rate=1e-4, resolution=64, seed=seed, languages=["ar", "en"],
    )  # fmt: skip
    params = spec.pop("method_params", {"rank": 16, "alpha": 16})
    asked.method_params.update(params)  # type: ignore[arg-type]
    for name, value in spec.items():
        setattr(asked, name, value)
    noise = random.Random(number)
    losses = [(step, 0.2 + 0.5 * math.exp(-step / (40 + 25 * number)) + noise.gauss(0, 0.03)) for step in range(1, 301)]
    return Trial(
        name=f"projects/p/runs/{new_ulid()}",
        title=title or f"quarter-{number}",
        state=state,
        model=f"projects/p/models/quarter-{number}" if state == "succeeded" else "",
        settings=settings(asked),
        measures={"steps": 300.0, "final_loss": losses[-1][1], "validation_loss": 0.3 + number / 50,
                  "validation_loss_first": 0.71, "images_per_second": 12.5 + number, "train_seconds": 260.0,
                  "peak_memory_bytes": 1.2e9, "trainable_parameters": 797184.0},
        losses=losses,
        validation=[(step, 0.28 + 0.4 * math.exp(-step / (50 + 30 * number))) for step in range(0, 301, 50)],
        samples=[
            Sample(prompt=prompt, seed=seed + row, size="64×64", picture=picture(60 + 50 * number + 20 * row))
            for row, prompt in enumerate(PROMPTS)
        ],
    )  # fmt: skip
