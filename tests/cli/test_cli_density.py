"""The density command: what it writes, what it warns of, and what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from redrift.cli.app import app

RUN = CliRunner()
SMALL = ("--steps", 12, "--n", 400, "--particles", 500, "--seed", 0)


def run(*arguments):
    return RUN.invoke(app, ["density", *(str(a) for a in arguments)])


def figures(*arguments):
    result = run(*arguments, "--json", "-")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def log_mean_exp(values):
    top = values.max()
    return top + np.log(np.exp(values - top).mean())


def test_samples_and_weights_are_written_and_agree_with_the_figures(tmp_path):
    out, plot = tmp_path / "samples.npz", tmp_path / "corner.png"
    found = figures("funnel1", "--iterations", 30, *SMALL, "--out", out, "--plot", plot)
    arrays = np.load(out)
    assert arrays["x"].shape == (400, 10)
    assert abs(log_mean_exp(arrays["log_weight"].astype(float)) - found["log_z"]) < 1e-4
    assert found["elbo"] <= found["log_z"]
    assert 0 < found["ess"] <= 1
    assert found["log_z_se"] > 0
    assert found["iterations"] == 30
    assert {"k_hat", "warning", "seed", "check"} <= set(found)
    with Image.open(plot) as image:
        assert image.width > 400
    again = figures("funnel1", "--iterations", 30, *SMALL)
    assert again["log_z"] == found["log_z"]


def test_a_users_function_is_sampled(tmp_path, monkeypatch):
    (tmp_path / "my_density.py").write_text(
        "def log_prob(x):\n    return -((x - 1) ** 2).sum(-1) / 2\n"
        "def bad(x):\n    return x * float('nan')\n"
        "three = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    found = figures(
        "my_density:log_prob", "--dim", 3, "--iterations", 60, "--steps", 12, "--n", 2000,
        "--seed", 0,
    )  # fmt: skip
    assert abs(found["log_z"] - 1.5 * np.log(2 * np.pi)) < 0.1
    for name, message in (
        ("my_density:bad", "expected (2,)"),
        ("my_density:three", "must be a function"),
        ("my_density:nothing", "has no 'nothing'"),
        ("no_such_module:f", "cannot import"),
    ):
        result = run(name, "--dim", 3, "--iterations", 2)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
        assert "Traceback" not in result.output
    result = run("my_density:log_prob", "--iterations", 2)
    assert "dim is needed" in result.output


@pytest.mark.parametrize("method", ["smc", "ais", "pis+smc"])
def test_every_method_has_the_same_figures(method):
    budget = () if method in ("smc", "ais") else ("--iterations", 20)
    found = figures("mog9", "--method", method, *budget, *SMALL, "--start", 5)
    assert found["method"] == method
    assert abs(found["log_z"]) < (3 if budget else 0.5)
    assert found["elbo"] is None


def test_a_saved_sampler_is_sampled_again(tmp_path):
    model = tmp_path / "pis.safetensors"
    figures("mog9", "--iterations", 20, *SMALL, "--model", model)
    found = figures("mog9", "--no-fit", "--model", model, "--n", 300, "--seed", 1)
    assert "iterations" not in found
    result = run("funnel", "--no-fit", "--model", model)
    assert result.exit_code == 2
    assert "dim = 2, the density has 10" in " ".join(result.output.split())


def test_a_sampler_that_cannot_be_trusted_is_said_to_be():
    found = figures("funnel", "--iterations", 1, *SMALL)
    assert "do not trust" in found["warning"]
    result = run("funnel", "--iterations", 1, *SMALL)
    assert "warning" in result.output


def test_a_killed_fit_goes_on(tmp_path):
    state = tmp_path / "state.safetensors"
    options = ("mog9", "--iterations", 8, *SMALL, "--checkpoint", state)
    whole = figures(*options)
    assert figures(*options, "--resume")["log_z"] == whole["log_z"]
    result = run("mog9", "--iterations", 9, *SMALL, "--checkpoint", state, "--resume")
    assert result.exit_code == 2
    assert "another total" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["funel"], "Did you mean 'funnel'"),
        (["cox"], "give --data"),
        (["cox", "--data", "none.csv"], "there is no file"),
        (["funnel", "--dim", "3"], "has dim 10"),
        (["funnel", "--method", "pi"], "Did you mean 'pis'"),
        (["funnel", "--n", "1"], "n must be at least 2"),
        (["funnel", "--iterations", "0"], "iterations must be at least 1"),
        (["funnel", "--fit-seconds", "-1"], "seconds must be > 0"),
        (["funnel", "--fit-seconds", "1", "--iterations", "2"], "not both"),
        (["funnel", "--iterations", "2", "--loss", "lk"], "loss='lk' is not known"),
        (["funnel", "--variance", "-1"], "horizon > 0"),
        (["funnel", "--out", "x.csv"], "must end in .npz"),
        (["funnel", "--out", "no/such/x.npz"], "does not exist"),
        (["funnel", "--plot", "x.doc"], "must end in .png"),
        (["funnel", "--no-fit"], "needs --model"),
        (["funnel", "--no-fit", "--model", "none.safetensors"], "there is no sampler file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []
