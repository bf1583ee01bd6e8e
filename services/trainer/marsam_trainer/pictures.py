"""How the pictures of an order would be cut, said before anything is trained."""

from marsam.catalog.datasets import DatasetVersion
from marsam.diffusion import buckets
from marsam.diffusion.buckets import Picture
from marsam.diffusion.spec import BaseFacts, FamilyFacts
from marsam_trainer.orders import Fault, Order

_NAMED = 20
"""Pictures that a warning names, the worst first; the run's log names more."""


def warnings(order: Order, family: FamilyFacts, facts: BaseFacts, version: DatasetVersion) -> tuple[Fault, ...]:
    """With aspect buckets which sizes there are and how many pictures each has; and those pictures that lose much or
    are enlarged. `order` has no faults."""
    bucketed = bool(order.aspect_buckets)
    sizes = buckets.of(family, facts, order.resolution or facts.default_side, bucketed=bucketed)
    pictures = [
        Picture(item.file_name, buckets.cut(item.width, item.height, sizes))
        for item in version.items
        if item.split == "train"
    ]
    told = [buckets.Remark("PICTURES_BY_SIZE", buckets.summary(pictures), "")] if bucketed else []
    told += buckets.remarks(pictures, smallest=family.min_side, bucketed=bucketed, most=_NAMED)
    return tuple(
        Fault(field="aspect_buckets", reason=remark.reason, message=remark.message, remedy=remark.remedy)
        for remark in told
    )
