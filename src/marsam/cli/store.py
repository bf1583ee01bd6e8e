"""`marsam store`: for the operator, before services are started on a store."""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from marsam.cli import console
from marsam.cli.session import Json, guarded
from marsam.store.open import Finding, examine, open_store

Url = Annotated[str, typer.Argument(envvar="MARSAM_STORE", help="A folder, file:///... or s3://bucket/prefix.")]

app = typer.Typer(no_args_is_help=True, help="Look at a store.", short_help="Look at a store.")


@app.callback()
def group() -> None:
    """Look at a store."""


@app.command()
def check(
    url: Url,
    as_json: Json = False,
) -> None:
    """Try everything that Marsam asks of a store, under a prefix of its own that is removed again.

    How S3 is reached is said by the MARSAM_S3_* variables.
    """

    async def main() -> tuple[str, list[Finding]]:
        blobs = open_store(url, os.environ)
        with tempfile.TemporaryDirectory(prefix="marsam-") as scratch:
            return blobs.describe(), [finding async for finding in examine(blobs, Path(scratch))]

    place, findings = guarded(main, as_json=as_json)
    fit = all(finding.holds for finding in findings)
    if as_json:
        console.print_json({"store": place, "fit": fit, "findings": [vars(finding) for finding in findings]})
    else:
        out = console.out()
        out.print(place, markup=False)
        for finding in findings:
            took = f"  ({finding.seconds:.2f} s)" if finding.seconds else ""
            out.print(f"{'ok  ' if finding.holds else 'FAIL'}  {finding.name:<17} {finding.fact}{took}", markup=False)
            if not finding.holds:
                out.print(f"      {finding.reason}: {finding.remedy}", markup=False)
    if not fit:
        raise typer.Exit(6)
