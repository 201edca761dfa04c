"""Commands of `redrift`: sample, models, plan, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from redrift import __version__
from redrift.cli import demo as demos
from redrift.cli import sampling
from redrift.cli.budget import Evaluations, NoSteps
from redrift.cli.calibrate import calibrate
from redrift.cli.collage import collage
from redrift.cli.density import density
from redrift.cli.filter import filter as filter_command
from redrift.cli.guide import guide
from redrift.cli.report import Device, Json, Model, Report, Seed, Threads, plainly
from redrift.pretrained import names, pretrained
from redrift.process import SPACINGS
from redrift.solvers import SOLVERS, plan_for

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Sample diffusion models in few evaluations, and know what it costs.",
)

Solver = Annotated[
    str | None, typer.Option(help=f"One of {', '.join(SOLVERS)}; rd.best_plan's choice if absent.")
]
Order = Annotated[int | None, typer.Option(help="Order of the solver; its default if absent.")]
Spacing = Annotated[
    str | None, typer.Option(help=f"Time grid: {', '.join(SPACINGS)}; the process's if absent.")
]
Out = Annotated[
    Path | None, typer.Option(help="Picture of the samples to write, such as grid.png.")
]


@app.command()
@plainly
def sample(
    model: Model,
    evaluations: Evaluations = 10,
    steps: NoSteps = None,
    solver: Solver = None,
    order: Order = None,
    spacing: Spacing = None,
    n: Annotated[int, typer.Option(help="Number of samples.")] = 16,
    label: Annotated[int | None, typer.Option(help="Class to sample; any if absent.")] = None,
    guidance: Annotated[
        float, typer.Option(help="Classifier-free guidance scale; 1 is none.")
    ] = 1.0,
    batch_size: Annotated[int | None, typer.Option(help="Samples at once; all if absent.")] = None,
    tol: Annotated[
        float | None,
        typer.Option(help="Choose the steps by this error per step instead; three-stage RES."),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="A saved plan, such as a calibrated one, in place of the solver options."
        ),
    ] = None,
    reference: Annotated[
        int | None, typer.Option(help="Also run a reference of that many evaluations: the defect.")
    ] = None,
    out: Out = None,
    save: Annotated[
        Path | None, typer.Option(help="Safetensors file for the samples in [-1, 1].")
    ] = None,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Sample a model.

    Example: redrift sample digits --solver res --order 3 --evaluations 9 --n 64 --label 3 --out grid.png
    """
    report = Report(json, seed, threads, device, (out, save))
    sampling.run(
        report, model, evaluations=evaluations, solver=solver, order=order, spacing=spacing, n=n, label=label,
        guidance=guidance, batch_size=batch_size, tol=tol, plan_file=plan,
        reference=reference, out=out, save=save,
    )  # fmt: skip


@app.command()
@plainly
def models(
    seed: Seed = None, threads: Threads = None, device: Device = "cpu", json: Json = None
) -> None:
    """List the shipped models with their cards."""
    report = Report(json, seed, threads, device)
    cards = {}
    for name in names():
        model = pretrained(name)
        cards[name] = {
            **model.card, "process": model.process.describe(), "predicts": model.predicts
        }  # fmt: skip
        shape = "x".join(map(str, model.card["shape"]))
        kind = f"{model.process.describe()}, predicts {model.predicts}"
        report.print(f"[bold]{name}[/]  {shape}, {model.card['classes']} classes, {kind}")
        report.print(f"  data     {model.card['data']}")
        report.print(
            f"  training {model.card['images']} images seen, loss {model.card['loss']:.4f}"
        )
        report.print(f"  licence  {model.card['licence']}")
    report.finish(models=cards)


@app.command()
@plainly
def plan(
    model: Annotated[
        str, typer.Argument(help="A shipped model's name or a model file.")
    ] = "digits",
    evaluations: Evaluations = 10,
    steps: NoSteps = None,
    solver: Solver = None,
    order: Order = None,
    spacing: Spacing = None,
    save: Annotated[Path | None, typer.Option(help="JSON file for the plan itself.")] = None,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Show a plan's times, evaluations and coefficients.

    Example: redrift plan digits --solver res --order 3 --evaluations 9
    """
    report = Report(json, seed, threads, device, (save,))
    process = sampling.open_model(model).process
    made = plan_for(process, evaluations, solver=solver, order=order, spacing=spacing)
    report.print(str(made))
    table = Table("step", "from", "to", "asked at", "on the state", "on predictions")
    rows = []
    for i, row in enumerate(made.rows):
        asked = [float(level.t) for level in row.asks]
        on_state = [a.flatten().tolist() for a in row.A[-1:]]
        on_e = [[0.0] if c is None else c.flatten().tolist() for c in row.C[-1]]
        numbers = " ".join(f"{value:+.4f}" for entry in on_e for value in entry[:4])
        state = " ".join(f"{value:.5f}" for entry in on_state for value in entry[:4])
        start, end = float(row.start.t), float(row.end.t)
        times = " ".join(f"{t:.4g}" for t in asked)
        table.add_row(str(i), f"{start:.4g}", f"{end:.4g}", times, state, numbers)
        rows.append(
            {"start": start, "end": end, "asks": asked, "state": on_state[0], "predictions": on_e}
        )
    report.print(table)
    if save is not None:
        made.save(str(save))
    report.finish(
        model=model, plan=str(made), evaluations=made.evaluations, order=made.order,
        times=made.times.tolist(), rows=rows,
    )  # fmt: skip


@app.command()
@plainly
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures; made if absent.")] = Path(
        "demo"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer samples.")] = False,
    seed: Seed = 0,
    threads: Threads = None,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Sample the shipped model with ten evaluations three ways, beside a fine reference."""
    report = Report(json, seed, threads, device)
    out.mkdir(parents=True, exist_ok=True)
    demos.run(report, out, quick=quick)


app.command()(collage)
app.command()(calibrate)
app.command()(density)
app.command("filter")(filter_command)
app.command()(guide)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"redrift {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Sample diffusion models in few evaluations, and know what it costs."""


def main() -> None:
    """Run the command line."""
    app()
