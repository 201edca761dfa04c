"""The laws are seen to fail: every planted bug turns the laws red that are named with it.

The laws run in a process of their own that imports the copy with the bug; a law is red when a test of it
fails on what it checks: a test that cannot be found, collected or imported is an error here, not a catch.
The same laws must pass on a copy without any bug.

Run as a program, this file is that process: `python test_planted.py FOLDER LAW...` runs the laws on the
copy in the folder and writes what became of every test.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from planted import bugs, plant

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "redrift"
OUTCOMES = "outcomes.json"
WRONG_PACKAGE = 90
# A test that ends with one of these says that the planted text is broken, not that the law holds.
BROKEN = {"AttributeError", "ImportError", "ModuleNotFoundError", "NameError", "SyntaxError"}


@pytest.mark.parametrize("bug", bugs(), ids=lambda bug: bug.name)
def test_a_planted_bug_applies(bug, tmp_path):
    for place, _, _ in bug.edits:
        module = Path(*place.partition(":")[0].split("."))
        file = module.with_suffix(".py") if not (SRC / module).is_dir() else module / "__init__.py"
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SRC / file, tmp_path / file)
    for edit in bug.edits:
        plant(tmp_path, *edit)


@pytest.mark.planted
def test_the_laws_pass_without_a_bug(tmp_path):
    copy = copied(tmp_path)
    laws = sorted({law for bug in bugs() for law in bug.laws})
    code, outcomes, output = run_laws(copy, laws)
    assert code == 0, output
    for law in laws:
        assert {o for test, o, _ in outcomes if belongs(test, law)} == {"passed"}, (law, output)


@pytest.mark.planted
@pytest.mark.parametrize("bug", bugs(), ids=lambda bug: bug.name)
def test_a_planted_bug_turns_its_laws_red(bug, tmp_path):
    copy = copied(tmp_path)
    for edit in bug.edits:
        plant(copy / "src" / "redrift", *edit)
    code, outcomes, output = run_laws(copy, bug.laws)
    assert code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), output
    for law in bug.laws:
        found = [(o, error) for test, o, error in outcomes if belongs(test, law)]
        assert found, f"{law} did not run:\n{output}"
        assert all(error not in BROKEN for _, error in found), output
        assert any(o == "failed" for o, _ in found), f"{law} did not see the bug"


def copied(folder):
    """Copy what the laws need into a folder."""
    clean = shutil.ignore_patterns("__pycache__", ".hypothesis")
    for part in ("src", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=clean)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def belongs(test, law):
    """Say whether a test is one of a law, named with its parameters or without."""
    return test == f"tests/laws/{law}" or test.startswith(f"tests/laws/{law}[")


def run_laws(copy, laws):
    """Run laws on a copy: the exit code, (test, outcome, error) of each, and what was printed."""
    done = subprocess.run(
        [
            sys.executable,
            "-B",
            str(copy / "tests" / "planted" / "test_planted.py"),
            str(copy),
            *laws,
        ],
        cwd=copy,
        env={
            **os.environ,
            "PYTHONPATH": f"{copy / 'src'}{os.pathsep}{copy / 'tests'}",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert (copy / OUTCOMES).is_file(), output
    return done.returncode, json.loads((copy / OUTCOMES).read_text()), output


class Recorder:
    """Keep the outcome of every test, and the error where there is one."""

    def __init__(self):
        self.outcomes = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        # a failing fixture is an error, which no law may be named for
        if report.when == "call" or not report.passed:
            outcome = report.outcome if report.when == "call" else f"{report.when} failed"
            error = call.excinfo.typename if call.excinfo else None
            self.outcomes.append((item.nodeid, outcome, error))
        return report


def main(folder, *laws):
    import redrift

    if Path(folder).resolve() not in Path(redrift.__file__).resolve().parents:
        print(f"the laws would run on {redrift.__file__}, not on the copy in {folder}")
        return WRONG_PACKAGE
    recorder = Recorder()
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist"]
    code = pytest.main([*options, *(f"tests/laws/{law}" for law in laws)], plugins=[recorder])
    (Path(folder) / OUTCOMES).write_text(json.dumps(recorder.outcomes))
    return int(code)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
