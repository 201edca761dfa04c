"""Record what the library returns, to show that a change keeps it to the bit.

`python tests/record.py FILE [PART ...]` writes the outputs of every part, or of some, to a safetensors
file; `python tests/record.py --compare BEFORE AFTER` lists what differs, by how much, and what one file
lacks. A part is a module of `tests/recordings` whose `outputs()` yields (name, tensor) pairs.
"""

import importlib
import os
import pkgutil
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from safetensors.torch import load_file, save_file

import recordings


def record(path, *parts):
    torch.set_num_threads(1)
    found = {}
    for part in parts or sorted(
        module.name for module in pkgutil.iter_modules(recordings.__path__)
    ):
        began, count = time.perf_counter(), len(found)
        for name, value in importlib.import_module(f"recordings.{part}").outputs():
            key = f"{part}: {name}"
            assert key not in found, f"{key} is recorded twice"
            found[key] = torch.as_tensor(value).detach().clone().contiguous()
        print(f"{part}: {len(found) - count} outputs, {time.perf_counter() - began:.0f} s")
    save_file(found, path)


def compare(before, after):
    """Print every difference; return whether there is any."""
    old, new = load_file(before), load_file(after)
    for name in sorted(old.keys() ^ new.keys()):
        print(f"only {'before' if name in old else 'after'}: {name}")
    differing = 0
    for name in sorted(old.keys() & new.keys()):
        a, b = old[name], new[name]
        if (
            a.shape == b.shape
            and a.dtype == b.dtype
            and torch.equal(a.nan_to_num(), b.nan_to_num())
        ):
            continue
        differing += 1
        if a.shape != b.shape or a.dtype != b.dtype:
            print(f"{name}: {tuple(a.shape)} {a.dtype} -> {tuple(b.shape)} {b.dtype}")
        else:
            gap = (a.double() - b.double()).abs().max() / a.double().abs().max().clamp_min(1e-300)
            print(f"{name}: {float(gap):.1e} of the largest entry")
    print(f"{len(old.keys() & new.keys())} outputs compared, {differing} differ")
    return differing > 0 or old.keys() != new.keys()


if __name__ == "__main__":
    if sys.argv[1] == "--compare":
        sys.exit(compare(*sys.argv[2:]))
    record(*sys.argv[1:])
