"""From files to a model in the registry: checked by content, stored by digest, the manifest last."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from marsam.catalog.acceptance import Acceptance
from marsam.catalog.aliases import resolve
from marsam.catalog.files import FileRef
from marsam.catalog.models import Lineage, Model
from marsam.catalog.repository import load_model, save_model
from marsam.core.clock import Clock, format_time, parse_time
from marsam.core.errors import Invalid, Missing
from marsam.diffusion import registry
from marsam.jobs.requests import recall, remember
from marsam.store.blobs import Blobs
from marsam.store.content import put_blob
from marsam.telemetry import Log
from marsam_trainer import layouts, licences
from marsam_trainer.completing import Fetched
from marsam_trainer.import_orders import ImportOrder
from marsam_trainer.layouts import INDEX, Base, Folder, Found
from marsam_trainer.onefile import OneFiles, the_one
from marsam_trainer.reservations import Reservations
from marsam_trainer.stored_headers import denoiser_tensors, encoder_tensors
from marsam_trainer.uploads import Received
from marsam_trainer.weights import MEDIA_TYPES, inspect

_LOG = Log(__name__)
_SCOPE = "import model"
UPLOAD = "upload"
"""The source of what callers send."""


@dataclass(frozen=True, kw_only=True)
class _Made:
    """What is known of a model before anything of it is stored; `files` stores it. `accepted` is what was accepted of
    the models it is made of."""

    found: Found
    licence: str
    accepted: Acceptance | None
    source: str
    files: Callable[[], Awaitable[list[FileRef]]]


class Importer:
    """Takes models in. Nothing of a refused one stays but unreferenced blobs, which are collected."""

    def __init__(self, blobs: Blobs, clock: Clock, reservations: Reservations, one_files: OneFiles) -> None:
        self._blobs = blobs
        self._clock = clock
        self._reservations = reservations
        self._one_files = one_files

    async def known(self, order: ImportOrder, received: Sequence[Received] = ()) -> Model | None:
        """Return the model that this very order made before, whatever has become of what it names; None when none was.

        Asked before anything is checked or fetched. Raises Exists (REQUEST_ID_REUSED), Precondition (MODEL_DELETED).
        """
        at = await recall(
            self._blobs, order.project, scope=_SCOPE, request_id=order.request_id, content=order.content(received)
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
        self,
        order: ImportOrder,
        received: Sequence[Received],
        *,
        source: str,
        scratch: Path,
        by: str,
        fetched: Fetched | None = None,
    ) -> Model:
        """Check the files, store them, publish the model and return it. `by` is who asks for it; `fetched` is what a
        base in one file lacks, where a hub had it.

        The same request id with the same files returns the model that the first call made, for ever. Raises `Invalid`,
        Exists (MODEL_EXISTS, MODEL_ID_RESERVED, REQUEST_ID_REUSED), Precondition (MODEL_DELETED).
        """
        if (known := await self.known(order, received)) is not None:
            return known
        if not received:
            raise Invalid("no file was sent", field="files", reason="NO_FILES", remedy="send the model's files")
        base = await resolve(self._blobs, order.base) if order.base else None
        one = the_one(received) if order.kind == "base" else None
        if one is not None:
            prepared = await self._one_files.prepare(order, received, one, fetched, scratch)
            made = _Made(
                found=prepared.found,
                licence=prepared.licence,
                accepted=prepared.accepted,
                source=prepared.source if source == UPLOAD else f"{source}: {prepared.source}",
                files=lambda: self._one_files.make(prepared),
            )
        else:
            made = await self._folder(order, received, base, source, scratch)
            if order.like:
                raise Invalid(
                    "what was sent is no checkpoint in one .safetensors file, and needs no other base",
                    field="header.like",
                    reason="LIKE_UNUSED",
                    remedy="send that file alone, or leave like out",
                )
        self._accepted(order, made, by=by, at=self._clock.now)
        create_time = format_time(self._clock.now())
        if order.request_id:
            # The time tells this order's model from another's under the same id, and lets an order that was cut off
            # make the same model again.
            create_time, _ = await remember(
                self._blobs,
                order.project,
                scope=_SCOPE,
                request_id=order.request_id,
                content=order.content(received),
                result=create_time,
                clock=self._clock,
            )
        files = await made.files()
        model = Model(
            name=order.name,
            kind=order.kind,
            create_time=parse_time(create_time),
            files=tuple(sorted(files, key=lambda file: file.path)),
            family=made.found.family,
            method=made.found.method,
            base=base.name if base else None,
            base_digest=base.digest if base else None,
            display_name=order.display_name,
            params={**made.found.params, **({"distilled": True} if order.distilled else {})},
            lineage=Lineage(source=made.source),
            licence=made.licence,
            accepted=self._accepted(order, made, by=by, at=lambda: parse_time(create_time)),
            labels=order.labels,
        )
        await self._reservations.take(order.project, order.model_id, holder=order.name)
        await save_model(self._blobs, model)
        _LOG.info("model.imported", model=model.name, kind=model.kind, family=model.family, bytes=model.size)
        return model

    async def check_licence(self, order: ImportOrder, licence: str, *, by: str) -> None:
        """Raise what `take` would raise of the licence, where that is known before the rest.

        Raises Invalid (LICENCE_OTHER, LICENCE_NOT_ACCEPTED).
        """
        if licence:
            made_of = order.base or (order.like if order.like.startswith("projects/") else "")
            base = await resolve(self._blobs, made_of) if made_of else None
            licences.accepted(
                licence,
                given=order.accept_licence,
                known=base.accepted if base is not None else None,
                by=by,
                at=self._clock.now,
                field="header.accept_licence",
            )

    def _accepted(self, order: ImportOrder, made: "_Made", *, by: str, at: Callable[[], datetime]) -> Acceptance | None:
        return licences.accepted(
            made.licence, given=order.accept_licence, known=made.accepted, by=by, at=at, field="header.accept_licence"
        )

    async def _folder(
        self, order: ImportOrder, received: Sequence[Received], base: Model | None, source: str, scratch: Path
    ) -> "_Made":
        folder = await asyncio.to_thread(_inspect, received)
        found = await self._classify(order, folder, base, scratch)
        if order.kind == "full" and base is not None:
            _refuse_other_parts(received, base)
        index = folder.json(INDEX) if INDEX in folder.files else None
        licence = await asyncio.to_thread(_licence, order, folder.files, index)

        async def files() -> list[FileRef]:
            stored = await self._store(order, found.rewrite or folder.files)
            if order.kind == "full" and base is not None:
                part = registry.family_facts(found.family).denoiser_folder
                stored += [file for file in base.files if file.path.split("/")[0] != part]
            return stored

        return _Made(
            found=found,
            licence=licence or (base.licence if base else ""),
            accepted=base.accepted if base is not None else None,
            source=source,
            files=files,
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
        return Base(
            family=base.family,
            part=part,
            denoiser=await denoiser_tensors(self._blobs, base),
            encoders=await encoder_tensors(self._blobs, base),
        )

    async def _store(self, order: ImportOrder, files: Mapping[str, Path]) -> list[FileRef]:
        stored = []
        for path, file in sorted(files.items()):
            digested = await put_blob(self._blobs, order.project, file)
            media_type = MEDIA_TYPES[await asyncio.to_thread(inspect, file, name=path)]
            stored.append(FileRef(path=path, digest=digested.digest, size=digested.size, media_type=media_type))
        return stored


def _licence(order: ImportOrder, files: Mapping[str, Path], index: Mapping[str, Any] | None) -> str:
    """What the caller says of the licence, or the folder. Blocking."""
    return licences.of_folder(order.licence, licences.stated(files, index), field="header.licence")


def _refuse_other_parts(received: Sequence[Received], base: Model) -> None:
    """Raise for a pipeline whose text encoders or image coder are not its base's: only its denoiser would be taken."""
    facts, own = registry.family_facts(base.family), {file.digest for file in base.files}
    folders = {*facts.text_folders, *facts.image_folders}
    other = [
        entry.path
        for entry in received
        if entry.path.split("/")[0] in folders and entry.path.endswith(".safetensors") and entry.digest not in own
    ]
    if other:
        raise Invalid(
            f"{other[0]} is not what {base.name} has there, and of a model of kind full the denoiser alone is taken",
            field="files",
            reason="MODEL_PARTS",
            remedy=f"import the pipeline as a base, or send its {facts.denoiser_folder} folder alone",
        )


def _inspect(received: Sequence[Received]) -> Folder:
    """Look into every file; refuses all that a model may not hold. Blocking."""
    contents = {entry.path: inspect(entry.file, name=entry.path) for entry in received}
    return Folder(files={entry.path: entry.file for entry in received}, contents=contents)
