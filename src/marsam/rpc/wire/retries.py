"""How calls are spread over the addresses of a name, and which of them the transport may repeat.

The latter is derived from the protos, so that a new method cannot be forgotten.

A call is repeated on UNAVAILABLE if its method declares NO_SIDE_EFFECTS, or if its request carries a `request_id`,
under which the service answers the same twice. Everything else is left to the caller, who knows what a repeat means.
"""

import json
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from marsam.api.dataset.v1 import dataset_pb2
from marsam.api.generator.v1 import evaluation_pb2, generator_pb2
from marsam.api.model.v1 import model_pb2
from marsam.api.trainer.v1 import trainer_pb2

_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.2s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def services() -> tuple[ServiceDescriptor, ...]:
    """Every service of the API."""
    files = (dataset_pb2, trainer_pb2, model_pb2, generator_pb2, evaluation_pb2)
    return tuple(service for file in files for service in file.DESCRIPTOR.services_by_name.values())


def repeatable(method: MethodDescriptor) -> bool:
    """Whether the same call, made again, leaves the same state behind."""
    if method.client_streaming:
        return False  # what was sent is gone
    if method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS:
        return True
    return "request_id" in method.input_type.fields_by_name


def service_config(known: Sequence[ServiceDescriptor]) -> str:
    """The gRPC service config of a channel to any of `known`, as JSON.

    Calls go to the addresses of a name in turn; a repeated one goes to the next.
    """
    names: list[dict[str, Any]] = [
        {"service": service.full_name, "method": method.name}
        for service in known
        for method in service.methods
        if repeatable(method)
    ]
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "methodConfig": [{"name": names, "retryPolicy": _POLICY}],
        }
    )
