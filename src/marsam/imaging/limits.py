"""What a picture may be before it is decoded, and what its decoding may cost."""

from dataclasses import asdict, dataclass
from typing import Any

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on one file. The first group is read from the header; the second bounds the worker that decodes it."""

    max_bytes: int = 50 * MIB
    max_pixels: int = 64_000_000
    max_side: int = 32_768
    max_aspect: float = 10.0
    max_frames: int = 64

    memory_bytes: int = 0
    """Address space of a worker; 0 derives it from `max_pixels`."""
    cpu_s: int = 20
    deadline_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_side", "max_frames", "cpu_s", "deadline_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.max_aspect < 1:
            raise ValueError(f"max_aspect is the longer side over the shorter and must be ≥ 1, got {self.max_aspect}")
        if self.memory_bytes < 0:
            raise ValueError(f"memory_bytes must be ≥ 0, got {self.memory_bytes}")

    def address_space(self) -> int:
        """Bytes a worker may map: the interpreter with its libraries, the file, and the copies that decoding makes.

        A CMYK or RGBA picture is held at four bytes a pixel, at most four times over (source, profile, matte, result).
        """
        return self.memory_bytes or 768 * MIB + 2 * self.max_bytes + 16 * self.max_pixels

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
