"""Generate the stubs in src/marsam/api and the descriptor image from protos/, publish both forms, or check all that.

Published is dist/protos: `marsam.binpb`, the descriptor image, and beside it every .proto file that a compiler needs,
those of buf, google.rpc and google.protobuf included. `make protos` writes it; git does not keep it.

Everything works offline: the descriptor of `buf/validate/validate.proto` is taken from the protovalidate package, whose
generated module stands under marsam.api because protovalidate keeps its own copy private.
"""

import argparse
import filecmp
import importlib
import importlib.resources
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc_tools
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb

from scripts.proto_text import proto_text

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
API = ROOT / "src" / "marsam" / "api"
IMAGE = PROTOS / "marsam.binpb"
#: the last released image: `buf breaking` compares with it
RELEASED = PROTOS / "released.binpb"
VALIDATE = "buf/validate/validate.proto"
DIST = ROOT / "dist" / "protos"
#: FILE: no caller's source or generated code breaks; WIRE_JSON: no caller's bytes or JSON do.
BUF_CONFIG = '{"version": "v2", "lint": {"use": ["STANDARD"]}, "breaking": {"use": ["FILE", "WIRE_JSON"]}}'
#: imported by our errors (google.rpc.Status and its details), not by our files
ERRORS = ("google/rpc/code.proto", "google/rpc/status.proto", "google/rpc/error_details.proto")


def validate_descriptor() -> descriptor_pb2.FileDescriptorProto:
    return descriptor_pb2.FileDescriptorProto.FromString(validate_pb._DESC.proto.to_binary())


def validate_descriptors(into: Path) -> Path:
    """A FileDescriptorSet of validate.proto and the well-known types it imports."""
    own = validate_descriptor()
    with tempfile.TemporaryDirectory() as scratch:
        known = Path(scratch) / "known.binpb"
        run_protoc("--descriptor_set_out", str(known), "--include_imports", *own.dependency)
        found = descriptor_pb2.FileDescriptorSet.FromString(known.read_bytes())
    found.file.append(own)
    path = into / "validate.binpb"
    path.write_bytes(found.SerializeToString())
    return path


def run_protoc(*arguments: str) -> None:
    include = importlib.resources.files(grpc_tools) / "_proto"
    if protoc.main(["protoc", f"-I{include}", *arguments]) != 0:
        sys.exit("protoc refused the protos (see above)")


def proto_files() -> list[str]:
    return sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))


def generate(api: Path, image: Path) -> None:
    """Write the stubs below `api` (the folder that becomes marsam.api) and the descriptor image."""
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        out = scratch / "out"
        out.mkdir()
        descriptors = validate_descriptors(scratch)
        common = [f"-I{PROTOS}", f"--descriptor_set_in={descriptors}"]
        run_protoc(f"--descriptor_set_in={descriptors}", f"--python_out={out}", f"--pyi_out={out}", VALIDATE)
        run_protoc(
            *common,
            f"--python_out={out}",
            f"--pyi_out={out}",
            f"--grpc_python_out={out}",
            f"--plugin=protoc-gen-mypy_grpc={Path(sys.executable).parent / 'protoc-gen-mypy_grpc'}",
            f"--mypy_grpc_out={out}",
            *proto_files(),
        )
        run_protoc(
            *common, "--include_imports", "--include_source_info", f"--descriptor_set_out={image}", *proto_files()
        )
        shutil.rmtree(api, ignore_errors=True)
        shutil.copytree(out / "marsam" / "api", api)
        shutil.copytree(out / "buf", api / "buf")
    for module in api.rglob("*.py*"):
        text = module.read_text()
        text = re.sub(r"\bfrom buf\.validate import", "from marsam.api.buf.validate import", text)
        module.write_text(text)
    for folder in [api, *(path for path in sorted(api.rglob("*")) if path.is_dir())]:
        (folder / "__init__.py").write_text('"""Generated from protos/ by scripts/protos.py; never edited."""\n')


def publish(dist: Path) -> None:
    """Write the image and a tree of .proto files that needs no other folder."""
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir(parents=True)
    for name in proto_files():
        _put(dist / name, (PROTOS / name).read_text("utf-8"))
    # The options of validate.proto are written with its own extensions: this process must know them.
    importlib.import_module("marsam.api.buf.validate.validate_pb2")
    _put(dist / VALIDATE, proto_text(validate_descriptor()))
    for name in ERRORS:
        _put(dist / name, (importlib.resources.files("google.rpc") / Path(name).name).read_text("utf-8"))
    known = Path(str(importlib.resources.files(grpc_tools))) / "_proto"
    for path in sorted((known / "google" / "protobuf").glob("*.proto")):
        _put(dist / path.relative_to(known), path.read_text("utf-8"))
    # With the errors' messages in the image, grpcurl and its like can read their details.
    image = descriptor_pb2.FileDescriptorSet.FromString(IMAGE.read_bytes())
    published = dist / "marsam.binpb"
    run_protoc(f"-I{dist}", "--include_imports", f"--descriptor_set_out={published}", *ERRORS)
    errors = descriptor_pb2.FileDescriptorSet.FromString(published.read_bytes())
    present = {file.name for file in image.file}
    image.file.extend(file for file in errors.file if file.name not in present)
    published.write_bytes(image.SerializeToString(deterministic=True))


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def buf(*arguments: str) -> None:
    program = Path(sys.executable).parent / "buf"
    command = [str(program), *arguments, "--path", "marsam", "--config", BUF_CONFIG]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        sys.exit(f"buf {arguments[0]} found faults in the protos (see above)")


def breaking(image: Path) -> None:
    """Refuse an image that breaks callers of the last release."""
    buf("breaking", str(image), "--against", str(RELEASED))


def differences(left: Path, right: Path) -> Iterator[str]:
    names = {str(path.relative_to(side)) for side in (left, right) for path in side.rglob("*.py*")}
    for name in sorted(names):
        if "__pycache__" in name:
            continue
        pair = (left / name, right / name)
        if not all(path.is_file() for path in pair) or not filecmp.cmp(*pair, shallow=False):
            yield name


def check() -> None:
    """Lint the protos, compare them with the released image, and the committed stubs with a fresh generation."""
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        generate(scratch / "api", scratch / "image.binpb")
        stale = list(differences(API, scratch / "api"))
        if IMAGE.read_bytes() != (scratch / "image.binpb").read_bytes():
            stale.append(str(IMAGE.relative_to(ROOT)))
    if stale:
        sys.exit(f"Stale generated files (run `make protos`): {', '.join(stale)}")
    buf("lint", str(IMAGE))
    breaking(IMAGE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail when the committed stubs are not fresh")
    parser.add_argument("--release", action="store_true", help="make the image the one that later ones must not break")
    chosen = parser.parse_args()
    if chosen.check or chosen.release:
        check()
        if chosen.release:
            shutil.copyfile(IMAGE, RELEASED)
    else:
        generate(API, IMAGE)
        publish(DIST)
        print(f"published in {DIST.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
