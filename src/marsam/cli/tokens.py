"""`marsam tokens`: for the operator, who decides who may call."""

from pathlib import Path
from typing import Annotated

import typer

from marsam.cli import console
from marsam.cli.session import Json, guarded
from marsam.core.errors import Invalid, did_you_mean
from marsam.core.tokens import Principal, add_token, entry_of, new_token
from marsam.rpc.wire.scopes import known_scopes

app = typer.Typer(no_args_is_help=True, help="Make tokens for callers.", short_help="Make tokens for callers.")


@app.callback()
def group() -> None:
    """Make tokens for callers."""


@app.command()
def new(
    principal: Annotated[str, typer.Argument(help="Who will hold it; the logs say this name.")],
    scope: Annotated[list[str], typer.Option(help="What they may do, such as 'runs.*'; may be repeated.")],
    for_project: Annotated[list[str], typer.Option(help="Where, or '*'; may be repeated.")],
    file: Annotated[Path | None, typer.Option(help="Token file of the services: the entry is added to it.")] = None,
    as_json: Json = False,
) -> None:
    """Make a token and its hashed entry. The token is shown once and kept nowhere."""

    async def main() -> dict[str, object]:
        for wanted in scope:
            if wanted not in known_scopes():
                raise Invalid(f"no method asks for the scope '{wanted}'", field="--scope", reason="UNKNOWN_SCOPE",
                              remedy=did_you_mean(wanted, sorted(known_scopes())))  # fmt: skip
        holder = Principal(name=principal, scopes=frozenset(scope), projects=frozenset(for_project))
        token = new_token()
        entry = entry_of(holder, token)
        if file is not None:
            add_token(file, entry)
        return {"token": token, "entry": entry}

    made = guarded(main, as_json=as_json)
    if as_json:
        console.print_json(made)
        return
    console.out().print(made["token"], markup=False)
    if file is not None:
        console.note(f"added to {file}; running services take it within seconds. The token is shown this once.")
    else:
        console.note("The token is shown this once. Its entry for the services' token file:")
        console.print_json(made["entry"])
