"""C2PA: signed last over the final bytes, read by the standard's own reader; certificates that cannot sign are
refused when the service starts."""

import asyncio
import io
import json
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import c2pa
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from marsam_generator import selfmade
from marsam_generator.finishing import Finishing
from marsam_generator.pictures import Form, encode
from marsam_generator.selfmade import self_made
from marsam_generator.settings import GeneratorSettings
from marsam_generator.signing import Files, Signer
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from marsam.core.errors import Invalid, Precondition
from marsam.imaging.inscribed import read
from marsam.imaging.inscription import COMPOSED, DRAWING_LABEL, TRAINED, Inscription

MODELS = {"projects/p/models/base": "sha256:" + "1" * 64}
MAIL = ExtendedKeyUsageOID.EMAIL_PROTECTION
GENERATION = "projects/p/generations/01JD3V0000000000000000000Z"
PIXELS = torch.arange(32 * 48 * 3, dtype=torch.int64).remainder(251).to(torch.uint8).view(32, 48, 3)
FORMS = [Form(), Form(kind="jpeg", quality=90), Form(kind="webp")]


def inscription(**fields: object) -> Inscription:
    request = json.dumps({"prompt": "عالِمة في مختبر", **fields}, ensure_ascii=False)
    return Inscription(request=request, seed=3, models=MODELS)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return self_made(tmp_path_factory.mktemp("cache"))


def verdict(data: bytes, form: Form, *, trusting: Path | None = None) -> dict[str, Any]:
    settings = c2pa.Settings.from_dict(
        {"trust": {"trust_anchors": trusting.read_text()}} if trusting else {"verify": {"remote_manifest_fetch": False}}
    )
    with c2pa.Context(settings) as context, c2pa.Reader(form.media_type, io.BytesIO(data), context=context) as reader:
        return dict(json.loads(reader.json()))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_signed_picture_is_valid_and_any_change_shows(files: Files, form: Form) -> None:
    plain = encode(PIXELS, inscription(), form)
    signed = Signer(files).sign(plain, form.media_type, inscription(), generation=GENERATION, fingerprint="cpu")
    told = verdict(signed, form)
    assert told["validation_state"] == "Valid"
    codes = {one["code"] for one in told["validation_results"]["activeManifest"]["success"]}
    assert {"claimSignature.validated", "assertion.dataHash.match"} <= codes
    assert verdict(signed, form, trusting=files.certificate.with_name("authority.pem"))["validation_state"] == "Trusted"

    manifest = told["manifests"][told["active_manifest"]]
    assert manifest["claim_generator_info"][0]["name"] == "Marsam" and "thumbnail" not in manifest
    stated = {one["label"]: one["data"] for one in manifest["assertions"]}
    (action,) = stated["c2pa.actions.v2"]["actions"]
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", TRAINED)
    assert stated[DRAWING_LABEL] == {"generation": GENERATION, "models": MODELS, "fingerprint": "cpu"}

    # What the picture says of itself, and its pixels, are what they were.
    found = read(signed)
    assert found.signed and found.inscription == read(plain).inscription and not read(plain).signed
    with Image.open(io.BytesIO(signed)) as one, Image.open(io.BytesIO(plain)) as other:
        assert one.tobytes() == other.tobytes()

    written, stated_at = signed.index(b"<Iptc4xmpExt:") + 60, signed.index(GENERATION.encode()) + 9
    for place, code in ((written, "assertion.dataHash.mismatch"), (stated_at, "assertion.hashedURI.mismatch")):
        changed = bytearray(signed)
        changed[place] ^= 1
        told = verdict(bytes(changed), form)
        assert told["validation_state"] == "Invalid"
        assert code in {one["code"] for one in told["validation_status"]}


def test_a_text_added_after_signing_breaks_the_signature(files: Files) -> None:
    plain = encode(PIXELS, inscription(), Form())
    signed = Signer(files).sign(plain, "image/png", inscription(), generation=GENERATION, fingerprint="")
    place = signed.index(b"IEND") - 4
    with_text = io.BytesIO()
    info = PngInfo()
    info.add_itxt("marsam:note", "later")
    Image.new("RGB", (1, 1)).save(with_text, format="PNG", pnginfo=info)
    more = with_text.getvalue()
    start = more.index(b"iTXt") - 4
    chunk = more[start : more.index(b"IDAT") - 4]
    assert verdict(signed[:place] + chunk + signed[place:], Form())["validation_state"] == "Invalid"


def test_a_picture_in_which_another_is_left_says_so(files: Files) -> None:
    begun = inscription(init_image="projects/p/images/" + "0" * 64, strength=0.6)
    data = Signer(files).sign(encode(PIXELS, begun, Form()), "image/png", begun, generation=GENERATION, fingerprint="")
    told = verdict(data, Form())
    (action,) = told["manifests"][told["active_manifest"]]["assertions"][0]["data"]["actions"]
    assert action["digitalSourceType"] == COMPOSED
    assert inscription(init_image="projects/p/images/" + "0" * 64, strength=1).source_type == TRAINED


async def test_many_are_finished_at_once_and_only_the_signed_differ(files: Files) -> None:
    async def finished(finishing: Finishing) -> list[bytes]:
        try:
            return await asyncio.gather(
                *(
                    finishing.finish(PIXELS, inscription(), Form(), generation=GENERATION, fingerprint="")
                    for _ in range(12)
                )
            )
        finally:
            finishing.close()

    assert len(set(await finished(Finishing()))) == 1
    signed = await finished(Finishing(Signer(files)))
    assert len(set(signed)) == 12
    assert {verdict(data, Form())["validation_state"] for data in signed} == {"Valid"}


def test_a_self_made_certificate_is_made_once_and_renewed_before_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = self_made(tmp_path).certificate.read_bytes()
    assert stat.S_IMODE((tmp_path / "c2pa" / "key.pem").stat().st_mode) == 0o600
    assert self_made(tmp_path).certificate.read_bytes() == first
    monkeypatch.setattr(selfmade, "_RENEW", timedelta(days=4000))
    assert self_made(tmp_path).certificate.read_bytes() != first
    assert [path.name for path in tmp_path.iterdir()] == ["c2pa"]


def write(
    folder: Path, key: Any, *, starts: int = -1, days: float = 30, purpose: x509.ObjectIdentifier = MAIL
) -> Files:
    """A certificate of `key` for `purpose`, in force from `starts` days from now."""
    now = datetime.now(UTC)
    authority = ec.generate_private_key(ec.SECP256R1())
    own = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "me")]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "an authority")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=starts))
        .not_valid_after(now + timedelta(days=starts + days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .add_extension(selfmade._usage(False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .sign(authority, hashes.SHA256())
    )
    files = Files(certificate=folder / "chain.pem", key=folder / "key.pem")
    files.certificate.write_bytes(own.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["p384", "rsa", "ed25519"],
)
def test_a_given_certificate_signs_whatever_its_kind(tmp_path: Path, key: Any) -> None:
    signer = Signer(write(tmp_path, key))
    assert signer.subject == "O=me"
    plain = encode(PIXELS, inscription(), Form())
    signed = signer.sign(plain, "image/png", inscription(), generation=GENERATION, fingerprint="")
    assert verdict(signed, Form())["validation_state"] == "Valid"


def test_certificates_that_cannot_sign_are_refused_at_the_start(tmp_path: Path, files: Files) -> None:
    def refused(which: Files) -> Invalid:
        with pytest.raises(Invalid) as caught:
            Signer(which)
        return caught.value

    expired = refused(write(tmp_path, ec.generate_private_key(ec.SECP256R1()), starts=-60))
    assert (expired.reason, expired.field) == ("C2PA_CERTIFICATE_REFUSED", "c2pa_cert_file")
    assert "not valid" in expired.message
    of_a_server = refused(
        write(tmp_path, ec.generate_private_key(ec.SECP256R1()), purpose=ExtendedKeyUsageOID.SERVER_AUTH)
    )
    assert of_a_server.reason == "C2PA_CERTIFICATE_REFUSED"
    other = write(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    assert refused(Files(certificate=files.certificate, key=other.key)).reason == "C2PA_KEY_MISMATCH"
    assert refused(write(tmp_path, ec.generate_private_key(ec.SECP256K1()))).field == "c2pa_key_file"
    assert refused(Files(certificate=other.certificate, key=other.certificate)).reason == "C2PA_FILE_INVALID"
    assert refused(Files(certificate=other.key, key=other.key)).reason in ("C2PA_FILE_INVALID", "C2PA_KEY_MISMATCH")
    missing = refused(Files(certificate=tmp_path / "none.pem", key=other.key))
    assert (missing.reason, missing.field) == ("C2PA_FILE_UNREADABLE", "c2pa_cert_file")


@pytest.mark.slow
def test_nothing_goes_out_unsigned_once_the_certificate_has_ended(tmp_path: Path) -> None:
    signer = Signer(write(tmp_path, ec.generate_private_key(ec.SECP256R1()), days=1 + 3 / 86400))
    ends = x509.load_pem_x509_certificate((tmp_path / "chain.pem").read_bytes()).not_valid_after_utc
    while datetime.now(UTC) <= ends + timedelta(seconds=1):
        time.sleep(0.1)
    with pytest.raises(Precondition) as caught:
        signer.sign(encode(PIXELS, inscription(), Form()), "image/png", inscription(), generation="", fingerprint="")
    assert caught.value.reason == "SIGNING_FAILED"


def test_settings_that_do_not_go_together_are_refused() -> None:
    def settings(**fields: Any) -> GeneratorSettings:
        return GeneratorSettings(store="/s", cache=Path("/c"), **fields)

    assert not settings().signs and settings(c2pa_self_made=True).signs
    assert settings(c2pa_cert_file=Path("a"), c2pa_key_file=Path("b")).signs
    for fields in (
        {"c2pa_cert_file": Path("a")},
        {"c2pa_key_file": Path("b")},
        {"c2pa_cert_file": Path("a"), "c2pa_key_file": Path("b"), "c2pa_self_made": True},
    ):
        with pytest.raises(Invalid) as caught:
            settings(**fields)
        assert caught.value.reason == "C2PA_INCOMPLETE"
