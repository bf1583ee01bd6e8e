"""What a file is, by content: whole safetensors pass, pickles in every dress and broken files are refused."""

import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from marsam_trainer.weights import Content, Tensor, inspect, read_header
from safetensors.numpy import save_file

from marsam.core.errors import Invalid


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.ones(5, np.float16)}, path, metadata={"format": "pt"})
    return path


def refused(path: Path, name: str) -> Invalid:
    with pytest.raises(Invalid) as caught:
        inspect(path, name=name)
    return caught.value


def test_a_whole_file_is_safetensors_and_its_header_is_read(weights: Path) -> None:
    assert inspect(weights, name="unet/model.safetensors") is Content.SAFETENSORS
    header = read_header(weights, name="m")
    assert header.tensors == {"a": Tensor(dtype="F32", shape=(2, 3)), "b": Tensor(dtype="F16", shape=(5,))}
    assert header.metadata == {"format": "pt"}


@pytest.mark.parametrize("cut", [1, 8, 30])
def test_a_file_cut_short_is_refused(weights: Path, cut: int) -> None:
    weights.write_bytes(weights.read_bytes()[:-cut])
    assert refused(weights, "model.safetensors").reason == "FILE_BROKEN"


def test_bytes_after_the_tensors_are_refused(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes() + b"x")
    error = refused(weights, "model.safetensors")
    assert error.reason == "FILE_BROKEN"
    assert "should hold 34 bytes of tensors and holds 35" in error.message


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32"},
        [],
    ],
)
def test_a_lying_header_is_refused(tmp_path: Path, entry: object) -> None:
    raw = json.dumps({"a": entry}).encode()
    path = tmp_path / "x"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"\0" * 4)
    assert refused(path, "x.safetensors").reason == "FILE_BROKEN"


def test_overlapping_tensors_are_refused(tmp_path: Path) -> None:
    one = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
    raw = json.dumps({"a": one, "b": one}).encode()
    path = tmp_path / "x"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"\0" * 4)
    assert "overlap" in refused(path, "x.safetensors").message


@pytest.mark.parametrize("name", ["model.bin", "model.safetensors", "model.json", "innocent.txt"])
def test_a_torch_archive_is_a_pickle_under_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    torch.save({"w": torch.zeros(3)}, path)
    error = refused(path, name)
    assert error.reason == "PICKLE_REFUSED"
    assert "save_file" in error.remedy


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_bare_pickle_is_refused(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps({"w": [1.0] * 100}, protocol=protocol))
    assert refused(path, "model.safetensors").reason == "PICKLE_REFUSED"


def test_a_tar_of_old_torch_is_refused(tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "old.txt"
    with tarfile.open(path, "w") as tar:
        tar.add(weights, arcname="storages")
    assert refused(path, "old.txt").reason == "PICKLE_REFUSED"


def test_a_name_that_other_tools_unpickle_is_refused_even_when_the_bytes_are_good(weights: Path) -> None:
    assert refused(weights, "pytorch_model.bin").reason == "PICKLE_REFUSED"


@pytest.mark.parametrize("head", [b"GGUF\3\0\0\0", b"\x89HDF\r\n\x1a\n", b"\x1f\x8b\x08\0", b"\x7fELF", b"\xff\xfe\0"])
def test_other_kinds_are_refused_by_name_or_by_nature(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(head + b"\0" * 64)
    assert refused(path, "x.txt").reason == "FILE_NOT_ALLOWED"


def test_json_and_text_pass_and_broken_json_does_not(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text('{"a": "مرسم"}')
    assert inspect(path, name="config.json") is Content.JSON
    assert inspect(path, name="merges.txt") is Content.TEXT
    path.write_text('{"a": ')
    assert refused(path, "config.json").reason == "FILE_BROKEN"
    path.write_text("[" * 200_000)
    assert refused(path, "config.json").reason == "FILE_BROKEN"
