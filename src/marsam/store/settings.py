"""How S3 is reached: variables that the services, the runs and the command line share."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from marsam.core.errors import Invalid
from marsam.core.settings import load_settings

PREFIX = "MARSAM_S3_"
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]+\]")


@dataclass(frozen=True, kw_only=True)
class S3Settings:
    """`MARSAM_S3_*` variables: only a store on S3 reads them."""

    s3_endpoint: str = ""
    """http[s]://host[:port] of the S3 server; AWS when empty."""

    s3_region: str = "us-east-1"
    """Region that requests are signed for; servers other than AWS mostly take any."""

    s3_access_key: str = ""
    """Access key, together with the secret key."""

    s3_secret_key: str = field(default="", repr=False)
    """Secret key. Better in a file, or from the machine's role: see `s3_credentials_file`."""

    s3_credentials_file: Path | None = None
    """AWS's own credentials format ([default], aws_access_key_id = …), say from a mounted Secret; read again when it
    changes. Without it and without keys: AWS_* variables, ~/.aws/credentials, web identity, the machine's role."""

    s3_public_endpoint: str = ""
    """http[s]://host[:port] at which clients outside reach the same server; enables links. Nothing needs them."""

    s3_ca_file: Path | None = None
    """Certificates (PEM) to trust for https instead of the public ones."""

    def __post_init__(self) -> None:
        for name in ("s3_endpoint", "s3_public_endpoint"):
            if getattr(self, name):
                object.__setattr__(self, name, _endpoint(getattr(self, name), name))
        if bool(self.s3_access_key) != bool(self.s3_secret_key):
            missing = "s3_secret_key" if self.s3_access_key else "s3_access_key"
            raise Invalid(f"{missing} is not set, but the other key is", field=missing, reason="S3_KEYS",
                          remedy="set both keys, or neither")  # fmt: skip
        if self.s3_access_key and self.s3_credentials_file is not None:
            raise Invalid("s3_access_key and s3_credentials_file are both set", field="s3_credentials_file",
                          reason="S3_KEYS", remedy="keep one of them")  # fmt: skip
        for name in ("s3_credentials_file", "s3_ca_file"):
            path = getattr(self, name)
            if path is not None and not os.access(path, os.R_OK):
                raise Invalid(f"{name}: cannot read {path}", field=name, reason="S3_FILE",
                              remedy="mount it, and let this user read it")  # fmt: skip


def s3_settings(environment: Mapping[str, str]) -> S3Settings:
    """What `MARSAM_S3_*` variables say. Raises Invalid naming the variable that is wrong or unknown."""
    return load_settings(S3Settings, env=s3_variables(environment))


def s3_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that says how S3 is reached; a child program needs it as it is."""
    return {name: value for name, value in environment.items() if name.startswith(PREFIX)}


def _endpoint(text: str, field_name: str) -> str:
    """Check http[s]://host[:port] and return it without a trailing slash."""
    parts = urlsplit(text)
    try:
        good = parts.scheme in ("http", "https") and _HOST.fullmatch(parts.netloc.rsplit("@")[-1].rpartition(":")[0]
                                                                    if parts.port else parts.netloc)  # fmt: skip
    except ValueError:
        good = None
    if not good or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Invalid(f"{field_name} must be http[s]://host[:port], got '{text}'", field=field_name,
                      reason="S3_ENDPOINT", remedy="for example https://minio.example.com:9000")  # fmt: skip
    return text.rstrip("/")
