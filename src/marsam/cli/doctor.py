"""`marsam doctor`: is everything here that Marsam needs, and does it answer?"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from marsam.cli import console
from marsam.cli.session import Json, guarded, options
from marsam.client import AsyncMarsam, Credentials, Endpoints, find, health
from marsam.client import endpoints as finding
from marsam.client.endpoints import HOME
from marsam.core.cores import available_cores
from marsam.core.errors import MarsamError
from marsam.rpc.wire.target import parse_target
from marsam.store.open import open_store, prove

_LITTLE_DISK = 2 * 10**9


@dataclass(frozen=True, kw_only=True)
class Check:
    """One answer: `state` is ok, warn or fail."""

    name: str
    state: str
    fact: str
    remedy: str = ""


def doctor(
    context: typer.Context,
    store: Annotated[Path, typer.Option(help="Folder that `marsam up` uses.")] = Path(HOME),
    as_json: Json = False,
) -> None:
    """Check this machine, the store and the running services; say what to do about each fault."""
    chosen = options(context)

    async def main() -> list[Check]:
        checks = [_python(), *_packages(), _machine(), await _store(store.expanduser().absolute())]
        try:
            where = finding.read(chosen.endpoints) if chosen.endpoints is not None else find()
        except MarsamError as error:
            return [*checks, Check(name="services", state="warn", fact=error.message, remedy=error.remedy)]
        return [*checks, *await _services(where, chosen.project, chosen.credentials())]

    checks = guarded(main, as_json=as_json)
    failed = any(check.state == "fail" for check in checks)
    if as_json:
        console.print_json({"healthy": not failed, "checks": [asdict(check) for check in checks]})
    else:
        marks = {"ok": "[green]✓[/green]", "warn": "[yellow]![/yellow]", "fail": "[red]✗[/red]"}
        out = console.out()
        for check in checks:
            out.print(f"{marks[check.state]} [dim]{check.name:<10}[/dim] ", end="")
            out.print(check.fact, markup=False)
            if check.remedy and check.state != "ok":
                out.print(f"             {check.remedy}", markup=False, style="dim")
    if failed:
        raise typer.Exit(6)


def _python() -> Check:
    fact = f"Python {sys.version.split()[0]}, marsam {metadata.version('marsam')}"
    return Check(name="python", state="ok", fact=fact)


def _packages() -> list[Check]:
    """Looks without importing: the command line stays light."""
    missing = [name for name in ("dataset", "trainer", "generator") if not importlib.util.find_spec(f"marsam_{name}")]
    parts = Check(name="parts", state="ok", fact="dataset, trainer and generator are installed")
    if missing:
        remedy = "pip install 'marsam[all]' to run the services on this machine"
        parts = Check(name="parts", state="warn", fact=f"not installed here: {', '.join(missing)}", remedy=remedy)
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        remedy = "pip install 'marsam[generator]' to train and draw on this machine"
        return [parts, Check(name="torch", state="warn", fact="PyTorch is not installed", remedy=remedy)]
    return [parts, Check(name="torch", state="ok", fact=f"PyTorch {torch}")]


def _machine() -> Check:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Check(name="machine", state="ok", fact=f"{available_cores()} cores, {console.size(memory)} of memory")


async def _store(home: Path) -> Check:
    """Proves create-only writes where the store is, or would be."""
    there = next(folder for folder in (home, *home.parents) if folder.is_dir())
    if not os.access(there, os.W_OK):
        return Check(name="store", state="fail", fact=f"{there} is not writable", remedy="name another with --store")
    free = shutil.disk_usage(there).free
    if free < _LITTLE_DISK:
        return Check(name="store", state="warn", fact=f"{home}: only {console.size(free)} free",
                     remedy="free some space, or name another folder with --store")  # fmt: skip
    if not (home / "store").is_dir():
        return Check(name="store", state="ok", fact=f"{home} will be made; {console.size(free)} free")
    try:
        await prove(open_store(str(home / "store")))
    except MarsamError as error:
        return Check(name="store", state="fail", fact=error.message, remedy=error.remedy)
    return Check(name="store", state="ok", fact=f"{home}: create-only writes hold; {console.size(free)} free")


async def _services(where: Endpoints, project: str, credentials: Credentials) -> list[Check]:
    checks: list[Check] = []
    targets = {"dataset": where.dataset, "trainer": where.trainer, "generator": where.generator}
    for name, target in targets.items():
        try:
            seconds = await health.check(target, tls=credentials.tls)
            checks.append(Check(name=name, state="ok", fact=f"serves on {target}, answered in {1000 * seconds:.0f} ms"))
        except MarsamError as error:
            remedy = error.remedy or "start it with 'marsam up', or look into its log"
            checks.append(Check(name=name, state="fail", fact=error.message, remedy=remedy))
    if any(check.state == "fail" for check in checks):
        return checks
    checks += _exposed(targets, credentials)
    async with AsyncMarsam(where, project=project, credentials=credentials) as marsam:
        try:
            drawing = await marsam.generation.capabilities()
            training = await marsam.runs.capabilities()
            models = await marsam.models.list()
        except MarsamError as error:
            return [*checks, Check(name="calls", state="fail", fact=error.message, remedy=error.remedy)]
    families = ", ".join(family.name for family in training.families)
    methods = ", ".join(method.name for method in training.methods)
    device = drawing.device or "an unnamed device"
    checks.append(
        Check(name="can", state="ok", fact=f"{families} by {methods}; draws on {device}; {len(models)} models")
    )
    return checks


def _exposed(targets: Mapping[str, str], credentials: Credentials) -> list[Check]:
    """Warns of a token that travels in the clear."""
    if credentials.token is None:
        return []
    places = [parse_target(target) for target in targets.values()]
    plain = [p.address for p in places if not p.loopback and not (credentials.tls if p.secure is None else p.secure)]
    if not plain:
        return []
    fact = f"the token travels unencrypted to {', '.join(plain)}"
    remedy = "give the services a certificate and set MARSAM_TLS_CA_FILE, or be sure that something else encrypts"
    return [Check(name="token", state="warn", fact=fact, remedy=remedy)]
