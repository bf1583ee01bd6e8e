"""An answer that grows with what is stored comes in pages."""

import pytest
from google.protobuf.descriptor import MethodDescriptor

from marsam.api.dataset.v1 import dataset_pb2
from marsam.api.generator.v1 import evaluation_pb2, generator_pb2
from marsam.api.model.v1 import model_pb2
from marsam.api.trainer.v1 import trainer_pb2

FILES = (dataset_pb2, evaluation_pb2, generator_pb2, model_pb2, trainer_pb2)
METHODS = [m for f in FILES for s in f.DESCRIPTOR.services_by_name.values() for m in s.methods]
# What the program itself knows, not what is stored.
FIXED = {"ListCapabilities"}
LISTS = [m for m in METHODS if m.name.startswith("List") and m.name not in FIXED]
ALSO = [m for m in METHODS if m.name in ("DiffVersions", "ExportVersion")]


@pytest.mark.parametrize("method", [*LISTS, *ALSO], ids=lambda method: method.name)
def test_a_list_has_pages(method: MethodDescriptor) -> None:
    assert {"page_size", "page_token"} <= set(method.input_type.fields_by_name)
    assert "next_page_token" in method.output_type.fields_by_name


def test_the_lists_are_those_of_the_api() -> None:
    assert len(LISTS) == 11 and len(ALSO) == 2
