"""The filter command: what it writes, and what it refuses."""

import csv
import json

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from redrift.cli.app import app

RUN = CliRunner()
MODEL = """
import torch
import redrift as rd
from redrift.filters import GaussianPrior, Sensor

eye = torch.eye(2, dtype=torch.float64)
A = torch.tensor([[0.0, 1.0], [0.0, -0.2]], dtype=torch.float64)
model = rd.StateSpace(GaussianPrior(torch.zeros(2).double(), eye), A, eye[:, 1:], 0.05,
                      Sensor(eye, 0.1 * eye))
"""


def run(*arguments):
    return RUN.invoke(app, ["filter", *(str(a) for a in arguments)])


def figures(*arguments):
    result = run(*arguments, "--json", "-")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def files(tmp_path):
    model, data = tmp_path / "model.py", tmp_path / "data.csv"
    model.write_text(MODEL)
    names = {}
    exec(MODEL, names)
    times = [0.1 * k for k in range(1, 21)]
    _, y = names["model"].simulate(times, generator=torch.Generator().manual_seed(0))
    rows = [[t, *row] for t, row in zip(times, y[0].tolist())]
    rows[2][1], rows[5][2], rows[9][1:] = "", "nan", ["NA", ""]
    with open(data, "w", newline="") as file:
        csv.writer(file).writerows([["time", "position", "speed"], *rows])
    return model, data


def test_a_model_and_a_table_with_gaps_give_kalmans_evidence(files, tmp_path):
    out = tmp_path / "posterior.csv"
    found = figures(*files, "--window", 1.0, "--seed", 1, "--out", out, "--plot")
    assert abs(found["log_evidence"] - found["kalman_log_evidence"]) < 0.5
    assert found["ess_min"] > 0.999
    assert found["ms_per_observation"] > 0
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["time", "mean_0", "std_0", "mean_1", "std_1"]
    assert len(rows) == 20
    assert all(float(row["std_1"]) > 0 for row in rows)
    with Image.open(tmp_path / "posterior.png") as image:
        assert image.width > 400
    again = figures(*files, "--window", 1.0, "--seed", 1)
    assert again["log_evidence"] == found["log_evidence"]


def test_without_a_window_one_is_chosen_and_said(files):
    found = figures(*files, "--seed", 1, "--particles", 30)
    assert found["window"] >= 0.2
    assert found["start_ess_mean"] > 0.8


@pytest.mark.parametrize("proposal", ["bootstrap", "guided", "auxiliary"])
def test_the_other_proposals_run(files, proposal):
    found = figures(*files, "--proposal", proposal, "--particles", 2000, "--seed", 1)
    assert abs(found["log_evidence"] - found["kalman_log_evidence"]) < 1.0


def test_the_tracking_example_is_as_close_to_the_truth_as_kalman():
    found = figures("--example", "tracking", "--particles", 200, "--seed", 3)
    assert abs(found["log_evidence"] - found["kalman_log_evidence"]) < 0.05
    assert found["rmse"] < 1.05 * found["kalman_rmse"]


def test_the_benes_example_meets_its_exact_filter():
    found = figures("--example", "benes", "--particles", 50, "--seed", 3)
    assert abs(found["log_evidence"] - found["exact_log_evidence"]) < 0.5
    assert found["rmse"] < 1.2 * found["exact_rmse"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, d: (m, d.parent / "none.csv"), "none.csv"),
        (lambda m, d: (d, d), "Python file"),
        (lambda m, d: (m,), "or --example"),
        (lambda m, d: ("--example", "tracing"), "tracking"),
        (lambda m, d: (m, d, "--example", "tracking"), "not both"),
        (lambda m, d: (m, d, "--particles", 0), "at least 1"),
        (lambda m, d: (m, d, "--proposal", "magic"), "bootstrap"),
        (lambda m, d: (m, d, "--window", -1), "window"),
        (lambda m, d: (m, d, "--out", d.parent / "no" / "x.csv"), "does not exist"),
    ],
)
def test_bad_calls_end_with_code_2_and_one_line(files, change, message):
    result = run(*change(*files))
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,a,b\n", "at least one row"),
        ("when,a,b\n1,2,3\n", "named time"),
        ("time,a\n1,2\n", "1 columns beside time"),
        ("time,a,b\n1,2\n", "line 2: 2 cells"),
        ("time,a,b\n1,2,x\n", "line 2: 'x' is not a number"),
        ("time,a,b\n1,2,3\n1,2,3\n", "does not come after"),
        ("time,a,b\n,2,3\n", "a time is missing"),
        ("time,a,b\n1,inf,3\n", "infinite"),
    ],
)
def test_bad_tables_are_named_and_nothing_is_written(files, tmp_path, text, message):
    files[1].write_text(text)
    out = tmp_path / "out.csv"
    result = run(*files, "--window", 1, "--out", out)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 / 0", "ZeroDivisionError"), ("x = 1", "defines nothing"), ("model = 3", "defines int")],
)
def test_bad_model_files_are_named(files, text, message):
    files[0].write_text(text)
    result = run(*files, "--window", 1)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
