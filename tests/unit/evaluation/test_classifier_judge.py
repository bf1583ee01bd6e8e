"""The classifier judge on a real, tiny ResNet folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from marsam_generator.evaluation.judges import UNSURE, kinds, load_judge
from marsam_generator.evaluation.judges.record import Confusion, JudgeRecord, Measured, write_record
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification

from marsam.core.errors import Corrupt, Invalid, Precondition

LABELS = ["place:desert", "place:laboratory", "head_cover:none", "head_cover:keffiyeh", "head_cover:headscarf"]
PREPROCESSING = {
    "size": {"height": 32, "width": 32}, "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.5],
}  # fmt: skip


def write_judge(folder: Path, labels: list[str] = LABELS, abstain_below: float = 0.0) -> ResNetForImageClassification:
    torch.manual_seed(3)
    network = ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
                     id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)})
    )  # fmt: skip
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING))
    table = Confusion(values=("desert", "laboratory"), counts=((97, 3), (1, 99)))
    write_record(
        folder,
        JudgeRecord(name="tiny", attributes={"place": Measured(reconstructions=table)}, abstain_below=abstain_below),
    )
    return network.eval()


def pictures(count: int, side: int = 32) -> list[Image.Image]:
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def test_reads_each_attribute_by_its_own_softmax(tmp_path: Path) -> None:
    network = write_judge(tmp_path)
    judge = load_judge("classifier", tmp_path)
    assert judge.vocabulary == {"place": ("desert", "laboratory"), "head_cover": ("none", "keffiyeh", "headscarf")}
    shown = pictures(40)  # more than a batch
    readings = judge.read(shown)
    values = np.stack([np.asarray(picture, dtype=np.float32) / 255 for picture in shown])
    tensor = torch.from_numpy((values - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.5]).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        logits = network(pixel_values=tensor).logits
    for reading, row in zip(readings, logits, strict=True):
        for name, part, offset in (("place", row[:2], 0), ("head_cover", row[2:], 2)):
            best = part.softmax(0)
            assert reading[name].value == LABELS[offset + int(best.argmax())].split(":")[1]
            assert reading[name].probability == pytest.approx(float(best.max()), abs=2e-4)
    assert len({reading["place"].probability for reading in readings}) > 1


def test_says_when_it_cannot_tell(tmp_path: Path) -> None:
    write_judge(tmp_path, abstain_below=0.999)
    readings = load_judge("classifier", tmp_path).read(pictures(3))
    assert {reading["head_cover"].value for reading in readings} == {UNSURE}
    assert all(1 / 3 <= reading["head_cover"].probability < 0.999 for reading in readings)


def test_other_sizes_are_covered_and_not_distorted(tmp_path: Path) -> None:
    write_judge(tmp_path)
    judge = load_judge("classifier", tmp_path)
    square = Image.new("RGB", (32, 32), "#336699")
    wide = Image.new("RGB", (96, 32), "#ff0000")
    wide.paste(square, (32, 0))
    assert judge.read([wide])[0] == judge.read([square])[0]
    assert judge.read([square.convert("L").convert("RGBA")])  # whatever the mode


def test_record_decides_trust(tmp_path: Path) -> None:
    write_judge(tmp_path)
    record = load_judge("classifier", tmp_path).record
    assert record.accuracy("place") == 0.98
    assert record.trusts("place")
    assert not record.trusts("head_cover")  # never measured
    table = record.attributes["place"].reconstructions
    assert table is not None
    assert table.worst == ("desert", "laboratory", 3)


def test_refuses_what_is_no_judge(tmp_path: Path) -> None:
    write_judge(tmp_path / "plain", ["desert", "laboratory"])
    with pytest.raises(Invalid, match="attribute:value"):
        load_judge("classifier", tmp_path / "plain")
    write_judge(tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    with pytest.raises(Precondition, match="safetensors"):
        load_judge("classifier", tmp_path / "bare")
    write_judge(tmp_path / "unmeasured")
    (tmp_path / "unmeasured" / "judge.json").unlink()
    with pytest.raises(Precondition, match="nothing is known about its errors"):
        load_judge("classifier", tmp_path / "unmeasured")
    write_judge(tmp_path / "odd")
    (tmp_path / "odd" / "judge.json").write_text('{"schema": "somebody.else/1"}')
    with pytest.raises(Corrupt, match=r"marsam\.judge/1"):
        load_judge("classifier", tmp_path / "odd")


def test_knows_its_kinds(tmp_path: Path) -> None:
    assert "classifier" in kinds()
    with pytest.raises(Invalid, match="unknown judge 'clasifier'") as caught:
        load_judge("clasifier", tmp_path)
    assert "did you mean 'classifier'" in caught.value.remedy
