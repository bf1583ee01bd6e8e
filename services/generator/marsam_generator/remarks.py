"""What is worth knowing of a request before it is drawn, beside how its texts are read."""

from marsam.api.generator.v1 import generator_pb2
from marsam.catalog.models import Model
from marsam.diffusion.spec import BaseFacts
from marsam_generator.engines.contract import Description


def texts(resolved: generator_pb2.GenerateRequest, facts: BaseFacts) -> dict[str, str]:
    """The texts that will be read, by what they are called."""
    found = {"prompt": resolved.prompt}
    if resolved.negative_prompt and not of_what_is_not_read(resolved, facts):
        found["negative prompt"] = resolved.negative_prompt
    return found


def of_what_is_not_read(resolved: generator_pb2.GenerateRequest, facts: BaseFacts) -> list[str]:
    """What of a request the base does not look at."""
    if not resolved.negative_prompt:
        return []
    if facts.embedded_guidance:
        return ["negative_prompt has no effect: this base takes guidance as a number and predicts once a step"]
    if resolved.guidance == 1.0:
        return ["negative_prompt has no effect at guidance 1, which is without guidance"]
    return []


def of_adapter(adapter: Model, engine: Description) -> list[str]:
    """Of an adapter that was trained on its base in another form than it is drawn in."""
    recipe = adapter.lineage.quantisation
    if recipe in ("", engine.quantisation):
        return []
    held = f"held as {engine.quantisation}" if engine.quantisation else f"in {engine.precision}"
    return [
        f"{adapter.name} was trained on the base held as {recipe} and is applied to the base "
        f"{held}: it fits errors that are not there, so pictures may differ from its previews"
    ]
