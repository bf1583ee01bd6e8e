"""The addresses of the generator's HTTP port, with the scope that each asks for."""

from collections.abc import Sequence
from functools import partial

from marsam.rpc.server import Lifecycle, Page
from marsam.store.blobs import Blobs
from marsam_generator import page
from marsam_generator.bases import Bases
from marsam_generator.rest import saying
from marsam_generator.rest.drawing import Drawing
from marsam_generator.rest.looking import Looking
from marsam_generator.service import GeneratorServicer
from marsam_generator.studio import Studio


def pages(
    *, studio: Studio, servicer: GeneratorServicer, blobs: Blobs, bases: Bases, lifecycle: Lifecycle
) -> Sequence[Page]:
    """The scopes are those of the gRPC methods that do the same."""
    drawing = Drawing(studio=studio, blobs=blobs, bases=bases)
    looking = Looking(servicer=servicer, blobs=blobs, bases=bases, lifecycle=lifecycle)
    read = partial(Page, scope="generations.read", refusal=saying.error_body)
    write = partial(Page, scope="generations.write", refusal=saying.error_body, method="POST")
    return [
        *page.files(),
        write(path="/v1/images/generations", answer=drawing.answer),
        read(path="/v1/models", answer=looking.models),
        read(path="/v1/models/{id}", answer=looking.model),
        read(path="/v1/adapters", answer=looking.adapters),
        read(path="/v1/capabilities", answer=looking.capabilities),
        read(path="/v1/generations", answer=looking.generations),
        read(path="/v1/generations/{id}", answer=looking.generation),
        write(path="/v1/generations/{id}/cancel", answer=looking.cancel),
        read(path="/v1/generations/{id}/images/{index:int}", answer=looking.picture),
    ]
