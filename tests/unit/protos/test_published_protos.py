"""What `make protos` publishes stands alone, says the same as the image, and may not break its callers."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from scripts import protos


def compiled(tree: Path, *names: str, out: Path) -> descriptor_pb2.FileDescriptorSet:
    """What protoc makes of the tree; no other folder is on its path."""
    words = [sys.executable, "-c", "import sys; from grpc_tools import protoc; sys.exit(protoc.main(sys.argv))"]
    command = [*words, f"-I{tree}", "--include_imports", f"--descriptor_set_out={out}", *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


def test_the_tree_needs_no_other_folder_and_says_what_the_image_says(tmp_path: Path) -> None:
    tree = tmp_path / "protos"
    protos.publish(tree)
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*.proto"))
    assert {"buf/validate/validate.proto", "google/rpc/status.proto", "marsam/api/trainer/v1/trainer.proto"} <= {*names}
    from_text = {file.name: file for file in compiled(tree, *names, out=tmp_path / "all.binpb").file}
    image = descriptor_pb2.FileDescriptorSet.FromString((tree / "marsam.binpb").read_bytes())
    assert {"google/rpc/error_details.proto", "google/rpc/status.proto"} <= {file.name for file in image.file}
    for file in image.file:
        file.ClearField("source_code_info")
        assert from_text[file.name] == file, file.name
    # The one file that was written back from its descriptor lost nothing.
    assert from_text["buf/validate/validate.proto"] == protos.validate_descriptor()


def test_the_released_image_is_not_broken() -> None:
    protos.breaking(protos.IMAGE)


@pytest.mark.parametrize("change", ["field deleted", "type changed", "method deleted", "field renamed"])
def test_a_break_is_refused(change: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    image = descriptor_pb2.FileDescriptorSet.FromString(protos.IMAGE.read_bytes())
    trainer = next(file for file in image.file if file.name.endswith("trainer.proto"))
    progress = next(message for message in trainer.message_type if message.name == "Progress")
    match change:
        case "field deleted":
            del progress.field[0]
        case "type changed":
            progress.field[0].type = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
        case "method deleted":
            del trainer.service[0].method[-1]
        case _:
            progress.field[0].name, progress.field[0].json_name = "stride", "stride"
    changed = tmp_path / "image.binpb"
    changed.write_bytes(image.SerializeToString())
    with pytest.raises(SystemExit) as refused:
        protos.breaking(changed)
    assert "buf breaking" in str(refused.value)
    assert "trainer.proto" in capfd.readouterr().out


def test_an_addition_is_not_a_break(tmp_path: Path) -> None:
    image = descriptor_pb2.FileDescriptorSet.FromString(protos.IMAGE.read_bytes())
    trainer = next(file for file in image.file if file.name.endswith("trainer.proto"))
    progress = next(message for message in trainer.message_type if message.name == "Progress")
    label = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
    progress.field.add(
        name="added", json_name="added", number=99, label=label, type=descriptor_pb2.FieldDescriptorProto.TYPE_INT32
    )
    changed = tmp_path / "image.binpb"
    changed.write_bytes(image.SerializeToString())
    protos.breaking(changed)
