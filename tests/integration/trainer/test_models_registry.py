"""The registry over the wire: imports checked by content, exports, aliases, deletion, lineage."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from marsam.api.model.v1 import model_pb2
from marsam.api.trainer.v1 import trainer_pb2
from marsam.catalog.generations import GenerationRecord, Timings
from marsam.core.errors import Conflict, Exists, Missing, Precondition
from marsam.core.ids import digest_of, new_ulid
from marsam.core.records import dump
from marsam.core.tokens import hash_of, new_token
from marsam.rpc.wire import error_of
from marsam.store import keys
from marsam.store.open import open_store
from tests.integration.trainer.harness import (
    BASE,
    LAYER,
    OTHERS,
    PARENT,
    VERSION,
    Service,
    base_files,
    place_base,
    place_version,
)
from tests.integration.trainer.samples import CONFIG, PEFT, A, B, adapter_files, exported, header, refused

pytestmark = pytest.mark.slow


async def test_a_base_goes_in_and_comes_out_byte_for_byte(service: Service) -> None:
    big = base_files() | {"unet/extra.safetensors": save_safetensors({"x": np.arange(300_000, dtype=np.float32)})}
    model = await service.send(header("base", "mine", licence="MIT", display_name="Mine", labels={"a": "b"}), big)
    assert model.name == "projects/default/models/mine"
    assert (model.family, model.licence, model.display_name, dict(model.labels)) == ("sd1", "MIT", "Mine", {"a": "b"})
    assert {file.path: file.digest for file in model.files} == {path: digest_of(data) for path, data in big.items()}
    assert dict(model.params) == {"objective": "epsilon", "default_side": 64.0}
    kinds = {file.path: file.media_type for file in model.files}
    assert kinds["unet/diffusion_pytorch_model.safetensors"] == "application/vnd.safetensors"
    assert kinds["tokenizer/merges.txt"].startswith("text/plain")
    for dialect in ("", "diffusers"):
        assert await exported(service, model.name, dialect) == big
    got = (await service.models.GetModel(model_pb2.GetModelRequest(name=model.name))).model
    assert got == model
    assert not list((service.cache / "incoming").iterdir())


async def test_one_request_id_imports_once(service: Service) -> None:
    head = header("adapter", "one", base=BASE, request_id="r")
    first = await service.send(head, adapter_files())
    assert await service.send(head, adapter_files()) == first
    other = adapter_files(CONFIG | {"lora_alpha": 2})
    assert (await refused(service, head, other)).reason == "REQUEST_ID_REUSED"
    error = await refused(service, header("adapter", "one", base=BASE), adapter_files())
    assert isinstance(error, Exists)
    assert error.reason == "MODEL_EXISTS"


async def test_an_import_said_again_is_answered_when_what_it_named_is_gone(service: Service) -> None:
    await service.send(header("base", "brief"), base_files())
    head = header("adapter", "one", base=f"{PARENT}/models/brief", request_id="r")
    first = await service.send(head, adapter_files())
    blobs = open_store(str(service.store))
    await blobs.delete([keys.model("default", "brief")])
    assert await service.send(head, adapter_files()) == first
    await service.models.DeleteModel(model_pb2.DeleteModelRequest(name=first.name))
    assert (await refused(service, head, adapter_files())).reason == "MODEL_DELETED"


async def test_an_adapter_in_pefts_layout(service: Service) -> None:
    model = await service.send(header("adapter", base=BASE), adapter_files())
    assert (model.family, model.method, model.base, model.licence) == ("sd1", "lora", BASE, "Apache-2.0")
    assert dict(model.params) == {"rank": 2.0, "alpha": 4.0, "rank_stabilised": False, "modules": 1.0, "keys": 2.0}
    assert await exported(service, model.name, "peft") == adapter_files()


@pytest.mark.parametrize("style", ["lora_{}", "lora.{}", "lora_linear_layer.{}"])
async def test_a_one_file_adapter_of_diffusers_is_renamed(service: Service, style: str) -> None:
    words = {"lora_{}": ("A", "B")}.get(style, ("down", "up"))
    tensors = {f"unet.{LAYER}.{style.format(word)}.weight": half for word, half in zip(words, (A, B), strict=True)}
    told = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8})} if style == "lora_{}" else {}
    model = await service.send(header("adapter", base=BASE), {"my lora.safetensors": save_safetensors(tensors, told)})
    assert dict(model.params)["alpha"] == (8.0 if told else 2.0)
    files = await exported(service, model.name, "")
    stored = load_safetensors(files["adapter_model.safetensors"])
    assert {key: value.tolist() for key, value in stored.items()} == {
        f"{PEFT}.lora_A.weight": A.tolist(), f"{PEFT}.lora_B.weight": B.tolist(),
    }  # fmt: skip
    assert json.loads(files["adapter_config.json"])["target_modules"] == [LAYER]
    out = await exported(service, model.name, "diffusers")
    again = load_safetensors(out["pytorch_lora_weights.safetensors"])
    assert again[f"unet.{LAYER}.lora_A.weight"].tolist() == A.tolist()


async def test_an_adapter_in_kohyas_dialect_goes_out_and_comes_back(service: Service) -> None:
    model = await service.send(header("adapter", "one", base=BASE), adapter_files())
    out = await exported(service, model.name, "kohya")
    flat = f"lora_unet_{LAYER.replace('.', '_')}"
    tensors = load_safetensors(out["kohya.safetensors"])
    assert set(tensors) == {f"{flat}.lora_down.weight", f"{flat}.lora_up.weight", f"{flat}.alpha"}
    assert float(tensors[f"{flat}.alpha"]) == 4.0
    back = await service.send(header("adapter", "two", base=BASE), out)
    assert dict(back.params) == dict(model.params) | {"keys": 3.0}
    stored = await exported(service, back.name, "")
    assert load_safetensors(stored["adapter_model.safetensors"])[f"{PEFT}.lora_B.weight"].tolist() == B.tolist()
    assert json.loads(stored["adapter_config.json"])["lora_alpha"] == 4


async def test_a_dora_adapter_comes_in_goes_out_and_comes_back(service: Service) -> None:
    lengths = np.arange(1, 9, dtype=np.float32)
    flat = f"lora_unet_{LAYER.replace('.', '_')}"
    theirs = {
        f"{flat}.lora_down.weight": A, f"{flat}.lora_up.weight": B, f"{flat}.dora_scale": lengths[:, None],
        f"{flat}.alpha": np.array(4, np.float32),
    }  # fmt: skip
    model = await service.send(header("adapter", "one", base=BASE), {"a.safetensors": save_safetensors(theirs)})
    assert dict(model.params) == {
        "rank": 2.0, "alpha": 4.0, "rank_stabilised": False, "modules": 1.0, "dora": True, "keys": 4.0,
    }  # fmt: skip
    stored = await exported(service, model.name, "peft")
    assert load_safetensors(stored["adapter_model.safetensors"])[f"{PEFT}.lora_magnitude_vector"].tolist() == [*lengths]
    for place, files in enumerate((stored, await exported(service, model.name, "diffusers"))):
        back = await service.send(header("adapter", f"back-{place}", base=BASE), files)
        assert dict(back.params) == dict(model.params) | {"keys": 3.0}
        again = load_safetensors((await exported(service, back.name, ""))["adapter_model.safetensors"])
        assert again[f"{PEFT}.lora_magnitude_vector"].tolist() == [*lengths]


async def test_a_tuned_denoiser_is_stored_as_a_whole_base(service: Service) -> None:
    files = base_files()
    tuned = save_safetensors(
        {f"{LAYER}.weight": np.ones((8, 6), np.float32), "conv_in.weight": np.ones((8, 4, 3, 3), np.float32)}
    )
    bare = {"config.json": files["unet/config.json"], "diffusion_pytorch_model.safetensors": tuned}
    whole = files | {"unet/diffusion_pytorch_model.safetensors": tuned}
    first = await service.send(header("full", "bare", base=BASE), bare)
    second = await service.send(header("full", "whole", base=BASE), whole)
    assert first.digest == second.digest
    assert await exported(service, first.name, "diffusers") == whole
    # Nothing of a pipeline is left out without a word.
    read_otherwise = whole | {"text_encoder/model.safetensors": save_safetensors({"w": A})}
    error = await refused(service, header("full", "other", base=BASE), read_otherwise)
    assert (error.reason, "text_encoder/model.safetensors" in error.message) == ("MODEL_PARTS", True)
    other = {"config.json": b"{}", "diffusion_pytorch_model.safetensors": save_safetensors({"w": A})}
    assert (await refused(service, header("full", base=BASE), other)).reason == "BASE_MISMATCH"


async def test_models_are_listed_in_pages(service: Service) -> None:
    for id_ in ("b", "a"):
        await service.send(header("judge", id_), {"config.json": b"{}", "w.safetensors": save_safetensors({"w": A})})
    first = await service.models.ListModels(model_pb2.ListModelsRequest(parent=PARENT, page_size=2))
    second = await service.models.ListModels(
        model_pb2.ListModelsRequest(parent=PARENT, page_size=2, page_token=first.next_page_token)
    )
    assert [model.name.split("/")[-1] for model in (*first.models, *second.models)] == ["a", "b", "tiny"]
    assert second.next_page_token == ""


async def test_aliases_move_only_for_those_who_saw_them(service: Service) -> None:
    alias = f"{PARENT}/aliases/best"

    async def point(model: str, etag: str = "") -> model_pb2.Alias:
        request = model_pb2.SetAliasRequest(name=alias, model=model, etag=etag)
        return (await service.models.SetAlias(request)).alias

    adapter = await service.send(header("adapter", "one", base=BASE), adapter_files())
    first = await point(BASE)
    for etag in ("", "1-nonsense"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await point(adapter.name, etag)
        assert isinstance(error_of(caught.value), Conflict)
    second = await point(adapter.name, first.etag)
    assert (await service.models.GetModel(model_pb2.GetModelRequest(name=alias))).model.name == adapter.name
    history = (await service.models.ListAliasHistory(model_pb2.ListAliasHistoryRequest(name=alias))).history
    assert list(history) == [first, second]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await point(f"{PARENT}/models/none", second.etag)
    assert isinstance(error_of(caught.value), Missing)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.models.ListAliasHistory(model_pb2.ListAliasHistoryRequest(name=f"{PARENT}/aliases/never"))
    assert isinstance(error_of(caught.value), Missing)


async def test_a_model_in_use_is_not_deleted_and_an_id_is_used_once(service: Service) -> None:
    async def delete(name: str) -> Any:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.models.DeleteModel(model_pb2.DeleteModelRequest(name=name))
        return error_of(caught.value)

    adapter = await service.send(header("adapter", "one", base=BASE), adapter_files())
    built = await delete(BASE)
    assert isinstance(built, Precondition)
    assert adapter.name in built.message
    alias = f"{PARENT}/aliases/best"
    await service.models.SetAlias(model_pb2.SetAliasRequest(name=alias, model=adapter.name))
    assert (await delete(adapter.name)).reason == "MODEL_HAS_ALIAS"
    second = await service.send(header("adapter", "two", base=BASE), adapter_files())
    await service.models.DeleteModel(model_pb2.DeleteModelRequest(name=second.name))
    assert isinstance(await delete(second.name), Missing)
    again = await refused(service, header("adapter", "two", base=BASE), adapter_files())
    assert again.reason == "MODEL_DELETED"
    run = await service.create(labels={"step-s": "1"})
    assert (await delete(BASE)).reason == "MODEL_IN_USE"
    assert run.spec.base == BASE


async def test_a_file_is_read_by_digest_from_a_model_that_has_it(service: Service) -> None:
    data = base_files()["unet/diffusion_pytorch_model.safetensors"]

    async def read(name: str, digest: str) -> bytes:
        request = model_pb2.ReadArtifactRequest(name=name, digest=digest)
        return b"".join([message.chunk async for message in service.models.ReadArtifact(request)])

    assert await read(BASE, digest_of(data)) == data
    # Stored in the project, but not this model's.
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(BASE, digest_of(b"picture 0"))
    assert error_of(caught.value).reason == "ARTIFACT_NOT_FOUND"


async def test_lineage_goes_from_a_model_to_the_rights_of_every_picture_and_back(service: Service) -> None:
    run = await service.create(output_model_id="tuned")
    run = await service.until(run.name, "SUCCEEDED")

    async def trace(name: str) -> list[Any]:
        return list((await service.models.TraceLineage(model_pb2.TraceLineageRequest(name=name))).nodes)

    nodes = await trace(run.model)
    assert [node.kind for node in nodes] == ["adapter", "run", "base", "dataset_version", "item", "item", "item"]
    assert list(nodes[0].parents) == [run.name, BASE]
    assert list(nodes[1].parents) == [BASE, VERSION]
    assert nodes[3].summary == "3 pictures: 3 under CC-BY-4.0"
    assert nodes[4].summary == "licence: CC-BY-4.0; holder: the quarter; consent: none depicted"
    for start in (VERSION, nodes[4].name):
        assert [node.name for node in await trace(start)][1:] == [run.model]
    # From a picture that was drawn with it, too; the base is named once, and so is a model that is gone.
    drawn, gone = f"{BASE.partition('/models')[0]}/generations/{new_ulid()}", f"{BASE}-gone"
    record = GenerationRecord(
        name=drawn, request={"prompt": "طاهية", "seed": 7},
        models={BASE: "", run.model: "", gone: "sha256:" + "0" * 64},
        pictures=(), timings=Timings(queued=0, denoise=0, decode=0, total=0), fingerprint="cpu",
        create_time=datetime.now(UTC), state="failed",
    )  # fmt: skip
    key = keys.generation("default", drawn.rpartition("/")[2])
    await open_store(str(service.store)).create(key, dump(record))
    traced = await trace(drawn)
    assert [node.kind for node in traced] == [
        "generation", "base", "model", "adapter", "run", "dataset_version", "item", "item", "item",
    ]  # fmt: skip
    assert list(traced[0].parents) == [BASE, gone, run.model] and "طاهية" in traced[0].summary
    assert traced[2].summary == "deleted"


async def test_models_that_saw_a_picture_only_so_as_not_to_forget_are_found_too(
    service: Service, tmp_path: Path
) -> None:
    blobs = open_store(str(service.store))
    others = await place_version(blobs, OTHERS, items=4)
    await place_version(blobs, f"{OTHERS}0", items=1)
    run = await service.create(output_model_id="tuned", regularisation=OTHERS)
    run = await service.until(run.name, "SUCCEEDED")
    lineage = (await service.models.GetModel(model_pb2.GetModelRequest(name=run.model))).model.lineage
    assert (lineage.regularisation_version, lineage.regularisation_digest) == (OTHERS, others.digest)

    async def trace(name: str) -> list[Any]:
        return list((await service.models.TraceLineage(model_pb2.TraceLineageRequest(name=name))).nodes)

    nodes = await trace(run.model)
    assert list(nodes[1].parents) == [BASE, VERSION, OTHERS]
    assert [node.kind for node in nodes if node.name == OTHERS] == ["dataset_version"]
    last = f"{OTHERS.partition('/versions')[0]}/items/{others.items[-1].id}"
    for start in (OTHERS, last):
        assert [node.name for node in await trace(start)][1:] == [run.model]
    assert len(await trace(f"{OTHERS}0")) == 1


CARD = b"---\nlicense: other\nlicense_name: flux-1-dev-non-commercial-license\n---\n# M"
DEV = "flux-1-dev-non-commercial-license"


async def test_a_licence_that_restricts_must_be_accepted_and_that_is_remembered(service: Service) -> None:
    files = base_files() | {"README.md": CARD}
    error = await refused(service, header("base", "dev"), files)
    assert (error.reason, error.field) == ("LICENCE_NOT_ACCEPTED", "header.accept_licence")
    assert DEV in error.message
    assert f"accept_licence: {DEV}" in error.remedy
    assert (await refused(service, header("base", "dev", accept_licence="mit"), files)).reason == "LICENCE_OTHER"
    told = await refused(service, header("base", "dev", licence="MIT"), files)
    assert (told.reason, told.field) == ("LICENCE_CONTRADICTED", "header.licence")
    head = header("base", "dev", accept_licence=DEV, request_id="r")
    base = await service.send(head, files)
    assert base.licence == base.licence_acceptance.licence == DEV
    assert base.licence_acceptance.by == "local"
    assert base.licence_acceptance.time == base.create_time
    assert await service.send(head, files) == base
    # Whoever accepted the base's licence need not do it again for what is made of it.
    adapter = await service.send(header("adapter", "a", base=base.name), adapter_files())
    assert (adapter.licence, adapter.licence_acceptance) == (DEV, base.licence_acceptance)
    nodes = (await service.models.TraceLineage(model_pb2.TraceLineageRequest(name=adapter.name))).nodes
    today = base.create_time.ToDatetime().strftime("%Y-%m-%d")
    assert [node.summary for node in nodes] == [f"licence: {DEV}, accepted by local on {today}; from upload"] * 2


async def test_of_a_folder_that_says_unknown_the_caller_says_what_it_is_as_the_refusal_advises(
    service: Service,
) -> None:
    files = base_files() | {"README.md": b"---\nlicense: unknown\n---\n# M"}
    error = await refused(service, header("base", "vague"), files)
    assert (error.reason, "--licence" in error.remedy) == ("LICENCE_NOT_ACCEPTED", True)
    base = await service.send(header("base", "vague", licence="MIT"), files)
    assert (base.licence, base.HasField("licence_acceptance")) == ("MIT", False)


async def test_an_acceptance_is_the_callers_own_and_reaches_what_is_trained(tmp_path: Path) -> None:
    tokens = {name: new_token() for name in ("mona", "ali")}
    listed = [
        {"principal": name, "sha256": hash_of(token), "scopes": ["*"], "projects": ["*"]}
        for name, token in tokens.items()
    ]
    (tmp_path / "tokens.json").write_text(json.dumps({"tokens": listed}))
    (tmp_path / "tokens.json").chmod(0o600)
    blobs = open_store(str(tmp_path / "store"))
    await place_base(blobs, f"{PARENT}/models/dev", licence=DEV)
    await place_version(blobs)
    async with Service(tmp_path, token_file=tmp_path / "tokens.json") as service:
        spec = service.ordered(base=f"{PARENT}/models/dev", accept_licence=DEV, output_model_id="tuned")
        request = trainer_pb2.CreateRunRequest(parent=PARENT, spec=spec)

        def caller(name: str) -> dict[str, Any]:
            return {"metadata": (("authorization", f"Bearer {tokens[name]}"),), "timeout": 60}

        run = (await service.trainer.CreateRun(request, **caller("mona"))).run
        assert run.spec.accept_licence == run.licence_acceptance.licence == DEV
        assert run.licence_acceptance.by == "mona"
        async for message in service.trainer.WatchRun(trainer_pb2.WatchRunRequest(name=run.name), **caller("ali")):
            last = message
        name = last.snapshot.model
        model = (await service.models.GetModel(model_pb2.GetModelRequest(name=name), **caller("ali"))).model
        assert model.licence_acceptance == run.licence_acceptance
        traced = await service.models.TraceLineage(model_pb2.TraceLineageRequest(name=name), **caller("ali"))
        assert traced.nodes[0].summary.startswith(f"licence: {DEV}, accepted by mona on ")


async def test_a_licence_that_does_not_restrict_is_recorded_and_no_more(service: Service) -> None:
    base = await service.send(header("base", "free"), base_files() | {"LICENSE": b"MIT License"})
    assert base.licence == "mit"
    assert not base.HasField("licence_acceptance")


async def test_a_licence_is_asked_for_before_gigabytes_are_fetched(tmp_path: Path) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "hub" / "models--quarter--dev" / "snapshots" / revision
    for path, data in (base_files() | {"README.md": CARD}).items():
        (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / path).write_bytes(data)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text(revision)
    weights = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(b"not looked at so far")
    async with Service(tmp_path, hub_cache=tmp_path / "hub") as service:
        head = header("base", "dev", ref="hub:quarter/dev")
        assert (await refused(service, head, {})).reason == "LICENCE_NOT_ACCEPTED"
        weights.write_bytes(kept)
        head.accept_licence = DEV
        base = await service.send(head, {})
        assert (base.licence, base.licence_acceptance.by) == (DEV, "local")
        assert {file.path for file in base.files} == {*base_files(), "README.md"}


async def test_a_base_comes_from_the_hubs_local_cache(tmp_path: Path) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    root = tmp_path / "hub" / "models--quarter--hayy"
    snapshot = root / "snapshots" / revision
    extra = {"v1.txt": b"# hi", "v1.ckpt": b"\x80\x02", "unet/diffusion_pytorch_model.bin": b"\x80\x02",
             "unet/diffusion_pytorch_model.fp16.safetensors": b"broken", "sd.safetensors": b"broken"}  # fmt: skip
    for path, data in (base_files() | extra).items():
        blob = root / "blobs" / digest_of(data).removeprefix("sha256:")
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / path).symlink_to(blob)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(revision)
    async with Service(tmp_path, hub_cache=tmp_path / "hub") as service:
        head = header("base", "hayy", ref="hub:quarter/hayy", request_id="r")
        model = await service.send(head, {})
        assert {file.path for file in model.files} == set(base_files())
        nodes = (await service.models.TraceLineage(model_pb2.TraceLineageRequest(name=model.name))).nodes
        assert nodes[0].summary == f"licence: not stated; from hub:quarter/hayy@{revision}"
        error = await refused(service, header("base", "none", ref="hub:quarter/none"), {})
        assert error.reason == "HUB_UNREACHABLE"
        both = await refused(service, header("base", "both", ref="hub:quarter/hayy"), {"a.json": b"{}"})
        assert both.reason == "STREAM_ORDER"
        (root / "refs" / "main").unlink()
        assert await service.send(head, {}) == model
