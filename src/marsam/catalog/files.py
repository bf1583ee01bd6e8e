"""References to blobs, and the digest of a set of them."""

from collections.abc import Iterable
from dataclasses import dataclass

from marsam.core.errors import Invalid
from marsam.core.ids import digest_hex, digest_of
from marsam.core.paths import check_relative


@dataclass(frozen=True, kw_only=True)
class FileRef:
    """A blob with its place in a folder tree: `path` relative, `digest` 'sha256:…', `size` in bytes."""

    path: str
    digest: str
    size: int
    media_type: str = ""

    def __post_init__(self) -> None:
        check_relative(self.path)
        digest_hex(self.digest)
        if self.size < 0:
            raise Invalid(f"size of '{self.path}' must be ≥ 0, got {self.size}", field="size")


def tree_digest(files: Iterable[FileRef]) -> str:
    """Return the digest of a folder tree: of its sorted lines 'digest  path'. Invalid when a path occurs twice."""
    lines = sorted((file.path, file.digest) for file in files)
    if len({path for path, _ in lines}) != len(lines):
        raise Invalid("a folder tree cannot hold two files of one path", field="files")
    return digest_of("".join(f"{digest}  {path}\n" for path, digest in lines).encode())
