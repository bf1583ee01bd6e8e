"""A certificate for trying out signed pictures: made on this machine, trusted by nobody."""

import os
import secrets
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from marsam_generator.signing import Files

_VALID = timedelta(days=3650)
_RENEW = timedelta(days=30)


def self_made(cache: Path) -> Files:
    """The certificate below the folder `cache`, made when it is not there or soon over; `authority.pem` beside it is
    what to trust for a test. Services that share the folder share it. Blocking.
    """
    folder = cache / "c2pa"
    files = Files(certificate=folder / "certificate.pem", key=folder / "key.pem")
    if not _in_force(files.certificate):
        shutil.rmtree(folder, ignore_errors=True)
        draft = cache / f"c2pa-{secrets.token_hex(8)}"
        draft.mkdir(parents=True, mode=0o700)
        _write(draft)
        try:
            draft.rename(folder)
        except OSError:  # another service was first
            shutil.rmtree(draft)
    return files


def _in_force(certificate: Path) -> bool:
    try:
        ends = x509.load_pem_x509_certificates(certificate.read_bytes())[0].not_valid_after_utc
    except (OSError, ValueError, IndexError):
        return False
    return ends - datetime.now(UTC) > _RENEW


def _write(folder: Path) -> None:
    """Three PEM files. An authority signs the signer, for C2PA accepts no certificate that signed itself."""
    authority_key, own_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("Marsam development authority", authority_key, authority_key, is_authority=True)
    own = _certificate("Marsam development certificate", own_key, authority_key, is_authority=False)
    pem = serialization.Encoding.PEM
    (folder / "authority.pem").write_bytes(authority.public_bytes(pem))
    (folder / "certificate.pem").write_bytes(own.public_bytes(pem) + authority.public_bytes(pem))
    key = own_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with os.fdopen(os.open(folder / "key.pem", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key)


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, authority: ec.EllipticCurvePrivateKey, *, is_authority: bool
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name("Marsam development authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks differ
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .add_extension(_usage(is_authority), critical=True)
    )
    if not is_authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(authority, hashes.SHA256())


def _name(name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


def _usage(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
