"""The `marsam` command."""

import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from marsam.cli import datasets, generations, models, runs, store, tokens, upkeep
from marsam.cli.doctor import doctor
from marsam.cli.evaluate import evaluate
from marsam.cli.generate import generate
from marsam.cli.provenance import provenance
from marsam.cli.session import Options
from marsam.cli.train import plan, train
from marsam.cli.up import up

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(short_help="Start the three services on this machine.")(up)
app.add_typer(datasets.app, name="datasets")
app.command(short_help="Tune a base on a dataset version.")(train)
app.command("plan", short_help="Say what a run would need, and make none.")(plan)
app.add_typer(runs.app, name="runs")
app.add_typer(models.app, name="models")
app.add_typer(tokens.app, name="tokens")
app.add_typer(store.app, name="store")
app.add_typer(upkeep.app, name="upkeep")
app.command(short_help="Draw pictures.")(generate)
app.add_typer(generations.app, name="generations")
app.command(short_help="Say where a picture comes from.")(provenance)
app.command(short_help="Compare models on a suite; write the report.")(evaluate)
app.command(short_help="Check machine, store and services.")(doctor)


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"marsam {metadata.version('marsam')}\n")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    project: Annotated[str, typer.Option(envvar="MARSAM_PROJECT", help="Project.")] = "default",
    endpoints: Annotated[Path | None, typer.Option(envvar="MARSAM_ENDPOINTS", help="Names the services.")] = None,
    token: Annotated[str | None, typer.Option(help="Token; better MARSAM_TOKEN or MARSAM_TOKEN_FILE.")] = None,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Teach an image model a world it was never shown, and prove that it learned it."""
    context.obj = Options(project=project, endpoints=endpoints, token=token)
