"""The `filter` command: a state-space model and a table of measurements to a posterior."""

from __future__ import annotations

import csv
import importlib.util
import math
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from redrift._core.errors import choose, whole
from redrift._core.files import write_atomically
from redrift.cli.report import Device, Json, Report, Seed, Threads, plainly
from redrift.filters import (
    AuxiliaryProposal,
    Bootstrap,
    GuidedProposal,
    PathIntegral,
    Posterior,
    StateSpace,
    benes_filter,
    choose_window,
    kalman,
    particle_filter,
    plot_posterior,
)
from redrift.statespace.problems import PROBLEMS

_PROPOSALS = ("path-integral", "bootstrap", "guided", "auxiliary")
_TIME = ("time", "t")


@plainly
def filter(
    model: Annotated[
        Path | None, typer.Argument(help="Python file that defines `model`, a StateSpace.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Argument(help="CSV with a column `time`; empty or NaN cells are missing."),
    ] = None,
    example: Annotated[
        str | None, typer.Option(help=f"Simulate instead: one of {', '.join(PROBLEMS)}.")
    ] = None,
    particles: Annotated[int, typer.Option(help="Number of particles.")] = 64,
    proposal: Annotated[
        str, typer.Option(help=f"One of {', '.join(_PROPOSALS)}.")
    ] = "path-integral",
    window: Annotated[
        float | None,
        typer.Option(help="Window in units of time; chosen by the look-ahead if absent."),
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="One guide for all (shared) or one per particle.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="CSV for time, mean_i and std_i of every coordinate i.")
    ] = None,
    plot: Annotated[
        bool, typer.Option("--plot", help="Write a picture beside --out (or filter.png).")
    ] = False,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Filter a table of measurements, or a simulated example with known truth.

    Example: redrift filter --example tracking --particles 50 --seed 3
    """
    picture = (Path("filter.png") if out is None else out.with_suffix(".png")) if plot else None
    report = Report(json, seed, threads, device, (out, picture))
    whole("particles", particles)
    choose("proposal", proposal, _PROPOSALS)
    generator = torch.Generator().manual_seed(report.seed)
    figures: dict[str, Any] = {"particles": particles, "proposal": proposal}
    truth = None
    if example is not None:
        if model is not None or data is not None:
            raise ValueError("give --example, or a model and a data file, not both.")
        problem = PROBLEMS[choose("example", example, PROBLEMS)]()
        space, times = problem.model, list(problem.times)
        states, values = space.simulate(times, generator=generator)
        truth, y = states[0], values[0]
        window = problem.window if window is None else window
        scope = scope or problem.scope
        report.print(f"[bold]{example}[/]  {problem.about}")
        figures["example"] = example
    else:
        if model is None or data is None:
            raise ValueError("give a model file and a data file, or --example NAME.")
        space = _model(model)
        times, y = _table(data, space.measured)
    if proposal == "path-integral" and window is None:
        gap = (times[-1] - times[0]) / max(len(times) - 1, 1)
        found = choose_window(
            space, y[:40], times=times[:40], first=2 * max(gap, space.dt), particles=particles,
            proposal=PathIntegral(0.0, scope=scope or "shared"), generator=generator,
        )  # fmt: skip
        window, said = found.window, "" if found.enough else " (the longest tried)"
        report.print(f"  window {window:g}{said}")
    option = _proposal(proposal, window, scope or "shared")
    started = time.process_time()
    post = particle_filter(
        space, y, times=times, particles=particles, proposal=option, generator=generator,
        progress=json != "-" and sys.stderr.isatty(),
    )  # fmt: skip
    spent = 1e3 * (time.process_time() - started) / len(times)
    figures |= {
        "window": window if proposal == "path-integral" else None,
        "measurements": len(times),
        "log_evidence": float(post.log_evidence),
        "ess_mean": float(post.ess.mean()),
        "ess_min": float(post.ess.min()),
        "start_ess_mean": float(post.look_ahead_ess.mean()),
        "lost": post.lost,
        "ms_per_observation": spent,
    }
    figures |= _references(space, example, times, y, truth, post)
    if out is not None:
        _write(out, post)
        report.print(f"wrote {out}")
    if picture is not None:
        plot_posterior(post, str(picture))
        report.print(f"wrote {picture}")
    _print(report, figures)
    report.finish(**{k: _plain(v) for k, v in figures.items()})


def _proposal(name: str, window: float | None, scope: str) -> Any:  # noqa: ANN401
    if name == "path-integral":
        return PathIntegral(float(window or 0.0), scope=scope)
    if name == "guided":
        return GuidedProposal(scope=scope)
    return AuxiliaryProposal(scope=scope) if name == "auxiliary" else Bootstrap()


def _references(
    model: StateSpace,
    example: str | None,
    times: list[float],
    y: Tensor,
    truth: Tensor | None,
    post: Posterior,
) -> dict[str, float]:
    """Return what is known exactly: Kalman's or Benes' answers, and errors against the truth."""
    found: dict[str, float] = {}
    exact = None
    if model.linear:
        exact = kalman(model, y, times=times)
        found["kalman_log_evidence"] = float(exact.log_evidence)
    elif example == "benes":
        exact = benes_filter(y, times=times, cov=1e-4)
        found["exact_log_evidence"] = float(exact.log_evidence)
    if truth is not None:
        at = [min(range(len(times)), key=lambda i: abs(times[i] - t)) for t in post.times.tolist()]
        found["rmse"] = _rms(post.mean - truth[at])
        if exact is not None:
            found["kalman_rmse" if model.linear else "exact_rmse"] = _rms((exact.mean - truth)[at])
    return found


def _rms(x: Tensor) -> float:
    return float((x**2).sum(-1).mean().sqrt())


def _print(report: Report, figures: dict[str, Any]) -> None:
    report.print(f"  log evidence  {figures['log_evidence']:.4f}")
    for name in ("kalman_log_evidence", "exact_log_evidence"):
        if name in figures:
            report.print(f"  {name.split('_')[0]:12s}  {figures[name]:.4f}")
    report.print(f"  ESS / N       mean {figures['ess_mean']:.3f}, least {figures['ess_min']:.3f}")
    report.print(f"  look-ahead    mean {figures['start_ess_mean']:.3f}")
    if "rmse" in figures:
        other = figures.get("kalman_rmse", figures.get("exact_rmse"))
        exact = "" if other is None else f"  (exact filter {other:.5g})"
        report.print(f"  error         {figures['rmse']:.5g}{exact}")
    report.print(f"  processor     {figures['ms_per_observation']:.2f} ms a measurement")
    if figures["start_ess_mean"] < 0.5 and figures["window"]:
        report.print("[yellow]warning[/] the look-ahead loses particles: try a longer --window.")


def _model(path: Path) -> StateSpace:
    """Return `model` of a Python file."""
    spec = importlib.util.spec_from_file_location("_redrift_model", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file: it must exist and end in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} does not run: {type(error).__name__}: {error}") from error
    found = getattr(module, "model", None)
    if not isinstance(found, StateSpace):
        kind = "nothing" if found is None else type(found).__name__
        raise ValueError(f"{path} must define model = rd.StateSpace(...), it defines {kind}.")
    return found


def _table(path: Path, measured: int) -> tuple[list[float], Tensor]:
    """Return times and measurements (K, p) of a CSV file with a header."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    if len(rows) < 2:
        raise ValueError(f"{path} needs a header and at least one row.")
    header = [name.strip() for name in rows[0]]
    clocks = [i for i, name in enumerate(header) if name.lower() in _TIME]
    if len(clocks) != 1:
        raise ValueError(f"{path} needs one column named time; it has {', '.join(header)}.")
    if len(header) - 1 != measured:
        raise ValueError(
            f"{path} has {len(header) - 1} columns beside time, the model measures {measured}."
        )
    table: list[list[float]] = []
    for line, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise ValueError(f"{path}, line {line}: {len(row)} cells, expected {len(header)}.")
        table.append([_number(cell, path, line) for cell in row])
    times = [row.pop(clocks[0]) for row in table]
    if any(math.isnan(t) for t in times):
        raise ValueError(f"{path}: a time is missing.")
    return times, torch.tensor(table, dtype=torch.float64)


def _number(cell: str, path: Path, line: int) -> float:
    text = cell.strip()
    if text.lower() in ("", "na", "nan"):
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{path}, line {line}: {text!r} is not a number.") from None


def _write(path: Path, post: Posterior) -> None:
    d = post.mean.shape[-1]
    header = ["time", *(f"{kind}_{i}" for i in range(d) for kind in ("mean", "std"))]
    pairs = torch.stack([post.mean, post.std], -1).flatten(-2)
    rows = torch.cat([post.times.unsqueeze(-1), pairs], -1).tolist()

    def write(target: str) -> None:
        with open(target, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows([[repr(v) for v in row] for row in rows])

    write_atomically(path, write)


def _plain(value: Any) -> Any:  # noqa: ANN401
    return None if isinstance(value, float) and not math.isfinite(value) else value
