"""C2PA manifests (https://c2pa.org/specifications/): who drew a picture and with what, signed over its final bytes."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from PIL import Image

from marsam.core.errors import Invalid, Precondition
from marsam.core.settings import read_pem
from marsam.imaging.inscription import DRAWING_LABEL, Inscription

_UNREADABLE = "C2PA_FILE_UNREADABLE"
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
# Nothing is fetched, neither now nor when a manifest is read; a thumbnail would be a second picture in every file.
_SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False},
}


@dataclass(frozen=True, kw_only=True)
class Files:
    """PEM files: the chain with the signer's own certificate first, and its key, not encrypted."""

    certificate: Path
    key: Path


class Signer:
    """Signs with one certificate; may be used by several threads at once."""

    def __init__(self, files: Files) -> None:
        """Read and try the certificate. Raises `Invalid` that names the file and its fault."""
        self._chain = read_pem(files.certificate, "c2pa_cert_file", reason=_UNREADABLE).decode("ascii", "replace")
        private = _private(files.key, read_pem(files.key, "c2pa_key_file", reason=_UNREADABLE))
        self._alg = _algorithm(private, files.key)
        self._key = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        self.subject = _subject(files.certificate, self._chain, private)
        self._prove(files.certificate)

    def sign(
        self, data: bytes, media_type: str, inscription: Inscription, *, generation: str, fingerprint: str
    ) -> bytes:
        """The file with a manifest, which has no place for a change of a single byte afterwards. Each signing has other
        bytes. Blocking. Raises `Precondition` (SIGNING_FAILED), as when the certificate has ended meanwhile."""
        try:
            return self._sign(data, media_type, _manifest(inscription, generation, fingerprint))
        except c2pa.C2paError as error:
            raise Precondition(
                f"the picture could not be signed: {error}",
                reason="SIGNING_FAILED",
                remedy="look at the certificate of MARSAM_C2PA_CERT_FILE: has it expired?",
            ) from error

    def _sign(self, data: bytes, media_type: str, manifest: Mapping[str, Any]) -> bytes:
        info = c2pa.C2paSignerInfo(self._alg, self._chain.encode(), self._key.encode(), None)
        out = io.BytesIO()
        with (
            c2pa.Context(c2pa.Settings.from_dict(_SETTINGS)) as context,
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(manifest, context) as builder,
        ):
            builder.sign(signer, media_type, io.BytesIO(data), out)
        return out.getvalue()

    def _prove(self, certificate: Path) -> None:
        """Sign a dot and read it as anybody would: what is wrong with the certificate then, is now."""
        dot = io.BytesIO()
        Image.new("RGB", (1, 1)).save(dot, format="PNG")
        nothing = Inscription(request="{}", seed=0, models={})
        try:
            signed = self._sign(dot.getvalue(), "image/png", _manifest(nothing, "", ""))
            with (
                c2pa.Context(c2pa.Settings.from_dict(_SETTINGS)) as context,
                c2pa.Reader("image/png", io.BytesIO(signed), context=context) as reader,
            ):
                failures = (reader.get_validation_results() or {})["activeManifest"]["failure"]
        except c2pa.C2paError as error:
            raise _refused(certificate, str(error)) from error
        wrong = [one for one in failures if one["code"] != "signingCredential.untrusted"]
        if wrong:
            raise _refused(certificate, "; ".join(f"{one['code']} ({one['explanation']})" for one in wrong))


def _manifest(inscription: Inscription, generation: str, fingerprint: str) -> dict[str, Any]:
    program = {"name": "Marsam", "version": metadata.version("marsam")}
    created = {
        "action": "c2pa.created",
        "digitalSourceType": inscription.source_type,
        "softwareAgent": program,
    }
    drawing = {"generation": generation, "models": dict(inscription.models), "fingerprint": fingerprint}
    return {
        "claim_generator_info": [program],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": DRAWING_LABEL, "data": drawing},
        ],
    }


def _private(path: Path, pem: bytes) -> Any:
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise Invalid(
            f"{path} holds no private key in PEM form, or an encrypted one",
            field="c2pa_key_file",
            reason="C2PA_FILE_INVALID",
        ) from error


def _algorithm(key: Any, path: Path) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise Invalid(
        f"{path} holds a key of a kind that C2PA does not know",
        field="c2pa_key_file",
        reason="C2PA_FILE_INVALID",
        remedy="C2PA signs with P-256, P-384, P-521, RSA (from 2,048 bits) and Ed25519",
    )


def _subject(path: Path, chain: str, key: Any) -> str:
    try:
        own = x509.load_pem_x509_certificates(chain.encode())[0]
    except (ValueError, IndexError) as error:
        raise Invalid(
            f"{path} holds no certificate in PEM form", field="c2pa_cert_file", reason="C2PA_FILE_INVALID"
        ) from error
    if own.public_key() != key.public_key():
        raise Invalid(
            f"the key is not that of the first certificate in {path}",
            field="c2pa_key_file",
            reason="C2PA_KEY_MISMATCH",
            remedy="the signer's own certificate comes first in the chain",
        )
    return str(own.subject.rfc4514_string())


def _refused(path: Path, why: str) -> Invalid:
    return Invalid(
        f"the certificate in {path} cannot sign pictures: {why}",
        field="c2pa_cert_file",
        reason="C2PA_CERTIFICATE_REFUSED",
        remedy="C2PA asks for a certificate in force, for e-mail protection or document signing",
    )
