"""Whether a C2PA manifest in a picture is true, and who signed it. Nothing is fetched over the network."""

import importlib
import io
import json
from dataclasses import dataclass
from typing import Any, Literal

from marsam.imaging.inscribed import Inscribed
from marsam.imaging.inscription import DRAWING_LABEL

_UNTRUSTED = "signingCredential.untrusted"


@dataclass(frozen=True, kw_only=True)
class Signature:
    """`none`: there is no manifest. `unchecked`: there is one, and nothing here can check it. `invalid`: something was
    changed, or the certificate is none to sign with, see `faults`. `valid`: the file is as it was signed, by whoever.
    `trusted`: by someone whom a given authority vouches for. What is stated (`generation`, `models`) is empty unless
    the signature is valid.
    """

    state: Literal["none", "unchecked", "invalid", "valid", "trusted"]
    signer: str = ""
    program: str = ""
    source: str = ""
    generation: str = ""
    models: tuple[tuple[str, str], ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the file is as it was signed."""
        return self.state in ("valid", "trusted")


def check(data: bytes, file: Inscribed, *, trusting: str = "") -> Signature:
    """Check the manifest of a file; `trusting` is the certificates of authorities, PEM."""
    if not file.signed:
        return Signature(state="none")
    try:
        c2pa: Any = importlib.import_module("c2pa")
    except ImportError:
        return Signature(state="unchecked", faults=("this needs c2pa-python: pip install 'marsam[provenance]'",))
    settings: dict[str, Any] = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
    if trusting:
        settings["trust"] = {"trust_anchors": trusting}
    try:
        with (
            c2pa.Context(c2pa.Settings.from_dict(settings)) as context,
            c2pa.Reader(file.media_type, io.BytesIO(data), context=context) as reader,
        ):
            return _told(json.loads(reader.json()))
    except c2pa.C2paError as error:
        return Signature(state="invalid", faults=(str(error)[:300],))


def _told(found: dict[str, Any]) -> Signature:
    manifest = found.get("manifests", {}).get(found.get("active_manifest"), {})
    faults = tuple(
        f"{one.get('code')}: {one.get('explanation', '')}"[:300]
        for one in found.get("validation_status", ())
        if one.get("code") != _UNTRUSTED
    )
    state = {"Valid": "valid", "Trusted": "trusted"}.get(found.get("validation_state", ""), "invalid")
    info = manifest.get("signature_info", {})
    names = [str(info[key]) for key in ("common_name", "issuer") if info.get(key)]
    programs = [f"{one.get('name', '')} {one.get('version', '')}" for one in manifest.get("claim_generator_info", ())]
    stated = {one.get("label"): one.get("data") for one in manifest.get("assertions", ())} if state != "invalid" else {}
    drawing = stated.get(DRAWING_LABEL)
    drawing = drawing if isinstance(drawing, dict) else {}
    models = drawing.get("models")
    return Signature(
        state=state,  # type: ignore[arg-type]  # one of the three words above
        signer=", ".join(dict.fromkeys(names)),
        program=programs[0].strip() if programs else "",
        source=_source(stated),
        generation=str(drawing.get("generation", "")),
        models=tuple((str(name), str(digest)) for name, digest in models.items()) if isinstance(models, dict) else (),
        faults=faults,
    )


def _source(stated: dict[Any, Any]) -> str:
    """How the picture came to be, by IPTC's term without its address."""
    actions = stated.get("c2pa.actions.v2")
    for action in actions.get("actions", ()) if isinstance(actions, dict) else ():
        if isinstance(action, dict) and action.get("digitalSourceType"):
            return str(action["digitalSourceType"]).rpartition("/")[2]
    return ""
