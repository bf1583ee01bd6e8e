"""From files to a model in the registry: checked by content, stored by digest, the manifest last."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from marsam.catalog.acceptance import Acceptance
from marsam.catalog.aliases import resolve
from marsam.catalog.files import FileRef
from marsam.catalog.models import Lineage, Model, ModelKind
from marsam.catalog.repository import load_model, save_model
from marsam.core.clock import Clock, format_time, parse_time
from marsam.core.errors import Invalid, Missing
from marsam.core.ids import check_slug
from marsam.core.names import format_name
from marsam.core.records import canonical, to_plain
from marsam.diffusion import registry
from marsam.jobs.requests import recall, remember
from marsam.store.blobs import Blobs
from marsam.store.content import put_blob
from marsam.telemetry import Log
from marsam_trainer import layouts, licences
from marsam_trainer.layouts import INDEX, Base, Folder, Found
from marsam_trainer.reservations import Reservations
from marsam_trainer.stored_headers import denoiser_tensors
from marsam_trainer.uploads import Received
from marsam_trainer.weights import MEDIA_TYPES, inspect

_LOG = Log(__name__)
_SCOPE = "import model"


@dataclass(frozen=True, kw_only=True)
class ImportOrder:
    """What a caller says of the files they send. `family` and `base` may be empty where the content tells."""

    project: str
    model_id: str
    kind: ModelKind
    family: str = ""
    base: str = ""
    licence: str = ""
    accept_licence: str = ""
    display_name: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    request_id: str = ""
    ref: str = ""

    def __post_init__(self) -> None:
        check_slug(self.model_id, field="header.model_id")
        if self.kind in ("adapter", "full") and not self.base:
            raise Invalid(
                f"a model of kind {self.kind} needs the base it belongs to",
                field="header.base",
                reason="BASE_REQUIRED",
                remedy=f"projects/{self.project}/models/…",
            )
        if self.family and self.kind != "judge":
            registry.family_facts(self.family)

    @property
    def name(self) -> str:
        """The resource name of the model to be."""
        return format_name("model", self.project, self.model_id)


class Importer:
    """Takes models in. Nothing of a refused one stays but unreferenced blobs, which are collected."""

    def __init__(self, blobs: Blobs, clock: Clock, reservations: Reservations) -> None:
        self._blobs = blobs
        self._clock = clock
        self._reservations = reservations

    async def known(self, order: ImportOrder, received: Sequence[Received] = ()) -> Model | None:
        """Return the model that this very order made before, whatever has become of what it names; None when none was.

        Asked before anything is checked or fetched. Raises Exists (REQUEST_ID_REUSED), Precondition (MODEL_DELETED).
        """
        at = await recall(
            self._blobs, order.project, scope=_SCOPE, request_id=order.request_id, content=_content(order, received)
        )
        if at is None:
            return None
        try:
            model = await load_model(self._blobs, order.name)
        except Missing:
            await self._reservations.check(order.project, order.model_id, holder=order.name)  # says if it was deleted
            return None
        return model if format_time(model.create_time) == at else None

    async def take(
        self, order: ImportOrder, received: Sequence[Received], *, source: str, scratch: Path, by: str
    ) -> Model:
        """Check the files, store them, publish the model and return it. `by` is who asks for it.

        The same request id with the same files returns the model that the first call made, for ever. Raises `Invalid`,
        Exists (MODEL_EXISTS, MODEL_ID_RESERVED, REQUEST_ID_REUSED), Precondition (MODEL_DELETED).
        """
        if (known := await self.known(order, received)) is not None:
            return known
        if not received:
            raise Invalid("no file was sent", field="files", reason="NO_FILES", remedy="send the model's files")
        base = await resolve(self._blobs, order.base) if order.base else None
        folder = await asyncio.to_thread(_inspect, received)
        found = await self._classify(order, folder, base, scratch)
        index = folder.json(INDEX) if INDEX in folder.files else None
        licence = await asyncio.to_thread(_licence, order, folder.files, index)
        licence = licence or (base.licence if base else "")
        self._accepted(order, licence, base, by=by, at=self._clock.now)
        create_time = format_time(self._clock.now())
        if order.request_id:
            # The time tells this order's model from another's under the same id, and lets an order that was cut off
            # make the same model again.
            create_time, _ = await remember(
                self._blobs,
                order.project,
                scope=_SCOPE,
                request_id=order.request_id,
                content=_content(order, received),
                result=create_time,
                clock=self._clock,
            )
        files = await self._store(order, found.rewrite or folder.files)
        if order.kind == "full" and base is not None:
            part = registry.family_facts(found.family).denoiser_folder
            files += [file for file in base.files if file.path.split("/")[0] != part]
        model = Model(
            name=order.name,
            kind=order.kind,
            create_time=parse_time(create_time),
            files=tuple(sorted(files, key=lambda file: file.path)),
            family=found.family,
            method=found.method,
            base=base.name if base else None,
            base_digest=base.digest if base else None,
            display_name=order.display_name,
            params=found.params,
            lineage=Lineage(source=source),
            licence=licence,
            accepted=self._accepted(order, licence, base, by=by, at=lambda: parse_time(create_time)),
            labels=order.labels,
        )
        await self._reservations.take(order.project, order.model_id, holder=order.name)
        await save_model(self._blobs, model)
        _LOG.info("model.imported", model=model.name, kind=model.kind, family=model.family, bytes=model.size)
        return model

    async def check_licence(self, order: ImportOrder, files: Mapping[str, Path], *, by: str) -> None:
        """Raise what `take` would raise of the licence, where a folder's few files about it are there before the rest.

        Raises Invalid (LICENCE_CONTRADICTED, LICENCE_OTHER, LICENCE_NOT_ACCEPTED).
        """
        licence = await asyncio.to_thread(_licence, order, files, None)
        if licence:
            base = await resolve(self._blobs, order.base) if order.base else None
            self._accepted(order, licence, base, by=by, at=self._clock.now)

    def _accepted(
        self, order: ImportOrder, licence: str, base: Model | None, *, by: str, at: Callable[[], datetime]
    ) -> Acceptance | None:
        return licences.accepted(
            licence,
            given=order.accept_licence,
            known=base.accepted if base is not None else None,
            by=by,
            at=at,
            field="header.accept_licence",
        )

    async def _classify(self, order: ImportOrder, folder: Folder, base: Model | None, scratch: Path) -> Found:
        match order.kind:
            case "base":
                return await asyncio.to_thread(layouts.whole, folder, family=order.family)
            case "judge":
                return layouts.judge(folder)
            case "adapter":
                known = await self._base(order, base)
                return await asyncio.to_thread(layouts.adapter, folder, base=known, scratch=scratch)
            case "full":
                known = await self._base(order, base)
                return await asyncio.to_thread(layouts.full, folder, base=known)

    async def _base(self, order: ImportOrder, base: Model | None) -> Base:
        if base is None or base.kind not in ("base", "full"):
            raise Invalid(
                f"{order.base} is of kind {base.kind if base else 'none'}, not a base",
                field="header.base",
                reason="BASE_KIND",
            )
        if base.project != order.project:
            raise Invalid(f"{order.base} is in another project", field="header.base", reason="OTHER_PROJECT")
        if order.family and order.family != base.family:
            raise Invalid(
                f"{base.name} is of family {base.family}, not {order.family}",
                field="header.family",
                reason="FAMILY_MISMATCH",
            )
        part = registry.family_facts(base.family).denoiser_folder
        return Base(family=base.family, part=part, denoiser=await denoiser_tensors(self._blobs, base))

    async def _store(self, order: ImportOrder, files: Mapping[str, Path]) -> list[FileRef]:
        stored = []
        for path, file in sorted(files.items()):
            digested = await put_blob(self._blobs, order.project, file)
            media_type = MEDIA_TYPES[await asyncio.to_thread(inspect, file, name=path)]
            stored.append(FileRef(path=path, digest=digested.digest, size=digested.size, media_type=media_type))
        return stored


def _content(order: ImportOrder, received: Sequence[Received]) -> bytes:
    """What is asked, as a request id is compared by: files where the caller sent them, not where a ref led to them."""
    sent = [] if order.ref else [[entry.path, entry.digest] for entry in received]
    plain = to_plain(order)
    if not order.accept_licence:  # came to orders later: one from before is the same
        del plain["accept_licence"]
    return canonical([plain, sent])


def _licence(order: ImportOrder, files: Mapping[str, Path], index: Mapping[str, Any] | None) -> str:
    """What the caller says of the licence, or the folder. Blocking."""
    return licences.of_folder(order.licence, licences.stated(files, index), field="header.licence")


def _inspect(received: Sequence[Received]) -> Folder:
    """Look into every file; refuses all that a model may not hold. Blocking."""
    contents = {entry.path: inspect(entry.file, name=entry.path) for entry in received}
    return Folder(files={entry.path: entry.file for entry in received}, contents=contents)
