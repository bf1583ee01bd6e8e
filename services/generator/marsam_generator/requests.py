"""From a Generate request to pictures that can be drawn: every default filled in, every fault named at once."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from marsam.api.generator.v1 import generator_pb2
from marsam.catalog.aliases import resolve as resolve_model
from marsam.catalog.models import Model
from marsam.core.errors import Invalid, MarsamError, Precondition, Violation, unknown_name
from marsam.core.ids import sha256_hex
from marsam.core.names import parse
from marsam.diffusion.buckets import Size
from marsam.diffusion.sampling import Picture, for_base
from marsam.diffusion.schedulers import own_scheduler, schedulers
from marsam.diffusion.spec import BaseFacts
from marsam.imaging.inscription import LARGEST_SEED
from marsam.store.blobs import Blobs
from marsam_generator import forms, remarks, sizes
from marsam_generator.bases import Bases
from marsam_generator.engine.bank import dora_beside_others
from marsam_generator.engine.coder import Start
from marsam_generator.engine.work import Previews
from marsam_generator.engines.contract import Description
from marsam_generator.images import Images
from marsam_generator.pictures import Form

MAX_COUNT = 16
LARGEST_PREVIEW = 256
"""Longest side of a preview in pixels where nothing is said."""
MAX_GUIDANCE = 50.0
STRENGTH = 0.6
"""Of a picture that starts from another: what diffusers' pipelines of flows take; Stable Diffusion's takes 0.8, SDXL's
0.3."""
MASKED_STRENGTH = 1.0
"""Inside a mask: what is there is to go."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A checked request. `resolved` is the request with every default filled in; `pictures` are in order of index."""

    project: str
    resolved: generator_pb2.GenerateRequest
    model: Model
    facts: BaseFacts
    adapters: Sequence[tuple[Model, float]]
    pictures: Sequence[Picture]
    start: Start | None
    warnings: Sequence[str]
    form: Form
    previews: Previews | None = None

    @property
    def base(self) -> str:
        """Name of the base that is drawn with, itself or as it was tuned."""
        return self.model.base or self.model.name

    @property
    def digests(self) -> dict[str, str]:
        """Resource name → digest of every model that takes part."""
        return {one.name: one.digest for one in (self.model, *(adapter for adapter, _ in self.adapters))}

    def with_seed_of(self, name: str) -> "Wanted":
        """The same with the seed that the generation's name implies: whoever draws it again draws the same."""
        resolved = generator_pb2.GenerateRequest()
        resolved.CopyFrom(self.resolved)
        resolved.seed = int(sha256_hex(name.encode())[:8], 16)
        return replace(self, resolved=resolved, pictures=_pictures(resolved, self.facts))


def draws(model: Model) -> bool:
    """Whether a model draws by itself."""
    return model.kind in ("base", "full")


async def check(
    request: generator_pb2.GenerateRequest,
    *,
    blobs: Blobs,
    bases: Bases,
    images: Images,
    engine: Description,
    max_steps: int,
) -> Wanted:
    """Resolve a request for the engine that will draw it. One without a seed has seed 0 until it has a name:
    see `Wanted.with_seed_of`.

    Raises `Invalid` with every fault at once, `Missing` for a model or picture that is not there, `Precondition` for a
    model that does not fit.
    """
    project = parse(request.parent, "project", field="parent").project
    model = await drawable(blobs, request.model)
    facts = await bases.facts(model)
    adapters = []
    for place, use in enumerate(request.adapters):
        adapters.append((await _adapter(blobs, use.model, model, field=f"adapters[{place}].model"), use.weight))
    if len({adapter.digest for adapter, _ in adapters}) != len(adapters):
        raise Invalid("one adapter is named twice", field="adapters", reason="ADAPTER_TWICE", remedy="add the weights")
    acting = [adapter for adapter, weight in adapters if weight != 0]
    for adapter in acting:
        if adapter.params.get("dora") and len(acting) > 1:
            raise dora_beside_others(adapter.name)
    source = await images.source(request, project)
    resolved = _resolve(request, model, facts, max_steps=max_steps, size=source.size if source else None)
    sides = resolved.width, resolved.height
    del resolved.adapters[:]
    resolved.adapters.extend(generator_pb2.AdapterUse(model=one.name, weight=weight) for one, weight in adapters)
    return Wanted(
        project=project,
        resolved=resolved,
        model=model,
        facts=facts,
        adapters=adapters,
        pictures=_pictures(resolved, facts),
        start=await asyncio.to_thread(source.start, *sides) if source else None,
        warnings=[
            *(text for adapter, _ in adapters for text in remarks.of_adapter(adapter, engine)),
            *remarks.of_what_is_not_read(resolved, facts),
            *(source.remarks(*sides) if source else ()),
            *await bases.remarks(model, remarks.texts(resolved, facts)),
        ],
        form=forms.form_of(resolved),
        previews=_previews(resolved),
    )


def _previews(resolved: generator_pb2.GenerateRequest) -> Previews | None:
    if not resolved.HasField("preview"):
        return None
    return Previews(every_steps=resolved.preview.every_steps, max_side=resolved.preview.max_side)


def _resolve(
    request: generator_pb2.GenerateRequest, model: Model, facts: BaseFacts, *, max_steps: int, size: Size | None
) -> generator_pb2.GenerateRequest:
    """The request with its defaults; `size` is that of the picture to start from. Raises one `Invalid` with a violation
    per fault."""
    resolved = generator_pb2.GenerateRequest()
    resolved.CopyFrom(request)
    resolved.model = model.name
    resolved.count = request.count or 1
    resolved.reproducibility = request.reproducibility or generator_pb2.REPRODUCIBILITY_SHARED
    if not request.HasField("steps"):
        resolved.steps = min(facts.default_steps, max_steps)
    if not request.HasField("guidance"):
        resolved.guidance = facts.default_guidance
    width, height = facts.default_side, facts.default_side
    if size and not request.HasField("width") and not request.HasField("height"):
        width, height = sizes.like(size, facts)
    if not request.HasField("width"):
        resolved.width = width
    if not request.HasField("height"):
        resolved.height = height
    if request.init_image and not request.HasField("strength"):
        resolved.strength = MASKED_STRENGTH if request.mask_image else STRENGTH
    if not request.scheduler:
        resolved.scheduler = own_scheduler(facts)
    if not request.HasField("seed"):
        resolved.seed = 0
    if request.HasField("preview") and not request.preview.HasField("max_side"):
        resolved.preview.max_side = LARGEST_PREVIEW
    _raise_faults(
        lambda: _in_range("steps", resolved.steps, 1, max_steps),
        lambda: _in_range("guidance", resolved.guidance, 0.0, MAX_GUIDANCE),
        lambda: _in_range("count", resolved.count, 1, MAX_COUNT),
        lambda: _in_range("seed", resolved.seed, 0, LARGEST_SEED - resolved.count),
        lambda: _known_scheduler(resolved.scheduler, facts),
        lambda: sizes.check(resolved.width, resolved.height, facts),
        lambda: _starts(resolved),
        lambda: forms.complete(resolved),
    )
    return resolved


def _raise_faults(*checks: Callable[[], None]) -> None:
    faults: list[Violation] = []
    remedies: list[str] = []
    for each in checks:
        try:
            each()
        except Invalid as error:
            faults += error.violations
            remedies += [error.remedy] if error.remedy else []
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise Invalid(
            faults[0].message + more,
            field=faults[0].field,
            reason=faults[0].reason,
            remedy="; ".join(dict.fromkeys(remedies)),
            violations=faults,
        )


def _in_range(name: str, value: float, low: float, high: float) -> None:
    # Written so that NaN, which compares false with everything, is refused too.
    if not low <= value <= high:
        raise Invalid(
            f"{name} must be between {low:g} and {high:g}, got {value:g}",
            field=name,
            reason=f"{name.upper()}_OUT_OF_RANGE",
        )


def _known_scheduler(name: str, facts: BaseFacts) -> None:
    known = schedulers(facts)
    if name not in known:
        raise unknown_name("scheduler", name, known, field="scheduler")


def _starts(resolved: generator_pb2.GenerateRequest) -> None:
    for field, asked in (("mask_image", resolved.mask_image), ("strength", resolved.HasField("strength"))):
        if asked and not resolved.init_image:
            raise Invalid(
                f"{field} is for pictures that start from another",
                field=field,
                reason="START_MISSING",
                remedy=f"name the picture to start from as init_image, or leave {field} out",
            )
    # Written so that NaN, which compares false with everything, is refused too.
    if resolved.init_image and not 0.0 < resolved.strength <= 1.0:
        raise Invalid(
            f"strength must be above 0 and at most 1, got {resolved.strength:g}",
            field="strength",
            reason="STRENGTH_OUT_OF_RANGE",
        )


async def _adapter(blobs: Blobs, name: str, model: Model, *, field: str) -> Model:
    try:
        adapter = await resolve_model(blobs, name)
    except MarsamError as error:
        error.field = error.field or field
        raise
    if adapter.kind != "adapter":
        raise Invalid(
            f"{adapter.name} is a {adapter.kind} model, not an adapter",
            field=field,
            reason="NOT_AN_ADAPTER",
            remedy="name it as the request's model" if adapter.kind == "full" else "",
        )
    if adapter.base_digest != model.digest:
        raise Precondition(
            f"{adapter.name} was trained on {adapter.base} ({adapter.base_digest}); "
            f"{model.name} is another model ({model.digest})",
            reason="ADAPTER_OF_ANOTHER_BASE",
            field=field,
            resource=adapter.name,
            remedy=f"draw with {adapter.base}",
        )
    return adapter


async def drawable(blobs: Blobs, name: str) -> Model:
    """The model called so, which draws by itself. Raises `Missing`, `Invalid` for an adapter or a judge."""
    model = await resolve_model(blobs, name)
    if draws(model):
        return model
    remedy = f"name {model.base} as the model, and this one under adapters" if model.kind == "adapter" else ""
    raise Invalid(
        f"{model.name} is {'an' if model.kind == 'adapter' else 'a'} {model.kind}, which draws nothing by itself",
        field="model",
        reason="MODEL_KIND",
        resource=model.name,
        remedy=remedy,
    )


def _pictures(resolved: generator_pb2.GenerateRequest, facts: BaseFacts) -> list[Picture]:
    return [for_base(_picture(resolved, index), facts) for index in range(resolved.count)]


def _picture(resolved: generator_pb2.GenerateRequest, index: int) -> Picture:
    return Picture(
        prompt=resolved.prompt,
        negative=resolved.negative_prompt,
        seed=resolved.seed + index,
        width=resolved.width,
        height=resolved.height,
        steps=resolved.steps,
        guidance=resolved.guidance,
        scheduler=resolved.scheduler,
        strength=resolved.strength if resolved.init_image else 1.0,
    )
