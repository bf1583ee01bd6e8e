"""`marsam datasets …`"""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from marsam.api.common.v1 import common_pb2
from marsam.api.dataset.v1 import dataset_pb2
from marsam.cli import console, exits
from marsam.cli.plain import enum_word, plain
from marsam.cli.session import Json, known, run
from marsam.cli.watching import Bar, attached
from marsam.client import AsyncMarsam, Transfer, is_final, short, state_name

app = typer.Typer(no_args_is_help=True, help="Curate captioned picture sets.", rich_markup_mode=None)

_REFUSED_SHOWN = 20
_FILES_SHOWN = 6

Name = Annotated[str, typer.Argument(help="Dataset, such as hayy.")]


@app.command("import")
def import_(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="Folder of pictures with captions beside them.")],
    dataset: Name,
    licence: Annotated[str, typer.Option(help="Licence of pictures that state none.")] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Return when all is sent.")] = False,
    as_json: Json = False,
) -> None:
    """Import a folder; one bad file never stops the others.

    Captions: `picture.txt`, or `metadata.jsonl` with texts, attributes and rights.
    """

    async def work(marsam: AsyncMarsam) -> dataset_pb2.Import:
        with Bar("sending", quiet=as_json) as bar:

            def sent(transfer: Transfer) -> None:
                facts = f"{transfer.files}/{transfer.files_total} files, {console.size(transfer.bytes)}"
                bar.show(transfer.bytes, transfer.bytes_total, facts)

            rights = common_pb2.Rights(licence=licence) if licence else None
            imported = await marsam.datasets.import_folder(path, dataset, default_rights=rights, progress=sent)
            if detach:
                return imported

            async def follow() -> dataset_pb2.Import:
                last = imported
                async for change in marsam.datasets.watch_import(imported.name):
                    last = change
                    if as_json:
                        console.print_line(plain(change))
                    facts = f"{change.items_accepted} in, {change.files_refused} refused"
                    if change.images_per_second:
                        facts += f", {change.images_per_second:.0f} images/s"
                    done = change.files_received if is_final(change.state) else change.files_done
                    bar.show(done, change.files_received, facts, name="checking")
                return last

            farewell = f"the import goes on; look with: marsam datasets show {dataset}"
            return await attached(follow(), farewell=farewell)

    done = run(context, work, as_json=as_json)
    if as_json:
        if detach:
            console.print_line(plain(done))
    else:
        _print_import(done, dataset, detached=detach)
    _exit_for(done.state)


@app.command()
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Dataset or version, such as hayy or hayy/v1.")],
    as_json: Json = False,
) -> None:
    """Show a dataset and its versions, or one version."""
    if "/versions/" in name or (not name.startswith("projects/") and "/" in name):
        _show_version(context, name, as_json)
        return

    async def work(marsam: AsyncMarsam) -> tuple[Any, Any]:
        found = await known(marsam.datasets.get(name), kind="dataset", name=name, others=lambda: _datasets(marsam))
        return found, await marsam.datasets.versions(name)

    dataset, versions = run(context, work, as_json=as_json)
    if as_json:
        console.print_json({**plain(dataset), "versions": [plain(version) for version in versions]})
        return
    console.print_facts(
        [
            ("dataset", dataset.name),
            ("items", str(dataset.item_count)),
            ("created", console.when(dataset.create_time)),
        ]
    )
    console.out().print()
    console.print_table(
        ("version", "items", "left out", "committed", "message"),
        [
            (
                short(version.name),
                str(version.item_count),
                str(version.excluded_count),
                console.when(version.create_time),
                version.message,
            )
            for version in versions
        ],
        nothing=f"no version yet: marsam datasets commit {short(dataset.name)}",
    )


@app.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """List the project's datasets."""

    async def work(marsam: AsyncMarsam) -> Any:
        return await marsam.datasets.list()

    found = run(context, work, as_json=as_json)
    if as_json:
        console.print_json([plain(dataset) for dataset in found])
        return
    console.print_table(
        ("dataset", "items", "newest version", "created"),
        [(short(d.name), str(d.item_count), short(d.latest_version), console.when(d.create_time)) for d in found],
        nothing="no datasets yet: marsam datasets import FOLDER NAME",
    )


@app.command()
def check(
    context: typer.Context,
    name: Name,
    everything: Annotated[bool, typer.Option("--all", help="Every file and pair, not only the first.")] = False,
    as_json: Json = False,
) -> None:
    """Check a dataset: bad items, and what training would learn by accident."""

    async def work(marsam: AsyncMarsam) -> Any:
        checked = marsam.datasets.check(name)
        return await known(checked, kind="dataset", name=name, others=lambda: _datasets(marsam))

    report = run(context, work, as_json=as_json)
    if as_json:
        console.print_json(plain(report))
        return
    out = console.out()
    out.print(f"{report.items} items, {report.kept} would be kept", markup=False)
    for warning in report.warnings:
        out.print(f"! {warning}", style="yellow", markup=False)
    if report.associations:
        out.print()
        ordered = sorted(report.associations, key=lambda a: -a.cramers_v)
        console.print_table(
            ("goes together", "Cramér's V", "items", ""),
            [
                (
                    f"{a.attribute_a} × {a.attribute_b}",
                    f"{a.cramers_v:.2f}",
                    str(a.items),
                    "would be learned" if a.warns else "",
                )
                for a in ordered[: None if everything else 8]
            ],
            nothing="",
        )
    out.print()
    _print_findings(report, everything=everything)


@app.command()
def commit(
    context: typer.Context,
    name: Name,
    version: Annotated[str, typer.Option(help="Version id; v1, v2, … by default.")] = "",
    message: Annotated[str, typer.Option("--message", "-m", help="What is in it, and why.")] = "",
    as_json: Json = False,
) -> None:
    """Freeze the kept items as an immutable version."""

    async def work(marsam: AsyncMarsam) -> Any:
        committed = marsam.datasets.commit(name, version=version, message=message)
        return await known(committed, kind="dataset", name=name, others=lambda: _datasets(marsam))

    made = run(context, work, as_json=as_json)
    if as_json:
        console.print_json(plain(made))
        return
    _print_version(made)
    console.note(f"train on it: marsam train --data {short(made.name)} --base BASE")


async def _datasets(marsam: AsyncMarsam) -> list[str]:
    return [dataset.name for dataset in await marsam.datasets.list()]


def _show_version(context: typer.Context, name: str, as_json: bool) -> None:
    async def versions(marsam: AsyncMarsam) -> list[str]:
        dataset = short(name).split("/")[0]
        if dataset in [short(other) for other in await _datasets(marsam)]:
            return [version.name for version in await marsam.datasets.versions(dataset)]
        return await _datasets(marsam)

    async def work(marsam: AsyncMarsam) -> Any:
        got = marsam.datasets.version(name)
        return await known(got, kind="version", name=name, others=lambda: versions(marsam))

    version = run(context, work, as_json=as_json)
    if as_json:
        console.print_json(plain(version))
    else:
        _print_version(version)


def _print_version(version: dataset_pb2.Version) -> None:
    left_out = ", ".join(
        f"{count} {reason}" for reason, count in sorted(version.excluded_by_reason.items(), key=lambda e: -e[1])
    )
    console.print_facts(
        [
            ("version", version.name),
            ("digest", version.digest),
            ("items", str(version.item_count)),
            ("left out", f"{version.excluded_count}" + (f" ({left_out})" if left_out else "")),
            ("licences", ", ".join(version.licences)),
            ("committed", console.when(version.create_time)),
            ("message", version.message),
        ]
    )
    for warning in version.warnings:
        console.out().print(f"! {warning}", style="yellow", markup=False)


def _print_import(done: dataset_pb2.Import, dataset: str, *, detached: bool) -> None:
    if detached:
        console.note(f"sent; the import goes on: marsam datasets show {dataset}")
        return
    state, accepted, refused = state_name(done.state).lower(), done.items_accepted, done.files_refused
    console.out().print(f"{state}: {accepted} items in {dataset}, {refused} files refused", markup=False)
    if done.message:
        console.note(done.message)
    for verdict in done.refused[:_REFUSED_SHOWN]:
        console.out().print(f"  {verdict.path}  {verdict.reason}  {verdict.message}", markup=False, style="dim")
    if len(done.refused) > _REFUSED_SHOWN:
        console.note(f"  … and {done.files_refused - _REFUSED_SHOWN} more; --json lists them")
    if done.state == common_pb2.JOB_STATE_SUCCEEDED:
        console.note(f"next: marsam datasets check {dataset}, then marsam datasets commit {dataset}")


def _print_findings(report: dataset_pb2.Report, *, everything: bool) -> None:
    severities = dataset_pb2.Severity.DESCRIPTOR
    counted = Counter((f.finding.severity, f.finding.check) for f in report.findings)
    console.print_table(
        ("finding", "severity", "items"),
        [
            (check, enum_word(severities, severity).lower(), str(count))
            for (severity, check), count in sorted(counted.items(), key=lambda e: (-e[0][0], -e[1]))
        ],
        nothing="no findings",
    )
    alike: dict[tuple[int, str, str], list[str]] = {}
    for found in report.findings:
        finding = found.finding
        alike.setdefault((-finding.severity, finding.reason, finding.message), []).append(found.file_name)
    for (_, reason, message), files in sorted(alike.items()):
        shown = files if everything else files[:_FILES_SHOWN]
        more = f" and {len(files) - len(shown)} more" if len(files) > len(shown) else ""
        console.out().print(f"\n{reason}  {message}", markup=False)
        console.out().print(f"  {', '.join(shown)}{more}", markup=False, style="dim")


def _exit_for(state: int) -> None:
    if state == common_pb2.JOB_STATE_FAILED:
        raise typer.Exit(exits.JOB_FAILED)
    if state == common_pb2.JOB_STATE_CANCELLED:
        raise typer.Exit(exits.JOB_CANCELLED)
