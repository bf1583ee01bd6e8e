"""The generic classifier judge: any image classifier of transformers whose labels read "attribute:value".

The folder is what `save_pretrained` writes (config.json, model.safetensors), with preprocessor_config.json for size,
mean and standard deviation, and judge.json for its measured errors. One network reads all attributes: the softmax is
taken over each attribute's labels apart.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageClassification

from marsam.core.errors import Invalid, Precondition
from marsam_generator.evaluation.judges import UNSURE, Reading, Readings
from marsam_generator.evaluation.judges.record import JudgeRecord, read_record

BATCH = 32


class Preprocessing:
    """Pixels to the tensor that the network was trained on: resize, scale to [0, 1], normalise by channel."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.height, self.width = _target(config.get("size", 224))
        self.scale = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
        normalise = bool(config.get("do_normalize", True))
        self.mean = np.array(config.get("image_mean", [0.5] * 3) if normalise else [0.0] * 3, dtype=np.float32)
        self.std = np.array(config.get("image_std", [0.5] * 3) if normalise else [1.0] * 3, dtype=np.float32)
        if self.mean.shape != (3,) or self.std.shape != (3,) or float(self.std.min()) <= 0:
            raise Invalid("preprocessor_config.json: image_mean and image_std need three numbers, the latter above 0")
        self.resample = Image.Resampling(int(config.get("resample", Image.Resampling.BICUBIC)))

    def __call__(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Return float32 [n, 3, height, width]."""
        return torch.from_numpy(np.stack([self._one(picture) for picture in pictures]))

    def _one(self, picture: Image.Image) -> np.ndarray:
        rgb = picture.convert("RGB")
        if rgb.size != (self.width, self.height):
            rgb = _cover(rgb, self.width, self.height, self.resample)
        values = np.asarray(rgb, dtype=np.float32) * self.scale
        return np.ascontiguousarray(((values - self.mean) / self.std).transpose(2, 0, 1), dtype=np.float32)


def _target(size: object) -> tuple[int, int]:
    """Return (height, width) from the forms that preprocessor_config.json uses."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict):
        if "shortest_edge" in size:
            return int(size["shortest_edge"]), int(size["shortest_edge"])
        if "height" in size and "width" in size:
            return int(size["height"]), int(size["width"])
    raise Invalid(f"preprocessor_config.json: size {size!r} names no height and width")


def _cover(picture: Image.Image, width: int, height: int, resample: Image.Resampling) -> Image.Image:
    """Scale until the target is covered, then take its centre: nothing is distorted."""
    factor = max(width / picture.width, height / picture.height)
    wide, high = max(width, round(picture.width * factor)), max(height, round(picture.height * factor))
    left, top = (wide - width) // 2, (high - height) // 2
    return picture.resize((wide, high), resample).crop((left, top, left + width, top + height))


class ClassifierJudge:
    """A judge around one classifier network."""

    def __init__(self, network: Any, labels: Sequence[str], preprocessing: Preprocessing, record: JudgeRecord) -> None:
        self._network = network
        self._preprocessing = preprocessing
        self._record = record
        self._columns: dict[str, list[int]] = {}
        values: dict[str, list[str]] = {}
        for column, label in enumerate(labels):
            attribute, separator, value = label.partition(":")
            if not (attribute and separator and value):
                raise Invalid(
                    f"the judge's label '{label}' is not of the form attribute:value",
                    reason="JUDGE_LABELS",
                    remedy="name every id2label entry like 'place:desert'",
                )
            self._columns.setdefault(attribute, []).append(column)
            values.setdefault(attribute, []).append(value)
        self._vocabulary = {attribute: tuple(names) for attribute, names in values.items()}

    @property
    def record(self) -> JudgeRecord:
        """How well the judge reads."""
        return self._record

    @property
    def vocabulary(self) -> Mapping[str, tuple[str, ...]]:
        """The values of each attribute, in label order."""
        return self._vocabulary

    def read(self, pictures: Sequence[Image.Image]) -> list[Readings]:
        """Return each picture's readings, in order."""
        readings: list[Readings] = []
        for start in range(0, len(pictures), BATCH):
            readings += self._batch(pictures[start : start + BATCH])
        return readings

    def _batch(self, pictures: Sequence[Image.Image]) -> list[Readings]:
        with torch.inference_mode():
            logits = self._network(pixel_values=self._preprocessing(pictures)).logits.float()
            best = {name: logits[:, columns].softmax(dim=1).max(dim=1) for name, columns in self._columns.items()}
        return [
            {name: self._reading(name, int(top.indices[row]), float(top.values[row])) for name, top in best.items()}
            for row in range(len(pictures))
        ]

    def _reading(self, attribute: str, index: int, probability: float) -> Reading:
        sure = probability >= self._record.abstain_below
        value = self._vocabulary[attribute][index] if sure else UNSURE
        return Reading(value=value, probability=round(probability, 4))


def load(folder: Path) -> ClassifierJudge:
    """Return the judge in `folder`; Precondition when a file is missing, Invalid when its labels do not fit."""
    for name in ("config.json", "preprocessor_config.json"):
        if not (folder / name).is_file():
            raise Precondition(f"the judge lacks {name}", reason="JUDGE_INCOMPLETE")
    if not any(folder.glob("*.safetensors")):
        raise Precondition("the judge has no safetensors weights", reason="JUDGE_INCOMPLETE")
    record = read_record(folder)
    network = AutoModelForImageClassification.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
    ).eval()
    names = network.config.id2label
    labels = [names[i] for i in range(len(names))]
    preprocessing = Preprocessing(json.loads((folder / "preprocessor_config.json").read_text("utf-8")))
    return ClassifierJudge(network, labels, preprocessing, record)
