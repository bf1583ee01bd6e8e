"""What a client shows and whom it trusts: read once from settings, files or the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from marsam.core.errors import Invalid


@dataclass(frozen=True, kw_only=True)
class ClientTls:
    """PEM texts. `ca`: the authorities to trust, None for the well-known ones; certificate and key: ours, where the
    service asks for one. `server_name`: the name to expect in the service's certificate instead of the one dialled."""

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    server_name: str = ""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """The bearer token, and TLS when the services speak it."""

    token: str | None = None
    tls: ClientTls | None = None


def find_credentials(*, env: Mapping[str, str] | None = None) -> Credentials:
    """The credentials that the environment names: MARSAM_TOKEN or MARSAM_TOKEN_FILE; MARSAM_TLS_CA_FILE;
    MARSAM_TLS_CLIENT_CERT_FILE with MARSAM_TLS_CLIENT_KEY_FILE. Raises Invalid that names the variable."""
    found = os.environ if env is None else env

    def path(variable: str) -> Path | None:
        return Path(found[variable]) if found.get(variable) else None

    token = found.get("MARSAM_TOKEN") or None
    if token is not None:
        token = _checked(token, "MARSAM_TOKEN")
    if token is not None and path("MARSAM_TOKEN_FILE"):
        raise Invalid(
            "MARSAM_TOKEN and MARSAM_TOKEN_FILE are both set",
            field="MARSAM_TOKEN_FILE",
            reason="TOKEN_AMBIGUOUS",
            remedy="unset one of them",
        )
    return read_credentials(
        token=token,
        token_file=path("MARSAM_TOKEN_FILE"),
        ca_file=path("MARSAM_TLS_CA_FILE"),
        certificate_file=path("MARSAM_TLS_CLIENT_CERT_FILE"),
        key_file=path("MARSAM_TLS_CLIENT_KEY_FILE"),
    )


def read_credentials(
    *,
    token: str | None = None,
    token_file: Path | None = None,
    ca_file: Path | None = None,
    certificate_file: Path | None = None,
    key_file: Path | None = None,
    server_name: str = "",
) -> Credentials:
    """Credentials from files. Raises Invalid that names the file that cannot be read or holds something else."""
    if token_file is not None:
        token = _checked(_read(token_file, "token").decode("utf-8", "replace"), str(token_file))
    if (certificate_file is None) != (key_file is None):
        raise Invalid(
            "a client's certificate and its key are set together",
            field="tls",
            reason="TLS_INCOMPLETE",
            remedy="set MARSAM_TLS_CLIENT_CERT_FILE and MARSAM_TLS_CLIENT_KEY_FILE",
        )
    tls = None
    if ca_file is not None or certificate_file is not None or server_name:
        tls = ClientTls(
            ca=_pem(ca_file) if ca_file is not None else None,
            certificate=_pem(certificate_file) if certificate_file is not None else None,
            key=_pem(key_file) if key_file is not None else None,
            server_name=server_name,
        )
    return Credentials(token=token, tls=tls)


def _pem(path: Path) -> bytes:
    content = _read(path, "certificate or key")
    if b"-----BEGIN " not in content:
        raise Invalid(
            f"{path} is not PEM",
            field="tls",
            reason="TLS_FILE_INVALID",
            remedy="expected text that begins with -----BEGIN …-----",
        )
    return content


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Invalid(
            f"cannot read the {what} in {path}: {error.strerror}",
            field="credentials",
            reason="CREDENTIALS_UNREADABLE",
            remedy="name a file that you may read",
        ) from error


def _checked(text: str, place: str) -> str:
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        remedy = "expected one word, as 'marsam tokens new' prints it"
        if token.startswith("{"):
            remedy = "these are the services' hashes; " + remedy
        raise Invalid(f"{place} holds no token", field="credentials", reason="TOKEN_MALFORMED", remedy=remedy)
    return token
