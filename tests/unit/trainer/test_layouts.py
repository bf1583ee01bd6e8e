"""What a folder is as a model, when its JSON is not what other programs write."""

import json
from pathlib import Path

import numpy as np
import pytest
from marsam_trainer import layouts
from marsam_trainer.adapters import CONFIG, WEIGHTS, read_adapter
from marsam_trainer.layouts import INDEX, Folder
from marsam_trainer.weights import Content, Tensor, inspect
from safetensors.numpy import save_file

from marsam.core.errors import Invalid
from marsam.diffusion.dialects import PEFT as PREFIX


def folder(root: Path, **files: object) -> Folder:
    """A folder of JSON files; a name's double underscore stands for a slash, `None` for a file of weights."""
    found: dict[str, Path] = {}
    for name, content in files.items():
        path = name.replace("__", "/")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        suffix = ".safetensors" if content is None else ".json"
        place = root / f"{path}{suffix}"
        if content is None:
            save_file({"a": np.zeros(2, np.float32)}, place)
        else:
            place.write_text(json.dumps(content))
        found[f"{path}{suffix}"] = place
    return Folder(files=found, contents={path: inspect(file, name=path) for path, file in found.items()})


@pytest.mark.parametrize("shards", [["a"], "a", 3])
def test_an_index_of_shards_that_is_none_is_a_fault(tmp_path: Path, shards: object) -> None:
    broken = folder(
        tmp_path,
        model_index={"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]},
        unet__config={},
        unet__model=None,
        **{"unet__model.safetensors.index": {"weight_map": shards}},
    )
    assert INDEX in broken.files
    with pytest.raises(Invalid) as caught:
        layouts.whole(broken, family="sd1")
    assert caught.value.reason == "BASE_INCOMPLETE" and "does not map" in caught.value.message


@pytest.mark.parametrize("alpha", [None, "much", [2], True])
def test_an_adapter_whose_alpha_is_no_number_is_refused(tmp_path: Path, alpha: object) -> None:
    weights, config = tmp_path / WEIGHTS, tmp_path / CONFIG
    pair = {"A": np.zeros((2, 4), np.float32), "B": np.zeros((3, 2), np.float32)}
    save_file({f"{PREFIX}layer.lora_{half}.weight": value for half, value in pair.items()}, weights)
    config.write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": alpha, "target_modules": ["layer"]}))
    with pytest.raises(Invalid, match="lora_alpha") as caught:
        read_adapter(
            {WEIGHTS: weights, CONFIG: config},
            {WEIGHTS: Content.SAFETENSORS, CONFIG: Content.JSON},
            family="sd1",
            denoiser={"layer.weight": Tensor(dtype="F32", shape=(3, 4))},
            scratch=tmp_path / "made",
        )
    assert caught.value.reason == "ADAPTER_LAYOUT"
