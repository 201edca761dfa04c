"""The collage command: what it writes, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from redrift.cli.app import app

RUN = CliRunner()


def run(*arguments):
    return RUN.invoke(app, ["collage", *(str(a) for a in arguments)])


def figures(*arguments):
    result = run(*arguments, "--json", "-")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("options", "shape", "size"),
    [
        (["--layout", "chain", "--count", 5], [1, 8, 24], (24, 8)),
        (["--layout", "ring", "--count", 4], [1, 8, 16], (16, 8)),
        (["--layout", "grid", "--count", "3x2"], [1, 12, 16], (16, 12)),
        (["--layout", "torus", "--count", "4x3"], [1, 12, 16], (16, 12)),
        (["--layout", "cubemap"], [1, 6, 8, 8], (32, 16)),
    ],
)
def test_every_layout_writes_its_picture_unscaled(options, shape, size, tmp_path):
    picture, tensors = tmp_path / "x.png", tmp_path / "x.safetensors"
    found = figures("digits", *options, "--evaluations", 3, "--seed", 0, "--out", picture,
                    "--save", tensors)  # fmt: skip
    assert found["shape"] == shape
    assert found["evaluations"] == 3
    x = load_file(tensors)["samples"]
    assert list(x.shape) == [1, *shape]
    with Image.open(picture) as image:
        assert image.size == size
        pixels = torch.from_numpy(np.array(image)).double()
    if shape[1] != 6:
        wanted = ((x[0, 0] + 1) * 127.5).round().clamp(0, 255)
        assert (pixels - wanted).abs().max() <= 1


def test_compare_shows_three_schemes_from_one_noise_and_their_seams(tmp_path):
    picture = tmp_path / "x.png"
    found = figures("digits", "--count", 7, "--label", "3,8", "--evaluations", 10, "--seed", 1,
                    "--compare", "--out", picture)  # fmt: skip
    ratio = found["seam_ratio"]
    assert list(ratio) == ["independent", "average", "kikuchi"]
    assert ratio["independent"] > 1.5 * ratio["kikuchi"]
    with Image.open(picture) as image:
        assert image.width > 7 * 4
    alone = figures("digits", "--count", 7, "--label", "3,8", "--evaluations", 10, "--seed", 1)
    assert alone["seam_ratio"]["kikuchi"] == ratio["kikuchi"]


def test_correctors_and_micro_batches_are_options():
    found = figures("digits", "--count", 3, "--evaluations", 4, "--correctors", 2, "--max-batch", 1,
                    "--label", "3", "--guidance", 2, "--seed", 0)  # fmt: skip
    assert found["evaluations"] == 12
    assert "2 correctors" in found["plan"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digts"], "Did you mean 'digits'"),
        (["digits", "--layout", "chian"], "Did you mean 'chain'"),
        (["digits", "--layout", "ring", "--count", "2"], "use at least 3 windows"),
        (["digits", "--layout", "grid", "--count", "4"], "columns x rows"),
        (["digits", "--count", "four"], "must be a number"),
        (["digits", "--count", "0"], "count must be at least 1"),
        (["digits", "--layout", "cubemap", "--count", "3"], "takes no --count"),
        (["digits", "--overlap", "8"], "the nearest is 7"),
        (["digits", "--label", "11"], "at most 9"),
        (["digits", "--label", "three"], "Options: 0, 1, 2"),
        (["digits", "--guidance", "2"], "give --label too"),
        (["digits", "--counting", "kikuch"], "Did you mean 'kikuchi'"),
        (["digits", "--correctors", "-1"], "steps must be at least 0"),
        (["digits", "--out", "no/such/folder/x.png"], "does not exist"),
        (["digits", "--evaluations", "2", "--count", "2", "--out", "x.doc"], "use .png"),
        (["digits-cld", "--layout", "chain", "--count", "2", "--max-batch", "0"], "at least 1"),
        (["digits-blur", "--count", "2"], "give the canvas's own as process="),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_help_teaches():
    text = run("--help").output
    assert "Example" in text
    assert "cubemap" in text
