"""The demo's story through containers: a set imported, a LoRA of a few steps trained, a picture drawn with it."""

import asyncio
import contextlib
import json
import os
import selectors
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from hayy.demo import story
from hayy.demo.screen import Screen
from rich.console import Console

from marsam.client import AsyncMarsam, Endpoints
from marsam.client.drawing import Image as Picture
from marsam.core.tokens import Principal, add_token, entry_of, new_token
from scripts.images.containers import USER, Container, Image

STEPS = 4
_READY_SECONDS = 180.0


def tell(images: Mapping[str, Image], *, scratch: Path) -> str:
    """Gives what was drawn, in a sentence. The trainer is the image `run`: its runs are its own processes."""
    token = new_token()
    tokens = scratch / "tokens.json"
    add_token(tokens, entry_of(Principal(name="images-check"), token))
    os.chown(tokens, USER, USER)
    run_command = {"dataset": None, "trainer": ["/venv/bin/python", "-m", "marsam_trainer"], "generator": None}
    with contextlib.ExitStack() as running:
        addresses = {}
        for service, entrypoint in run_command.items():
            addresses[service] = running.enter_context(
                serving(
                    f"marsam-check-{service}",
                    images["run" if service == "trainer" else service],
                    entrypoint=entrypoint,
                    tokens=tokens,
                    scratch=scratch,
                )
            )
        return asyncio.run(_story(Endpoints(**addresses), token, scratch / "home"))


@contextlib.contextmanager
def serving(name: str, image: Image, *, entrypoint: list[str] | None, tokens: Path, scratch: Path) -> Iterator[str]:
    """A service in a container; gives its gRPC address. Raises RuntimeError with its log when it does not come up, or
    does not end by SIGTERM with exit code 0."""
    port, http_port = _free_ports()
    folder = scratch / name
    container = Container(
        name=name,
        image=image,
        folder=folder,
        cache=scratch / "cache",
        entrypoint=entrypoint or (),
        mounts={tokens: "/etc/marsam/tokens.json"},
        environment={
            # Beside /tmp nothing else is writable, and the three share it.
            "MARSAM_STORE": "/cache/store",
            "MARSAM_CACHE": f"/cache/{name}",
            "MARSAM_LISTEN": f"127.0.0.1:{port}",
            "MARSAM_HTTP_LISTEN": f"127.0.0.1:{http_port}",
            "MARSAM_TOKEN_FILE": "/etc/marsam/tokens.json",
        },
    )
    process = container.start()
    try:
        _await_ready(process, folder / "log")
        yield f"127.0.0.1:{port}"
    except BaseException:
        container.stop(process)
        raise
    code = container.stop(process)
    if code != 0:
        raise RuntimeError(f"{name} ended with {code}:\n{_end_of(folder / 'log')}")


async def _story(endpoints: Endpoints, token: str, home: Path) -> str:
    screen = Screen(Console())
    options = story.Options(
        home=home, base=str(story.BASE), judge=story.JUDGE, variants=story.DEMO, steps=STEPS, suite=story.SUITE
    )
    async with AsyncMarsam(endpoints, token=token) as marsam:
        base = await story.import_base(marsam, options.base, screen)
        versions = await story.curate(marsam, options, screen)
        variant = options.variants[0]
        run = await story.tune(marsam, base, versions[variant.dataset], variant, STEPS, screen)
        drawn = [
            event
            async for event in marsam.generation.generate(
                "a cook", model=base.name, adapters={run.model: 1.0}, steps=STEPS, seed=1
            )
            if isinstance(event, Picture)
        ]
    (picture,) = drawn
    return (
        f"{run.model} drew {picture.width}×{picture.height} pixels, {len(picture.data)} bytes of {picture.media_type}"
    )


def _await_ready(process: subprocess.Popen[str], log: Path) -> None:
    assert process.stdout is not None
    deadline = time.monotonic() + _READY_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            line = process.stdout.readline()
            if not line:
                break
            if json.loads(line).get("event") == "ready":
                return
    raise RuntimeError(f"the service did not come up:\n{_end_of(log)}")


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        for probe in (first, second):
            probe.bind(("127.0.0.1", 0))
        return int(first.getsockname()[1]), int(second.getsockname()[1])
