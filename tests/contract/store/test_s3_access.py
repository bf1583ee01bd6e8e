"""Who may come in, and how: keys from a file, narrow rights, TLS, and links for those outside."""

import json
import os
import socket
import time
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest
from hayy.demo.seaweed import Seaweed, prepare, running

from marsam.core.errors import Denied, Invalid, MarsamError, Precondition
from marsam.store.blobs import Blobs
from marsam.store.open import open_store, prove
from tests.contract.store.stores import ALL_STORES, BUCKET
from tests.integration.rpc.certificates import Authority

MINUTE = timedelta(minutes=1)


def asked(url: str, method: Literal["GET", "PUT"] = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    """(status, body) of what anybody gets who has nothing but the link."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body, method=method), timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


@pytest.fixture
def outside(seaweed: Seaweed, tmp_path: Path) -> Blobs:
    """A store that clients outside reach by another name."""
    public = seaweed.endpoint.replace("127.0.0.1", "localhost")
    return open_store(ALL_STORES["s3"](tmp_path), {**seaweed.environment, "MARSAM_S3_PUBLIC_ENDPOINT": public})


async def linked(blobs: Blobs, key: str, method: Literal["GET", "PUT"] = "GET", ttl: timedelta = MINUTE) -> str:
    link = await blobs.link(key, method=method, ttl=ttl)
    assert link is not None
    assert link.startswith("http://localhost:")
    return link


async def test_a_link_gives_one_object_to_whoever_has_it(outside: Blobs) -> None:
    await outside.put("pictures/a", b"the picture")
    await outside.put("pictures/b", b"another")
    link = await linked(outside, "pictures/a")
    assert asked(link) == (200, b"the picture")
    assert asked(link.replace("/pictures/a", "/pictures/b"))[0] == 403
    assert asked(link, "PUT", b"overwritten")[0] == 403
    assert asked(await linked(outside, "pictures/none"))[0] == 404
    assert await outside.get("pictures/a") == b"the picture"


async def test_a_link_takes_one_upload(outside: Blobs) -> None:
    link = await linked(outside, "uploads/x", "PUT")
    assert asked(link, "PUT", b"from outside")[0] == 200
    assert await outside.get("uploads/x") == b"from outside"
    assert asked(link)[0] == 403


async def test_a_link_ends(outside: Blobs) -> None:
    await outside.put("k", b"bytes")
    link = await linked(outside, "k", ttl=timedelta(seconds=1))
    deadline = time.monotonic() + 20
    while (status := asked(link)[0]) == 200 and time.monotonic() < deadline:
        time.sleep(0.3)
    assert status == 403


async def test_without_a_public_endpoint_there_are_no_links(seaweed: Seaweed, tmp_path: Path) -> None:
    blobs = open_store(ALL_STORES["s3"](tmp_path))
    await blobs.put("k", b"bytes")
    assert await blobs.link("k", method="GET", ttl=MINUTE) is None


def keys_file(access: str, secret: str) -> str:
    return f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"


def from_file(server: Seaweed, file: Path) -> dict[str, str]:
    """The server's variables, with its keys in a file."""
    return {"MARSAM_S3_ENDPOINT": server.endpoint, "MARSAM_S3_CREDENTIALS_FILE": str(file)}


async def test_keys_from_a_mounted_secret_are_renewed_under_way(seaweed: Seaweed, tmp_path: Path) -> None:
    # As the kubelet lays a Secret out: a link to a folder, which is exchanged at once for another.
    for folder, secret in (("old", "a-key-of-the-past"), ("new", seaweed.secret_key)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "keys").write_text(keys_file(seaweed.access_key, secret))
    (tmp_path / "data").symlink_to("old")
    blobs = open_store(ALL_STORES["s3"](tmp_path), from_file(seaweed, tmp_path / "data" / "keys"))
    with pytest.raises(Denied) as caught:
        await prove(blobs)
    assert caught.value.reason == "STORE_CREDENTIALS"
    (tmp_path / "next").symlink_to("new")
    os.replace(tmp_path / "next", tmp_path / "data")
    await prove(blobs)
    (tmp_path / "new" / "keys").unlink()
    with pytest.raises(Precondition) as gone:
        await blobs.get("k")
    assert gone.value.reason == "STORE_NO_CREDENTIALS"
    assert "aws_access_key_id" in gone.value.remedy


@pytest.mark.parametrize("text", ["", "[default]\n", "no section", "[other]\naws_access_key_id = a\n", "\xff"])
def test_a_file_without_keys_is_refused_at_once(seaweed: Seaweed, tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(Precondition) as caught:
        open_store(f"s3://{BUCKET}/x", from_file(seaweed, file))
    assert caught.value.reason == "STORE_NO_CREDENTIALS"
    assert str(file) in caught.value.message


def test_a_file_that_is_not_there_is_a_wrong_setting(seaweed: Seaweed, tmp_path: Path) -> None:
    for name in ("MARSAM_S3_CREDENTIALS_FILE", "MARSAM_S3_CA_FILE"):
        with pytest.raises(Invalid) as caught:
            open_store(f"s3://{BUCKET}/x", {"MARSAM_S3_ENDPOINT": seaweed.endpoint, name: str(tmp_path / "no")})
        assert caught.value.reason == "S3_FILE"


@pytest.mark.slow
async def test_one_bucket_to_read_write_and_list_is_all_the_rights_it_needs(tmp_path: Path) -> None:
    server = prepare(tmp_path / "seaweed")
    config = tmp_path / "seaweed" / "s3.json"
    identities = json.loads(config.read_text())
    for name, rights in (("narrow", ("Read", "Write", "List")), ("reader", ("Read", "List"))):
        keys = {"accessKey": name, "secretKey": f"secret-of-{name}"}
        actions = [f"{right}:{BUCKET}" for right in rights]
        identities["identities"].append({"name": name, "credentials": [keys], "actions": actions})
    config.write_text(json.dumps(identities))
    server.start()
    try:
        server.make_bucket(BUCKET)
        server.make_bucket("another")

        def opened(name: str, bucket: str = BUCKET) -> Blobs:
            keys = {"MARSAM_S3_ACCESS_KEY": name, "MARSAM_S3_SECRET_KEY": f"secret-of-{name}"}
            return open_store(f"s3://{bucket}/x", {"MARSAM_S3_ENDPOINT": server.endpoint, **keys})

        narrow = opened("narrow")
        await prove(narrow)
        await narrow.put("a/b", b"bytes")
        assert (await narrow.stat("a/b")).size == 5
        await narrow.delete(["a/b", "a/c"])
        for refused in (opened("reader"), opened("narrow", "another")):
            with pytest.raises(Denied) as caught:
                await prove(refused)
            assert caught.value.reason == "STORE_DENIED"
            assert "get, put, delete and list" in caught.value.remedy
    finally:
        server.kill()


@pytest.mark.slow
async def test_tls_with_an_authority_of_ones_own(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "stranger")
    pair = authority.sign("store", names="IP:127.0.0.1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = (f"-s3.cert.file={pair.certificate}", f"-s3.key.file={pair.key}", f"-s3.port.https={port}")
    with running(tmp_path / "seaweed", *options) as server:
        server.make_bucket(BUCKET)

        def reached(endpoint: str, ca_file: Path | None) -> Blobs:
            found = {**server.environment, "MARSAM_S3_ENDPOINT": endpoint}
            return open_store(f"s3://{BUCKET}/x", found | ({"MARSAM_S3_CA_FILE": str(ca_file)} if ca_file else {}))

        blobs = reached(f"https://127.0.0.1:{port}", authority.certificate)
        await prove(blobs)
        data = os.urandom(1 << 20) * 20  # in parts, both ways
        await blobs.put("large", data)
        assert await blobs.get("large") == data
        for endpoint, ca_file, reason in (
            (f"https://127.0.0.1:{port}", None, "STORE_TLS"),
            (f"https://127.0.0.1:{port}", stranger.certificate, "STORE_TLS"),
            (f"https://localhost:{port}", authority.certificate, "STORE_TLS"),
            (f"http://127.0.0.1:{port}", None, "STORE_NOT_S3"),
        ):
            with pytest.raises(MarsamError) as caught:
                await prove(reached(endpoint, ca_file))
            assert caught.value.reason == reason
            assert "MARSAM_S3_CA_FILE" in caught.value.remedy or reason != "STORE_TLS"
            assert server.secret_key not in str(caught.value)
