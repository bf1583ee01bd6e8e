"""From a picture back to the request that made it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError

from marsam.api.generator.v1 import generator_pb2
from marsam.core.errors import Corrupt, Invalid
from marsam.imaging.inscribed import read

_OF_THE_CALL = ("parent", "request_id", "preview", "priority", "tenant", "detach")
_FIELDS = generator_pb2.GenerateRequest.DESCRIPTOR.fields_by_name


@dataclass(frozen=True, kw_only=True)
class Remake:
    """`arguments` are those of `Generation.generate`; `models` maps names to the digests that they had; `remarks` say
    what of the picture's words was left out."""

    arguments: Mapping[str, Any]
    models: Mapping[str, str]
    remarks: tuple[str, ...]


def remake(data: bytes) -> Remake:
    """How to make the picture of a file again: that one, with its own seed.

    The file may come from anyone: it is walked within bounds and nothing of it is believed; the service checks the
    request as any other. Raises `Invalid` for a file that says nothing, `Corrupt` for one that cannot be read.
    """
    inscription = read(data).inscription
    if inscription is None:
        raise Invalid(
            "the picture does not say what made it",
            reason="PICTURE_SAYS_NOTHING",
            remedy="programs that send pictures on often strip what is in them: take the file as it was drawn",
        )
    fields = inscription.fields()
    unknown = sorted(key for key in fields if key not in _FIELDS)
    known = {key: value for key, value in fields.items() if key in _FIELDS and key not in _OF_THE_CALL}
    request = generator_pb2.GenerateRequest()
    try:
        ParseDict(known, request)
        arguments = _arguments(request, inscription.seed)
    except (ParseError, ValueError, RecursionError) as error:
        raise Corrupt(
            f"the picture's request cannot be read: {str(error)[:300]}", reason="INSCRIPTION_UNREADABLE"
        ) from error
    remarks = tuple(f"'{key[:60]}' of the picture's request is not known here, and left out" for key in unknown[:8])
    return Remake(arguments=arguments, models=inscription.models, remarks=remarks)


def _arguments(request: generator_pb2.GenerateRequest, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "prompt": request.prompt,
        "model": request.model,
        "adapters": {use.model: use.weight for use in request.adapters},
        "seed": seed,
        "exact": request.reproducibility == generator_pb2.REPRODUCIBILITY_EXACT,
    }
    if request.format:
        found["format"] = generator_pb2.Format.Name(request.format).removeprefix("FORMAT_").lower()
    for name in ("negative_prompt", "scheduler", "init_image", "mask_image"):
        if getattr(request, name):
            found[name] = getattr(request, name)
    for name in ("steps", "guidance", "width", "height", "strength", "quality"):
        if request.HasField(name):
            found[name] = getattr(request, name)
    return found
