"""Aliases: the only names that move. Each is a numbered log, so who pointed it where and when stays known."""

from marsam.catalog.models import AliasEntry, Model
from marsam.catalog.repository import load_model
from marsam.core.clock import Clock
from marsam.core.errors import Conflict, Invalid, Missing, Precondition, did_you_mean
from marsam.core.ids import new_ulid
from marsam.core.names import format_name, parse
from marsam.core.records import dump, load
from marsam.store import keys
from marsam.store.blobs import Blobs, names
from marsam.store.numbered import NumberedLog


async def set_alias(
    blobs: Blobs,
    name: str,
    target: str | None,
    *,
    clock: Clock,
    etag: str | None = None,
    by: str = "",
    note: str = "",
) -> AliasEntry:
    """Point the alias `name` at the model `target` (None takes it away) and return the new entry.

    With `etag` ('' for "must be new") the change happens only if the alias stands as the caller saw it. Raises Missing
    when `target` does not exist, Conflict (ALIAS_MOVED) when somebody else moved the alias.
    """
    parts = parse(name, "alias")
    if target is not None:
        if parse(target, "model", field="target").project != parts.project:
            raise Invalid(f"{name} cannot point into another project", field="target")
        await load_model(blobs, target)
    log = NumberedLog(blobs, keys.alias(parts.project, parts.id))
    head = await log.head()
    current = load(AliasEntry, head[1], what=name) if head else None
    if etag is not None and etag != (current.etag if current else ""):
        raise _moved(name)
    seq = head[0] if head else 0
    entry = AliasEntry(seq=seq + 1, target=target, writer_id=new_ulid(clock), at=clock.now(), by=by, note=note)
    try:
        await log.append(seq, dump(entry))
    except Conflict as error:
        raise _moved(name) from error
    return entry


def _moved(name: str) -> Conflict:
    return Conflict(f"{name} was moved by somebody else", reason="ALIAS_MOVED", resource=name,
                    remedy="look at its history and decide again")  # fmt: skip


async def alias_history(blobs: Blobs, name: str) -> list[AliasEntry]:
    """Return every entry of the alias `name`, oldest first; empty when it never existed."""
    parts = parse(name, "alias")
    log = NumberedLog(blobs, keys.alias(parts.project, parts.id))
    return [load(AliasEntry, data, what=name) for data in await log.read_all()]


async def list_aliases(blobs: Blobs, project: str) -> dict[str, AliasEntry]:
    """Return alias id → current entry, for aliases that point at something."""
    found = {}
    for id_ in await names(blobs, keys.aliases(project), folders=True):
        head = await NumberedLog(blobs, keys.alias(project, id_)).head()
        if head is not None:
            entry = load(AliasEntry, head[1], what=id_)
            if entry.target is not None:
                found[id_] = entry
    return found


async def resolve(blobs: Blobs, ref: str) -> Model:
    """Return the model that `ref`, a model's or an alias's resource name, stands for. Raises Missing."""
    if ref.split("/")[2:3] != ["aliases"]:
        return await load_model(blobs, ref)
    parts = parse(ref, "alias")
    head = await NumberedLog(blobs, keys.alias(parts.project, parts.id)).head()
    target = load(AliasEntry, head[1], what=ref).target if head else None
    if target is None:
        known = list(await list_aliases(blobs, parts.project))
        raise Missing(f"{ref} points at nothing", reason="ALIAS_NOT_FOUND", resource=ref,
                      remedy=did_you_mean(parts.id, known))  # fmt: skip
    return await load_model(blobs, target)


async def delete_model(blobs: Blobs, name: str) -> None:
    """Take a model away for good: its id is never used again; its blobs stay until they are collected.

    Raises Missing, and Precondition (MODEL_HAS_ALIAS) while an alias points at it.
    """
    model = await load_model(blobs, name)
    holders = [id_ for id_, entry in (await list_aliases(blobs, model.project)).items() if entry.target == name]
    if holders:
        raise Precondition(f"{name} is what the alias '{holders[0]}' points at", reason="MODEL_HAS_ALIAS",
                           resource=format_name("alias", model.project, holders[0]),
                           remedy="point the alias elsewhere first")  # fmt: skip
    await blobs.create(keys.tombstone(model.project, "models", model.id), model.digest.encode())
    await blobs.delete([keys.model(model.project, model.id)])
