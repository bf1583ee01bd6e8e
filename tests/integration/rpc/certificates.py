"""Authorities and certificates, made by the openssl program."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A certificate and its key, PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates into `folder`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.pair = Pair(certificate=folder / f"{name}.pem", key=_key(folder / f"{name}.key"))
        words = ("-key", str(self.pair.key), "-subj", f"/CN={name}", "-days", "30")
        _openssl("req", "-x509", "-new", *words, "-out", str(self.pair.certificate))

    @property
    def certificate(self) -> Path:
        """What clients trust."""
        return self.pair.certificate

    def sign(self, name: str, *, names: str = "DNS:localhost,IP:127.0.0.1", days: int = 10) -> Pair:
        """A certificate for `names`; one of -1 days ended yesterday."""
        pair = Pair(certificate=self.folder / f"{name}.pem", key=_key(self.folder / f"{name}.key"))
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\n")
        _openssl("req", "-new", "-key", str(pair.key), "-subj", f"/CN={name}", "-out", str(request))
        authority = ("-CA", str(self.pair.certificate), "-CAkey", str(self.pair.key), "-CAcreateserial")
        words = ("-in", str(request), "-days", str(days), "-extfile", str(extensions))
        _openssl("x509", "-req", *words, *authority, "-out", str(pair.certificate))
        return pair


def _key(path: Path) -> Path:
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(path))
    return path


def _openssl(*words: str) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
