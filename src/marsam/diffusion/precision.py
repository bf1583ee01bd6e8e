"""In which types a base's weights are held. Imports no torch."""

from dataclasses import dataclass
from enum import StrEnum

from marsam.core.errors import Invalid


class Precision(StrEnum):
    """The floating-point type that frozen weights are held in and arithmetic runs in. What trains is always fp32; no
    run trains beside fp16, whose gradients would need scaling."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantisation:
    """How the Linear weights of a frozen denoiser are held: `nf4`, 4-bit NormalFloat in blocks of 64, absmax quantised
    again when `double`; or `int8`, 8 bits with an absmax for every output. No run trains on `int8`."""

    kind: str = "nf4"
    double: bool = True

    def __post_init__(self) -> None:
        if self.label() not in QUANTISATIONS:
            raise Invalid(
                f"quantisation must be one of {', '.join(QUANTISATIONS)}, got {self.label()!r}",
                field="quantisation",
                reason="QUANTISATION_UNKNOWN",
            )

    @classmethod
    def of(cls, label: str) -> "Quantisation":
        """The one that is spelt so. Raises `Invalid` (QUANTISATION_UNKNOWN)."""
        return cls(kind=label.removesuffix("+dq"), double=label.endswith("+dq"))

    def label(self) -> str:
        """The spelling used in lineage, one of `QUANTISATIONS`."""
        return f"{self.kind}+dq" if self.double else self.kind


QUANTISATIONS = ("nf4+dq", "nf4", "int8")
"""Their labels; of `nf4+dq` the constants are quantised too."""
