"""The guide command: what it writes, and what it refuses."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

import redrift as rd
from redrift.cli.app import app
from redrift.cli.guide import METHODS, RULES, find_rule, noisy_plan
from redrift.cli.pictures import grid

RUN = CliRunner()
QUICK = ("--evaluations", 12, "--candidates", 4, "--n", 6, "--seed", 0)

RULE = """
import torch

def dark(x):
    return (x + 1).flatten(1).mean(1)

def crash(x):
    raise KeyError("tempo")

def scalar(x):
    return x.mean()

def nan(x):
    return torch.full((len(x),), float("nan"))

def shift(x):
    x += 1
    return x.flatten(1).mean(1)

number = 3
"""


def run(*arguments):
    return RUN.invoke(app, ["guide", *(str(a) for a in arguments)])


def figures(*arguments):
    result = run(*arguments, "--json", "-")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def rules(tmp_path, monkeypatch):
    """Work in an empty folder, with a module of rules beside it on the path."""
    home = tmp_path / "rules"
    home.mkdir()
    (home / "house_rules.py").write_text(RULE)
    monkeypatch.syspath_prepend(str(home))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.mark.parametrize("method", METHODS)
def test_every_method_lowers_the_loss_of_the_same_seeds(method, tmp_path):
    picture, tensors = tmp_path / "x.png", tmp_path / "x.safetensors"
    found = figures("digits", "--rule", "symmetry", "--method", method, *QUICK, "--n", 16,
                    "--out", picture, "--save", tensors)  # fmt: skip
    assert found["loss"] < 0.75 * found["unguided_loss"]
    x = load_file(tensors)["samples"]
    assert x.shape == (16, 1, 8, 8)
    assert float(RULES["symmetry"]()(x).mean()) == pytest.approx(found["loss"])
    model = rd.pretrained("digits")
    plain = rd.sample(
        model, noisy_plan(model.process, 12), shape=(16, 1, 8, 8),
        cond={"label": torch.full((16,), 10)},
        generator=[torch.Generator().manual_seed(i) for i in range(16)],
    )  # fmt: skip
    assert float(RULES["symmetry"]()(plain).mean()) == pytest.approx(found["unguided_loss"])
    weighted = method not in ("scg", "treeg", "treeg-sd")
    assert (found["log_z"] is not None) == weighted
    assert (found["ess"] is not None) == weighted
    assert not weighted or (0 < found["ess"] <= 1 and found["log_z"] < 0)
    with Image.open(picture) as image:
        tiles = grid(x)  # the lower of two grids
        corner = image.height - tiles.height - 6
        lower = image.crop((150, corner, 150 + tiles.width, corner + tiles.height))
        assert lower.tobytes() == tiles.convert("RGB").tobytes()


def test_evaluations_are_counted_and_one_candidate_is_unguided():
    found = figures("digits", "--active", 1, *QUICK)
    assert found["evaluations"] == 1 + 11 * 4
    assert figures("digits", "--method", "fk", *QUICK)["evaluations"] == 12 * 4
    alone = figures("digits", *QUICK, "--candidates", 1)
    assert alone["loss"] == alone["unguided_loss"]
    assert alone["evaluations"] == 12


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_with_a_target_is_told_it(rule):
    x = torch.full((1, 1, 8, 8), -1.0)
    x[..., 2:4, 2:4] = 1.0
    if rule == "symmetry":
        with pytest.raises(ValueError, match="takes no --target"):
            find_rule(rule, 1)
        return
    near, far = {"components": (1, 3), "jpeg_size": (0, 5000), "brightness": (-0.9, 0.9)}[rule]
    assert float(find_rule(rule, near)(x)) < float(find_rule(rule, far)(x))


@pytest.mark.parametrize("model", ["digits-cld", "digits-blur"])
def test_langevin_and_blurring_models_are_guided_too(model):
    found = figures(model, "--rule", "symmetry", *QUICK)
    assert found["loss"] < found["unguided_loss"]
    assert "gDDIM" in found["plan"]


def test_a_function_of_ones_own_is_a_rule(rules):
    found = figures("digits", "--rule", "house_rules:dark", "--label", 3, *QUICK)
    assert found["loss"] < 0.95 * found["unguided_loss"]
    again = figures("digits", "--rule", "house_rules:dark", "--label", 3, *QUICK)
    assert again["loss"] == found["loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digts"], "Did you mean 'digits'"),
        (["digits", "--rule", "symetry"], "Did you mean 'symmetry'"),
        (["digits", "--rule", "no_such_module:loss"], "cannot import 'no_such_module'"),
        (["digits", "--rule", "house_rules:light"], "has no 'light'"),
        (["digits", "--rule", "house_rules:number"], "is no function"),
        (["digits", "--rule", "house_rules:crash"], "failed with KeyError: 'tempo'"),
        (["digits", "--rule", "house_rules:scalar"], "returned shape () for 2 samples"),
        (["digits", "--rule", "house_rules:nan"], "is not finite for samples [0, 1]"),
        (["digits", "--rule", "house_rules:shift"], "changed its input in place"),
        (["digits", "--rule", "house_rules:dark", "--target", "1"], "put it into your function"),
        (["digits", "--rule", "symmetry", "--target", "1"], "takes no --target"),
        (["digits", "--rule", "components", "--target", "1.5"], "whole number"),
        (["digits", "--rule", "brightness", "--target", "2"], "[-1, 1]"),
        (["digits", "--method", "scgg"], "Did you mean 'scg'"),
        (["digits", "--candidates", "0"], "candidates must be at least 1"),
        (["digits", "--n", "0"], "n must be at least 1"),
        (["digits", "--every", "0"], "every must be at least 1"),
        (["digits", "--active", "0"], "nothing would be guided"),
        (["digits", "--active", "0.02"], "no step of the plan begins within"),
        (["digits", "--inverse-temperature", "0"], "inverse_temperature must be positive"),
        (["digits", "--inverse-temperature", "-2", "--method", "fk"], "must be positive"),
        (["digits", "--solver", "deis"], "leave --solver out"),
        (["digits", "--max-batch", "0"], "max_batch must be at least 1"),
        (["digits-cld", "--method", "treeg-sd"], "CLD with k = 2 may not have: use TreeG"),
        (["digits", "--label", "11"], "at most 9"),
        (["digits", "--out", "no/such/folder/x.png"], "does not exist"),
        (["digits", "--out", "x.doc"], "use .png"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(arguments, message, rules):
    result = run(*arguments[:1], "--evaluations", 4, "--n", 2, *arguments[1:])
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert list(rules.iterdir()) == []


def test_help_teaches():
    text = run("--help").output
    assert "Example" in text
    assert "module:function" in text
