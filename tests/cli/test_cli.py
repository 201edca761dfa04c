"""The command line: what it writes, what it refuses, and that it never shows a traceback."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from redrift.cli.app import app
from redrift.denoise import save
from redrift.pretrained import pretrained

RUN = CliRunner()


def run(*arguments):
    return RUN.invoke(app, [str(a) for a in arguments])


def figures(*arguments):
    result = run(*arguments, "--json", "-")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_sample_writes_a_picture_tensors_and_figures(tmp_path):
    picture, tensors = tmp_path / "grid.png", tmp_path / "x.safetensors"
    found = figures(
        "sample", "digits", "--solver", "res", "--order", 3, "--evaluations", 9, "--n", 6, "--seed", 0,
        "--label", 3, "--guidance", 2, "--out", picture, "--save", tensors, "--reference", 40,
    )  # fmt: skip
    assert found["evaluations"] == 9
    assert found["seed"] == 0
    assert found["model"] == "digits"
    assert found["plan"].startswith("RES order 3")
    assert 0 < found["defect"] < 0.2
    assert found["seconds"] > 0
    x = load_file(tensors)["samples"]
    # a sample does not depend on how many are drawn, nor on the batch
    again = tmp_path / "y.safetensors"
    run("sample", "digits", "--solver", "res", "--order", 3, "--evaluations", 9, "--n", 2, "--seed", 0,
        "--label", 3, "--guidance", 2, "--save", again, "--batch-size", 1)  # fmt: skip
    assert torch.allclose(load_file(again)["samples"], x[:2], atol=1e-5)
    with Image.open(picture) as image:
        darkest, brightest = image.getextrema()
    assert darkest == 0
    assert brightest >= 250


def test_a_drawn_seed_is_reported_and_reproduces(tmp_path):
    one, two = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    seed = figures("sample", "digits", "--evaluations", 3, "--n", 1, "--save", one)["seed"]
    figures("sample", "digits", "--evaluations", 3, "--n", 1, "--save", two, "--seed", seed)
    assert torch.equal(load_file(one)["samples"], load_file(two)["samples"])


def test_a_saved_model_is_a_model(tmp_path):
    model, path = pretrained("digits"), tmp_path / "own.safetensors"
    save(model, path)
    ours = figures("sample", path, "--evaluations", 2, "--n", 1, "--seed", 1)
    assert ours["evaluations"] == 2


def test_plan_shows_the_table_and_saves_it(tmp_path):
    path = tmp_path / "plan.json"
    found = figures(
        "plan", "digits", "--solver", "res", "--order", 3, "--evaluations", 7, "--save", path
    )
    assert found["evaluations"] == 7
    assert [len(row["asks"]) for row in found["rows"]] == [1, 3, 3]
    assert found["times"][0] == 1.0
    assert path.exists()


def test_models_lists_the_cards():
    assert figures("models")["models"]["digits"]["classes"] == 10


def test_demo_prints_the_errors_and_draws(tmp_path):
    found = figures("demo", "--quick", "--out", tmp_path / "new")
    errors = found["errors"]["digits"]
    assert errors["DEIS"]["defect"] < errors["DDIM"]["defect"] / 2
    for losses in found["guide"].values():
        assert losses["SCG"] < losses["unguided"]
    with Image.open(tmp_path / "new" / "digits.png") as image:
        assert image.width > 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "digts"], "Did you mean 'digits'"),
        (["sample", "no/such/file.safetensors"], "there is no model file"),
        (["sample", "digits", "--solver", "dies"], "Did you mean 'deis'"),
        (["sample", "digits", "--spacing", "quadratc"], "Did you mean 'quadratic'"),
        (["sample", "digits", "--n", "0"], "n must be at least 1"),
        (["sample", "digits", "--evaluations", "0"], "evaluations must be at least 1"),
        (["sample", "digits", "--steps", "9"], "--evaluations 9"),
        (["plan", "digits", "--steps", "9"], "--evaluations 9"),
        (
            ["sample", "digits", "--evaluations", "2", "--order", "3"],
            "needs at least 3 evaluations",
        ),
        (["sample", "digits", "--label", "10"], "at most 9"),
        (["sample", "digits", "--guidance", "2"], "give --label too"),
        (["sample", "digits", "--out", "no/such/folder/x.png"], "does not exist"),
        (["sample", "digits", "--evaluations", "2", "--n", "1", "--out", "x.doc"], "use .png"),
        (["sample", "digits", "--device", "nonsense"], "device 'nonsense' cannot be used"),
        (["plan", "digits", "--order", "9"], "at most"),
        (["sample", "digits", "--json", "no/such/folder/x.json"], "does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_model_file_is_refused(tmp_path):
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    save(pretrained("digits"), whole)
    cut.write_bytes(whole.read_bytes()[:10_000])
    result = run("sample", cut)
    assert result.exit_code == 2
    assert "truncated" in result.output
    other = whole.read_bytes().replace(b'\\"kind\\": \\"UNet\\"', b'\\"kind\\": \\"ZNet\\"')
    cut.write_bytes(other)
    result = run("sample", cut)
    assert result.exit_code == 2
    assert "architecture='ZNet' is not known" in " ".join(result.output.split())


def test_help_teaches():
    text = run("sample", "--help").output
    assert "Budget" in text
    assert "Example" in text
