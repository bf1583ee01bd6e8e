"""A dataset service and a run over a real S3 server: by settings only, nothing else differs."""

from pathlib import Path

import pytest

from tests.contract.families.bases import build_sd1
from tests.integration.dataset.harness import bring, create, items, starter
from tests.integration.dataset.pictures import saved, scene
from tests.integration.run.store import make

URL = "s3://marsam/home"


@pytest.mark.slow
@pytest.mark.usefixtures("server")
async def test_an_import_and_a_run(tmp_path: Path) -> None:
    start = starter(URL)
    async with start() as service:
        await create(service)
        done = await bring(service, {f"{seed}.png": saved(scene(seed)) for seed in range(4)})
        assert done.items_accepted == 4
    async with start() as service:  # another process finds it all
        assert sorted(await items(service)) == ["0.png", "1.png", "2.png", "3.png"]

    shelf = await make(URL, build_sd1(tmp_path / "sd1"))
    job_id = await shelf.order()
    process = shelf.start(job_id, 1, tmp_path / "cache")
    try:
        code = process.wait(240)
    finally:
        process.kill()
    assert code == 0, (tmp_path / "cache" / f"{job_id}-1.log").read_text()[-3000:]
    model = await shelf.model(job_id)
    assert any(file.path.endswith(".safetensors") for file in model.files)
