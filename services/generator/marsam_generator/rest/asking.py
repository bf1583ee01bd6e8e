"""OpenAI's body of `POST /v1/images/generations` as a Generate request. What it does not know is an error, never lost.

https://platform.openai.com/docs/api-reference/images/create; `seed`, `steps`, `guidance`, `negative_prompt` and
`scheduler` are taken beside its fields, and everything else that Generate knows inside the object `marsam`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError

from marsam.api.generator.v1 import generator_pb2
from marsam.client.naming import qualify
from marsam.core.errors import Invalid, Unsupported, did_you_mean

MOST_PARTIAL = 3
QUALITIES = ("auto", "low", "medium", "standard", "high", "hd")
FORMATS = {
    "png": generator_pb2.FORMAT_PNG,
    "jpeg": generator_pb2.FORMAT_JPEG,
    "webp": generator_pb2.FORMAT_WEBP,
}
_SAME = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "n": "count",
    "seed": "seed",
    "steps": "steps",
    "guidance": "guidance",
    "scheduler": "scheduler",
    "output_compression": "quality",
    "user": "tenant",
}
"""OpenAI's name (and our five) → the request's field."""
_OWN = (
    "model", "size", "quality", "output_format", "response_format", "stream", "partial_images", "background",
    "moderation", "marsam",
)  # fmt: skip
_ONLY: Mapping[str, tuple[tuple[str, ...], str]] = {
    "response_format": (("b64_json",), "ask for b64_json; pictures also stay at /v1/generations/{id}/images/{index}"),
    "background": (("auto", "opaque"), "pictures here are opaque"),
    "moderation": (("auto", "low"), "there is no moderation here that could be stricter"),
}
LONGEST_MODEL = 4096
"""Characters of `model`: a base and as many adapters as a request may have, by their full names, take 1,600."""

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
_PARAMS = {field: name for name, field in _SAME.items()} | {
    "format": "output_format",
    "width": "size",
    "height": "size",
    "adapters": "model",
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A body, read. `partial` pictures on the way and `quality` want the base's own number of steps: see `drawing`.
    With `events` the stream has ours between OpenAI's."""

    request: generator_pb2.GenerateRequest
    quality: str
    output_format: str
    stream: bool
    partial: int
    events: bool


def read(body: Mapping[str, Any], *, project: str) -> Asked:
    """Raises `Invalid` with the parameter's name."""
    known = (*_SAME, *_OWN)
    for name in body:
        if name not in known:
            raise Invalid(f"unknown parameter '{name}'", field=name, reason="PARAMETER_UNKNOWN",
                          remedy=did_you_mean(name, known))  # fmt: skip
    given = {name: value for name, value in body.items() if value is not None}
    for name, (allowed, remedy) in _ONLY.items():
        if given.get(name, allowed[0]) not in allowed:
            raise Unsupported(
                f"{name} '{given[name]}' is not built", field=name, reason="PARAMETER_UNSUPPORTED", remedy=remedy
            )
    own = dict(_typed(given, "marsam", dict, {}))
    events = _typed(own, "events", bool, False)
    own.pop("events", None)
    for name in ("parent", "model", *(field for openai, field in _SAME.items() if openai in given)):
        if name in own:
            raise Invalid(f"marsam.{name} is given outside of 'marsam'", field="marsam", reason="PARAMETER_TWICE",
                          remedy="the project is the header OpenAI-Project")  # fmt: skip
    fields = own | {field: given[name] for name, field in _SAME.items() if name in given}
    try:
        request = ParseDict(fields, generator_pb2.GenerateRequest())
    except ParseError as error:
        raise Invalid(
            f"the body does not fit: {error}", reason="PARAMETER_TYPE", field=_named(error, fields)
        ) from error
    request.parent = f"projects/{project}"
    _mix(request, _typed(given, "model", str, ""), project=project)
    _size(request, _typed(given, "size", str, "auto"))
    chosen = _one_of("output_format", _typed(given, "output_format", str, ""), ("", *FORMATS))
    if chosen:
        request.format = FORMATS[chosen]
    stream, partial = _typed(given, "stream", bool, False), _typed(given, "partial_images", int, 0)
    if not 0 <= partial <= MOST_PARTIAL:
        raise Invalid(f"partial_images must be between 0 and {MOST_PARTIAL}, got {partial}", field="partial_images",
                      reason="PARAMETER_OUT_OF_RANGE")  # fmt: skip
    if partial and (not stream or request.HasField("preview")):
        raise Invalid("partial_images are for streams, without marsam.preview", field="partial_images",
                      reason="PARAMETER_UNUSED", remedy="set stream, or leave them out")  # fmt: skip
    quality = _one_of("quality", _typed(given, "quality", str, "auto"), QUALITIES)
    if quality in ("low", "high", "hd") and request.HasField("steps"):
        raise Invalid(f"quality '{quality}' and steps both say how many steps are taken", field="quality",
                      reason="PARAMETER_TWICE", remedy="leave one of them out")  # fmt: skip
    return Asked(
        request=request,
        quality=quality,
        output_format=chosen or _format_name(request.format),
        stream=stream,
        partial=partial,
        events=events,
    )


def param(field: str) -> str:
    """OpenAI's name of a request's field."""
    return _PARAMS.get(re.split(r"[\[.]", field)[0], field)


def _mix(request: generator_pb2.GenerateRequest, text: str, *, project: str) -> None:
    """`base+adapter:0.8+other`: a base, and adapters with their weights, 1 where none is said."""
    if len(text) > LONGEST_MODEL:
        raise Invalid(f"model has more than {LONGEST_MODEL} characters", field="model", reason="MODEL_MALFORMED",
                      remedy="such as base+adapter:0.8")  # fmt: skip
    base, *uses = text.split("+")
    if not base:
        raise Invalid("no model is named", field="model", reason="MODEL_MISSING",
                      remedy="GET /v1/models lists them; adapters follow as in base+adapter:0.8")  # fmt: skip
    request.model = qualify("model", base.strip(), project=project, field="model")
    if uses and request.adapters:
        raise Invalid("adapters stand in 'model' and in 'marsam.adapters'", field="model", reason="PARAMETER_TWICE")
    for use in request.adapters:
        use.model = qualify("model", use.model, project=project, field="marsam.adapters")
    for use_text in uses:
        name, colon, weight = use_text.strip().partition(":")
        try:
            value = float(weight) if colon else 1.0
        except ValueError as error:
            raise Invalid(
                f"the weight of adapter '{name}' must be a number, got '{weight}'",
                field="model",
                reason="MODEL_MALFORMED",
                remedy="such as base+adapter:0.8",
            ) from error
        request.adapters.add(model=qualify("model", name, project=project, field="model"), weight=value)


def _size(request: generator_pb2.GenerateRequest, text: str) -> None:
    if text == "auto":
        return
    found = _SIZE.fullmatch(text)
    if not found:
        raise Invalid(f"size must be 'auto' or like '512x512', got '{text[:40]}'", field="size",
                      reason="SIZE_MALFORMED")  # fmt: skip
    request.width, request.height = int(found[1]), int(found[2])


def _typed(given: Mapping[str, Any], name: str, kind: type[Any], default: Any) -> Any:
    value = given.get(name, default)
    if type(value) is not kind:
        raise Invalid(f"{name} must be of type {kind.__name__}", field=name, reason="PARAMETER_TYPE")
    return value


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise Invalid(f"unknown {name} '{value[:40]}'", field=name, reason="PARAMETER_UNKNOWN",
                      remedy=did_you_mean(value, [one for one in known if one]))  # fmt: skip
    return value


def _format_name(number: int) -> str:
    return next((name for name, value in FORMATS.items() if value == number), "png")


def _named(error: ParseError, fields: Mapping[str, Any]) -> str | None:
    """The parameter that a parse error speaks of."""
    return next((param(name) for name in fields if re.search(rf"\b{re.escape(name)}\b", str(error))), None)
