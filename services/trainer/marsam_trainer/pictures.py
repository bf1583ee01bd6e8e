"""How the pictures of an order would be cut, and which of them are masked: said before anything is trained."""

from marsam.catalog.datasets import DatasetVersion
from marsam.catalog.runs import RunSpec
from marsam.diffusion import buckets, registry
from marsam.diffusion.buckets import Picture, Remark
from marsam.diffusion.spec import BaseFacts
from marsam_trainer.orders import Fault, Order

_NAMED = 20
"""Pictures that a warning names, the worst first; the run's log names more."""


def faults(order: Order, version: DatasetVersion | None) -> list[Fault]:
    """Masks that are asked for and not there, and a floor for none."""
    if not order.masked_loss:
        if order.masked_loss_floor is None:
            return []
        message = "a floor is given for what masks leave out, but masks are not asked for"
        return [Fault(field="masked_loss_floor", reason="UNMASKED", message=message, remedy="set masked_loss")]
    if version is None or any(item.mask for item in version.items if item.split == "train"):
        return []
    return [
        Fault(
            field="masked_loss",
            reason="DATASET_UNMASKED",
            message=f"no picture in the train split of {version.name} has a mask",
            remedy="import cat-masklabel.png beside cat.png, white where it counts, and commit another version",
        )
    ]


def warnings(
    spec: RunSpec, facts: BaseFacts, version: DatasetVersion, apart: DatasetVersion | None
) -> tuple[Fault, ...]:
    """Of a version and the one for regularisation: with aspect buckets which sizes there are and how many pictures each
    has; those pictures that lose much or are enlarged; and those without a mask, where masks count."""
    bare = [item.file_name for item in version.items if item.split == "train" and item.mask is None]
    unmasked = (_unmasked(bare),) if spec.masked_loss and bare else ()
    others = _cuts(spec, facts, apart, which=f"{apart.name}: ") if apart is not None else ()
    return (*unmasked, *_cuts(spec, facts, version), *others)


def _cuts(spec: RunSpec, facts: BaseFacts, version: DatasetVersion, *, which: str = "") -> tuple[Fault, ...]:
    family, bucketed = registry.family_facts(facts.family), spec.aspect_buckets
    sizes = buckets.of(family, facts, spec.resolution, bucketed=bucketed)
    items = [item for item in version.items if item.split == "train"]
    pictures = [Picture(item.file_name, buckets.cut(item.width, item.height, sizes)) for item in items]
    told = buckets.remarks(pictures, smallest=family.min_side, bucketed=bucketed, most=_NAMED)
    if bucketed:
        told.insert(0, Remark("PICTURES_BY_SIZE", buckets.summary(pictures, batch_size=spec.step_size), ""))
    return tuple(
        Fault(field="aspect_buckets", reason=one.reason, message=f"{which}{one.message}", remedy=one.remedy)
        for one in told
    )


def _unmasked(names: list[str]) -> Fault:
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return Fault(
        field="masked_loss",
        reason="PICTURES_UNMASKED",
        message=f"pictures without a mask count as a whole: {', '.join(names[:_NAMED])}{rest}",
    )
