"""Run benchmarks by name and write each one's result with what is needed to judge it."""

import argparse
import datetime
import importlib
import json
import os
import pkgutil
import re
import subprocess
from pathlib import Path

import torch

import benchmarks
from redrift._core.files import write_atomically

FOLDER = Path(__file__).parent
NAMES = sorted(m.name for m in pkgutil.iter_modules([str(FOLDER)]) if m.name[0] != "_")


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; all if none"
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: a smoke test")
    parser.add_argument(
        "--part", action="append", default=[], metavar="PART",
        help="run this part of a benchmark that has parts, take the others from the newest result",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=FOLDER / "results", metavar="DIR")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name in options.names or NAMES:
        write(name, quick=options.quick, out=options.out, parts=tuple(options.part))


def write(name, *, quick, out, parts=()):
    """Run one benchmark; write `<date>-<hardware>-<name>.json` and, with matplotlib, a plot."""
    module = importlib.import_module(f"benchmarks.{name}")
    if parts and not hasattr(module, "run_parts"):
        raise SystemExit(f"{name} has no parts: leave --part out")
    torch.manual_seed(benchmarks.SEED)
    facts = about()
    result = (
        module.run_parts(parts, newest(name).get("result", {}), facts)
        if parts
        else module.run(quick)
    )
    record = {"benchmark": name, "quick": quick, **facts, "result": result}
    text = json.dumps(record, indent=1) + "\n"
    path = out / f"{facts['date']}-{slug(facts)}-{name}.json"
    write_atomically(path, lambda target: Path(target).write_text(text, encoding="utf-8"))
    print(json.dumps(result, indent=1))
    print(f"wrote {path}")
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    picture = path.with_suffix(".png")
    write_atomically(picture, lambda target: module.plot(result, target))
    print(f"wrote {picture}")


def newest(name):
    """Return the newest full record of a benchmark in `results`, or an empty one."""
    found = sorted((FOLDER / "results").glob(f"*-{name}.json"), reverse=True)
    records = (json.loads(path.read_text(encoding="utf-8")) for path in found)
    return next((record for record in records if not record["quick"]), {})


def about():
    """Return the facts of this run: time, code, software and machine."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": commit(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "seed": benchmarks.SEED,
    }


def commit():
    """Return the commit, with a + where files differ from it, or None outside a repository."""
    try:
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments):
    done = subprocess.run(
        ["git", *arguments], cwd=FOLDER, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def processor():
    """Return the name of the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else "unknown"


def slug(facts):
    """Return processor and cores as part of a file's name."""
    name = re.sub(r"[^a-z0-9]+", "-", facts["processor"].lower()).strip("-")
    return f"{name}-{facts['cores']}-cores"


if __name__ == "__main__":
    main()
