"""Models of the registry, and their aliases."""

from collections.abc import Mapping

from marsam.api.common.v1 import common_pb2
from marsam.api.model.v1 import model_pb2
from marsam.catalog.acceptance import Acceptance
from marsam.catalog.models import AliasEntry, Model, ModelKind
from marsam.rpc.wire.messages import file_message, timestamp
from marsam_trainer.wire.structs import struct_of

_KINDS: Mapping[int, ModelKind] = {
    model_pb2.MODEL_KIND_BASE: "base",
    model_pb2.MODEL_KIND_ADAPTER: "adapter",
    model_pb2.MODEL_KIND_FULL: "full",
    model_pb2.MODEL_KIND_JUDGE: "judge",
}
_KIND_OF = {name: number for number, name in _KINDS.items()}


def kind_of(number: int) -> ModelKind:
    """The kind that a defined, non-zero enum number stands for."""
    return _KINDS[number]


def model_message(model: Model) -> model_pb2.Model:
    """A model."""
    lineage = model.lineage
    return model_pb2.Model(
        name=model.name,
        kind=model_pb2.ModelKind.Name(_KIND_OF[model.kind]),
        family=model.family,
        method=model.method,
        base=model.base or "",
        base_digest=model.base_digest or "",
        digest=model.digest,
        files=[file_message(file) for file in model.files],
        params=struct_of(model.params),
        lineage=model_pb2.Lineage(
            dataset_version=lineage.dataset_version,
            dataset_digest=lineage.dataset_digest,
            run=lineage.run,
            seed=lineage.seed or 0,
            code_version=lineage.code_version,
            quantisation=lineage.quantisation,
            regularisation_version=lineage.regularisation_version,
            regularisation_digest=lineage.regularisation_digest,
        ),
        metrics=model.metrics,
        samples=[file_message(file) for file in model.samples],
        licence=model.licence,
        labels=model.labels,
        create_time=timestamp(model.create_time),
        display_name=model.display_name,
        size_bytes=model.size,
        licence_acceptance=acceptance_message(model.accepted) if model.accepted is not None else None,
    )


def alias_message(name: str, entry: AliasEntry) -> model_pb2.Alias:
    """One step of an alias; `model` is empty where it was taken away."""
    return model_pb2.Alias(name=name, model=entry.target or "", etag=entry.etag, time=timestamp(entry.at))


def acceptance_message(accepted: Acceptance) -> common_pb2.LicenceAcceptance:
    """Who accepted a licence."""
    return common_pb2.LicenceAcceptance(licence=accepted.licence, by=accepted.by, time=timestamp(accepted.at))
