"""What a request says of the file that a picture becomes."""

from marsam.api.generator.v1 import generator_pb2
from marsam.core.errors import Invalid, unknown_name
from marsam_generator.pictures import QUALITY, Form

_FORMS: dict[int, Form] = {
    generator_pb2.FORMAT_PNG: Form(kind="png"),
    generator_pb2.FORMAT_JPEG: Form(kind="jpeg", quality=QUALITY),
    generator_pb2.FORMAT_WEBP: Form(kind="webp"),
}


def complete(request: generator_pb2.GenerateRequest) -> None:
    """Fill in what is left out. Raises `Invalid`."""
    request.format = request.format or generator_pb2.FORMAT_PNG
    if request.format not in _FORMS:
        raise unknown_name("format", str(request.format), (form.kind for form in _FORMS.values()), field="format")
    own = _FORMS[request.format]
    if own.kind == "png" and request.HasField("quality"):
        raise Invalid(
            "PNG loses nothing, so it has no quality",
            field="quality",
            reason="QUALITY_OF_PNG",
            remedy="leave it out, or ask for JPEG or WebP",
        )
    if own.quality is not None and not request.HasField("quality"):
        request.quality = own.quality


def form_of(resolved: generator_pb2.GenerateRequest) -> Form:
    """The form of a request that is complete."""
    return Form(kind=_FORMS[resolved.format].kind, quality=resolved.quality if resolved.HasField("quality") else None)
