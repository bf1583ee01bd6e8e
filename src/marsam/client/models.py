"""Models: bases, adapters, judges; in and out of the registry."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import grpc.aio

from marsam.api.model.v1 import model_pb2, model_pb2_grpc
from marsam.client import files
from marsam.client.connection import SLOW_SECONDS, stream, unary, upload
from marsam.client.naming import qualify
from marsam.client.paging import PAGE, every
from marsam.core.errors import Invalid, unknown_name
from marsam.core.ids import new_ulid

_KINDS = {
    "base": model_pb2.MODEL_KIND_BASE,
    "adapter": model_pb2.MODEL_KIND_ADAPTER,
    "full": model_pb2.MODEL_KIND_FULL,
    "judge": model_pb2.MODEL_KIND_JUDGE,
}
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")

_BESIDE = "beside"
"""What `like` is on the wire, and where its files go, when they are sent too."""

_DENOISERS = ("unet/", "transformer/")
_WEIGHTS = (".safetensors", ".bin", ".ckpt")


def kind_name(kind: int) -> str:
    """`base`, `adapter`, `full` or `judge`; the number for a kind newer than this client."""
    return next((name for name, value in _KINDS.items() if value == kind), str(kind))


class Models:
    """Names may be short (`hayy-base`), aliases (`@prod`) or full."""

    def __init__(self, channel: grpc.aio.Channel, *, project: str) -> None:
        self._stub = model_pb2_grpc.ModelServiceStub(channel)
        self._project = project

    async def import_folder(
        self,
        path: str | Path,
        model: str,
        *,
        kind: str = "base",
        family: str = "",
        base: str = "",
        licence: str = "",
        accept_licence: str = "",
        like: str | Path = "",
        distilled: bool = False,
        display_name: str = "",
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
        progress: files.Report | None = None,
        seconds: float | None = None,
    ) -> model_pb2.Model:
        """Sends a folder in diffusers layout or one .safetensors file; what it is, is decided by content.

        `licence` is what the folder states when empty; one that restricts must be named in `accept_licence` too.
        `like` is for a base in one file, which has no configurations and no tokenizers: another base that has them and
        whatever parts the file lacks; a model, a diffusers folder (a `Path`, or text with a slash in it) or
        `hub:org/name`. `distilled` says that a base was made to draw in few steps, where its files do not.
        Pictures in a folder belong to its model card and stay behind.

        Raises Invalid for anything else, a pickle included, with the way to convert it.
        """
        found = await files.gather(Path(path), without=_PICTURES)
        header = self._header(model, kind, family, base, licence, accept_licence, display_name, labels, request_id)
        header.distilled = distilled
        header.like, folder = self._like(like)
        if folder is not None:
            found += await _beside(folder)

        async def requests() -> AsyncIterator[model_pb2.ImportModelRequest]:
            yield model_pb2.ImportModelRequest(header=header)
            async for request in files.sent(found, wrap=model_pb2.ImportModelRequest, report=progress):
                yield request

        return (await upload(self._stub.ImportModel, requests(), seconds=seconds)).model

    async def import_ref(
        self,
        ref: str,
        model: str,
        *,
        kind: str = "base",
        family: str = "",
        base: str = "",
        licence: str = "",
        accept_licence: str = "",
        like: str = "",
        distilled: bool = False,
        display_name: str = "",
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
        seconds: float | None = None,
    ) -> model_pb2.Model:
        """Lets the service fetch `org/name` from the hub. `like`, a model or `hub:org/name`, is for what is one file
        there, as for `import_folder`."""
        header = self._header(model, kind, family, base, licence, accept_licence, display_name, labels, request_id)
        header.distilled = distilled
        header.like, folder = self._like(like)
        if folder is not None:
            raise Invalid(
                f"{like} is on this machine, and {ref} is fetched by the service",
                field="like",
                reason="LIKE_LOCAL",
                remedy="name a model or hub:org/name",
            )
        header.ref = f"hub:{ref.removeprefix('hub:')}"

        async def requests() -> AsyncIterator[model_pb2.ImportModelRequest]:
            yield model_pb2.ImportModelRequest(header=header)

        return (await upload(self._stub.ImportModel, requests(), seconds=seconds)).model

    async def get(self, model: str) -> model_pb2.Model:
        """One model, by name or alias. Raises Missing."""
        return (await unary(self._stub.GetModel, model_pb2.GetModelRequest(name=self._name(model)))).model

    async def list(self) -> Sequence[model_pb2.Model]:
        """Every model of the project."""
        request = model_pb2.ListModelsRequest(parent=f"projects/{self._project}", page_size=PAGE)
        return await every(self._stub.ListModels, request, lambda answer: answer.models)

    async def delete(self, model: str) -> None:
        """Forgets a model. Raises Precondition while an alias or another model needs it."""
        await unary(self._stub.DeleteModel, model_pb2.DeleteModelRequest(name=self._name(model)))

    async def export(
        self, model: str, into: str | Path, *, dialect: str = "", progress: files.Report | None = None
    ) -> Sequence[Path]:
        """Writes a model's files into a new folder, in another program's layout when `dialect` names one."""
        request = model_pb2.ExportModelRequest(name=self._name(model), dialect=dialect)
        messages = stream(self._stub.ExportModel, request, idle=SLOW_SECONDS)
        return await files.received(messages, into=Path(into), report=progress)

    async def read_artifact(self, model: str, digest: str) -> bytes:
        """One file or sample picture of a model, by digest."""
        request = model_pb2.ReadArtifactRequest(name=self._name(model), digest=digest)
        return b"".join([message.chunk async for message in stream(self._stub.ReadArtifact, request)])

    async def set_alias(self, alias: str, model: str, *, etag: str = "") -> model_pb2.Alias:
        """Points an alias at a model. `etag` is the one last seen; Conflict when somebody set it since."""
        request = model_pb2.SetAliasRequest(
            name=qualify("alias", alias.removeprefix("@"), project=self._project, field="alias"),
            model=self._name(model),
            etag=etag,
        )
        return (await unary(self._stub.SetAlias, request)).alias

    async def alias_history(self, alias: str) -> Sequence[model_pb2.Alias]:
        """Every setting of an alias."""
        name = qualify("alias", alias.removeprefix("@"), project=self._project, field="alias")
        request = model_pb2.ListAliasHistoryRequest(name=name, page_size=PAGE)
        return await every(self._stub.ListAliasHistory, request, lambda answer: answer.history)

    async def lineage(self, model: str) -> Sequence[model_pb2.LineageNode]:
        """From a model, or a generation's full name, back to run, base, dataset version and their rights."""
        name = model if model.startswith("projects/") else self._name(model)
        return (await unary(self._stub.TraceLineage, model_pb2.TraceLineageRequest(name=name))).nodes

    def _header(
        self,
        model: str,
        kind: str,
        family: str,
        base: str,
        licence: str,
        accept_licence: str,
        display_name: str,
        labels: Mapping[str, str] | None,
        request_id: str | None,
    ) -> model_pb2.ImportModelHeader:
        if kind not in _KINDS:
            raise unknown_name("model kind", kind, _KINDS, field="kind")
        parent, _, model_id = qualify("model", model, project=self._project, field="model").rpartition("/models/")
        return model_pb2.ImportModelHeader(
            parent=parent,
            model_id=model_id,
            kind=_KINDS[kind],
            family=family,
            base=self._name(base) if base else "",
            licence=licence,
            accept_licence=accept_licence,
            display_name=display_name,
            labels=labels,
            request_id=request_id or new_ulid(),
        )

    def _like(self, like: str | Path) -> tuple[str, Path | None]:
        """What the header says of `like`, and the folder that is to be sent too."""
        if isinstance(like, str) and (not like or like.startswith("hub:")):
            return like, None
        if isinstance(like, str) and ("/" not in like or like.startswith("projects/")):
            return self._name(like), None
        return _BESIDE, Path(like)

    def _name(self, model: str) -> str:
        return qualify("model", model, project=self._project, field="model")


async def _beside(folder: Path) -> Sequence[files.LocalFile]:
    """A folder in diffusers layout as it is sent beside a base in one file: without its denoiser's weights, which every
    one file has, and without checkpoints at its root, which are no part of it. Raises Invalid."""
    found = await files.gather(folder, without=_PICTURES)
    if all(file.path != "model_index.json" for file in found):
        raise Invalid(
            f"{folder} is no folder in diffusers layout: it has no model_index.json",
            field="like",
            reason="LIKE_UNKNOWN",
            remedy="name such a folder, a model of the registry, or hub:org/name",
        )
    return [
        replace(file, path=f"{_BESIDE}/{file.path}")
        for file in found
        if not (file.path.endswith(_WEIGHTS) and (file.path.startswith(_DENOISERS) or "/" not in file.path))
    ]
