"""What the dataset service can be told."""

from dataclasses import dataclass

from marsam.core.cores import available_cores
from marsam.core.errors import Invalid
from marsam.imaging.limits import Limits
from marsam.rpc.server import ServerSettings
from marsam_dataset.ingest.imports import LEASE_S


@dataclass(frozen=True, kw_only=True)
class Settings(ServerSettings):
    """`MARSAM_*` variables or a TOML file."""

    store: str
    """Where everything is kept: an absolute folder path or file:// URL."""

    cache: str = ""
    """Accepted for uniformity with the other services; this one reads from the store."""

    decode_workers: int = 0
    """Decoding processes; 0 takes one per available core, at most eight."""

    max_file_bytes: int = Limits.max_bytes
    max_pixels: int = Limits.max_pixels
    max_import_files: int = 100_000

    import_lease_s: float = LEASE_S
    """How long an import stays its instance's own after that one's last sign of life."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decode_workers < 0:
            raise Invalid(f"decode_workers must be ≥ 0, got {self.decode_workers}", field="decode_workers")
        if self.import_lease_s <= 0:
            raise Invalid(f"import_lease_s must be > 0, got {self.import_lease_s}", field="import_lease_s")
        for name in ("max_file_bytes", "max_pixels", "max_import_files"):
            if getattr(self, name) < 1:
                raise Invalid(f"{name} must be ≥ 1, got {getattr(self, name)}", field=name)

    @property
    def workers(self) -> int:
        """How many decoding processes to run."""
        return self.decode_workers or min(8, available_cores())

    @property
    def limits(self) -> Limits:
        """The bounds on one file."""
        return Limits(max_bytes=self.max_file_bytes, max_pixels=self.max_pixels)
