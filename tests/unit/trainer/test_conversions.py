"""How many checkpoints in one file are converted at once: real processes, which say when they begin and end."""

import asyncio
import sys
from pathlib import Path

import pytest
from marsam_trainer.conversion import Conversion
from marsam_trainer.conversions import Converter
from marsam_trainer.ground import opened
from marsam_trainer.settings import TrainerSettings

from marsam.catalog.files import FileRef
from marsam.core.errors import Deadline, Invalid
from marsam.core.ids import digest_of

pytestmark = pytest.mark.slow

PROGRAM = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--cache") + 1])
spec = json.loads(pathlib.Path(sys.argv[sys.argv.index("--spec") + 1]).read_text())
name = spec["file"]["path"]
def note(word):
    with (folder / "notes").open("a") as notes:
        notes.write(f"{word} {name}\\n")
note("begin")
while not (folder / f"go-{name}").exists():
    time.sleep(0.01)
note("end")
print(json.dumps({"files": [{**spec["file"], "path": f"unet/{name}"}], "faults": []}))
"""


def order(name: str) -> Conversion:
    file = FileRef(path=name, digest=digest_of(name.encode()), size=1)
    return Conversion(project="p", profile="", family="sd1", file=file, local=f"/{name}", configs=())


def settings(folder: Path, **given: object) -> TrainerSettings:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    return TrainerSettings(
        store=str(folder / "store"),
        cache=folder,
        run_command=(sys.executable, str(program)),
        **given,  # type: ignore[arg-type]
    )


class Conversions:
    """Some under way, and what their programs said."""

    def __init__(self, converter: Converter, folder: Path) -> None:
        self._converter, self._folder = converter, folder

    def begin(self, name: str) -> "asyncio.Task[tuple[FileRef, ...]]":
        return asyncio.create_task(self._converter.convert(order(name)))

    def notes(self) -> list[str]:
        file = self._folder / "notes"
        return file.read_text().splitlines() if file.exists() else []

    async def until(self, note: str) -> None:
        async with asyncio.timeout(60):
            while note not in self.notes():
                await asyncio.sleep(0.01)

    def let_go(self, *names: str) -> None:
        for name in names:
            (self._folder / f"go-{name}").touch()


async def conversions(chosen: TrainerSettings, folder: Path) -> Conversions:
    async with opened(chosen, owner="test", folder=folder / "launched") as ground:
        return Conversions(Converter(chosen, ground), folder)


async def test_one_is_converted_at_a_time_in_the_order_they_came(tmp_path: Path) -> None:
    under_way = await conversions(settings(tmp_path), tmp_path)
    first = under_way.begin("a")
    await under_way.until("begin a")
    others = [under_way.begin(name) for name in "bc"]
    under_way.let_go("b", "c")  # they would end at once, if they had begun
    await asyncio.sleep(0.3)
    assert under_way.notes() == ["begin a"]
    under_way.let_go("a")
    made = await asyncio.gather(first, *others)
    assert under_way.notes() == [f"{word} {name}" for name in "abc" for word in ("begin", "end")]
    assert [files[0].path for files in made] == ["unet/a", "unet/b", "unet/c"]


async def test_who_waits_can_go_and_who_converts_can_be_broken_off(tmp_path: Path) -> None:
    under_way = await conversions(settings(tmp_path), tmp_path)
    first = under_way.begin("a")
    await under_way.until("begin a")
    waiting, last = under_way.begin("b"), under_way.begin("c")
    await asyncio.sleep(0)
    for task in (waiting, first):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    under_way.let_go("c")
    assert (await last)[0].path == "unet/c"
    assert under_way.notes() == ["begin a", "begin c", "end c"]


async def test_a_turn_that_does_not_come_is_a_stated_failure(tmp_path: Path) -> None:
    under_way = await conversions(settings(tmp_path, convert_timeout_s=2.0), tmp_path)
    first = under_way.begin("a")
    waiting = [under_way.begin(name) for name in "bc"]
    with pytest.raises(Deadline) as slow:
        await first
    assert slow.value.reason == "CONVERT_SLOW"
    told = [error.reason for error in await asyncio.gather(*waiting, return_exceptions=True)]  # type: ignore[union-attr]
    assert told == ["CONVERT_QUEUE", "CONVERT_QUEUE"]
    under_way.let_go("d")
    assert (await under_way.begin("d"))[0].path == "unet/d"


async def test_more_at_once_where_the_settings_say_so(tmp_path: Path) -> None:
    under_way = await conversions(settings(tmp_path, max_concurrent_conversions=2), tmp_path)
    both = [under_way.begin(name) for name in "ab"]
    await asyncio.gather(under_way.until("begin a"), under_way.until("begin b"))
    under_way.let_go("a", "b")
    await asyncio.gather(*both)
    with pytest.raises(Invalid) as refused:
        settings(tmp_path, max_concurrent_conversions=0)
    assert refused.value.field == "max_concurrent_conversions"
