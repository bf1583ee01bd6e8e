"""`marsam provenance`"""

from pathlib import Path
from typing import Annotated, Any

import typer

from marsam.cli import console, exits
from marsam.cli.plain import plain
from marsam.cli.session import Json, guarded, run
from marsam.client import AsyncMarsam, short
from marsam.client.files import read_whole
from marsam.client.provenance import Trace, look
from marsam.core.errors import Corrupt

_SAID = {
    "none": "none",
    "unchecked": "there is one, and it was not checked",
    "invalid": "INVALID",
    "valid": "valid: the file is as it was signed",
    "trusted": "valid, by one whom the authorities of --trust vouch for",
}


def provenance(
    context: typer.Context,
    picture: Annotated[Path, typer.Argument(help="PNG, JPEG or WebP.")],
    trust: Annotated[Path | None, typer.Option(help="Certificates of authorities that sign signers, PEM.")] = None,
    file_only: Annotated[bool, typer.Option("--file-only", help="Ask no service.")] = False,
    as_json: Json = False,
) -> None:
    """Say where a picture comes from: signature, request, models, and what they learnt from."""

    async def locally() -> Trace:
        return look(read_whole(picture, field="picture"), trusting=_authorities(trust))

    async def work(marsam: AsyncMarsam) -> Trace:
        return await marsam.provenance.trace(read_whole(picture, field="picture"), trusting=_authorities(trust))

    trace = guarded(locally, as_json=as_json) if file_only else run(context, work, as_json=as_json)
    if as_json:
        console.print_json(_document(picture, trace))
    else:
        _print(picture, trace, asked=not file_only)
    if trace.signature.state == "invalid":
        raise typer.Exit(exits.code_for(Corrupt("")))


def _authorities(trust: Path | None) -> str:
    return read_whole(trust, field="trust").decode("ascii", "replace") if trust else ""


def _request(trace: Trace) -> dict[str, Any] | None:
    return trace.file.inscription.fields() if trace.file.inscription else None


def _document(picture: Path, trace: Trace) -> dict[str, Any]:
    signature = trace.signature
    inscription = trace.file.inscription
    return {
        "path": str(picture),
        "digest": trace.digest,
        "media_type": trace.file.media_type,
        "signature": {
            "state": signature.state,
            "signer": signature.signer,
            "program": signature.program,
            "source": signature.source,
            "generation": signature.generation,
            "models": dict(signature.models),
            "faults": list(signature.faults),
        },
        "request": _request(trace),
        "seed": inscription.seed if inscription else None,
        "stated_models": dict(inscription.models) if inscription else {},
        "generation": plain(trace.generation) if trace.generation is not None else None,
        "models": [{"name": one.name, "digest": one.digest, "state": one.state} for one in trace.models],
        "lineage": [plain(node) for node in trace.nodes],
        "remarks": list(trace.remarks),
    }


def _print(picture: Path, trace: Trace, *, asked: bool) -> None:
    signature, inscription = trace.signature, trace.file.inscription
    request = _request(trace) or {}
    adapters: Any = request.get("adapters")
    uses = [one for one in adapters if isinstance(one, dict)] if isinstance(adapters, list) else []
    mixed = [f"{short(str(one.get('model')))}={one.get('weight', 0)}" for one in uses]
    recorded = trace.generation.name if trace.generation is not None else "no generation here has this very file"
    facts = [
        ("picture", str(picture)),
        ("digest", trace.digest),
        ("signature", _SAID[signature.state]),
        ("signed by", signature.signer),
        ("with", signature.program),
        ("it came", signature.source),
        *(("fault", fault) for fault in signature.faults),
        ("recorded", recorded if asked else ""),
        ("prompt", str(request.get("prompt", ""))),
        ("model", short(str(request.get("model", "")))),
        ("adapters", ", ".join(mixed)),
        ("seed", str(inscription.seed) if inscription else ""),
        *((key, str(request.get(key, ""))) for key in ("steps", "guidance", "scheduler")),
    ]
    console.print_facts([(name, _one_line(value)) for name, value in facts])
    if inscription is None:
        console.note("the picture does not say what made it")
    for remark in trace.remarks:
        console.note(f"! {_one_line(remark)}")
    for model in trace.models:
        if model.state != "same":
            word = "is another model now" if model.state == "another" else "is not in the registry"
            console.note(f"! {_one_line(model.name)} ({model.digest}) {word}")
    if trace.nodes:
        console.out().print()
        rows = [
            (node.kind, short(node.name), node.summary, ", ".join(map(short, node.parents))) for node in trace.nodes
        ]
        console.print_table(("lineage", "name", "", "from"), rows, nothing="")


def _one_line(text: str) -> str:
    """What anybody may have written, without what would move a terminal's cursor."""
    return "".join(c if c.isprintable() else " " for c in text)
