"""The budget of a command: network evaluations, as everywhere."""

from __future__ import annotations

from typing import Annotated

import typer


def _refuse(value: int | None) -> int | None:
    """Refuse `--steps`, which meant evaluations here and steps in Python."""
    if value is not None:
        raise typer.BadParameter(
            f"the budget counts network evaluations, stages included: --evaluations {value}."
        )
    return value


Evaluations = Annotated[
    int, typer.Option(help="Budget: network evaluations at most, stages included.")
]
NoSteps = Annotated[int | None, typer.Option("--steps", hidden=True, callback=_refuse)]
