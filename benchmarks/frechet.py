"""What the shipped networks' samples look like: Frechet distance over a small classifier's features.

The distance is between Gaussian fits of features that a classifier trained on the same data computes
(`redrift.metrics.frechet`; never called FID, whose features and data are others), to real pictures
of the same labels, for plans and for diffusers' schedulers from the same noise. Beside them: the
floor, real pictures against real ones; a Gaussian fitted to the pixels; and the mean picture of each
class. The colour network needs REDRIFT_CIFAR10, the path of a parquet file with the columns `img`
and `label`.
"""

import io
import math
import os
import time
from pathlib import Path

import torch
from torch import Tensor

import redrift as rd
from benchmarks import _peers as peers
from benchmarks import _problems as problems
from benchmarks.solvers import PLANS, mean, plan, rounded, shipped
from redrift.metrics import frechet, frechet_floor
from redrift.metrics.frechet import halves
from redrift.pretrained import classifier

FRECHET_PLANS = ("best_plan", "DDIM", "DEIS 3", "RES 2S")
CONFIGS = (
    *("DDIM, leading, to zero", "DPM++2M, linspace, to zero", "UniPC2 bh2, linspace, to zero"),
    *("DEIS2, linspace", "DEIS3, exponential", "DPM++3M, exponential, to min"),
)


def run(quick):
    result = {}
    for name in ("digits", "cifar10"):
        began = time.process_time()
        found = frechet_table(name, quick)
        if found:
            result[name] = found
            show(name, found)
            print(f"{name}: {time.process_time() - began:.0f} s", flush=True)
    return result


def show(name, found):
    print(
        f"\n{name}, {found['samples']} samples: floor {found['floor']}, converged {found['converged']}"
    )
    print(f"  Gaussian fit {found['gaussian']}, class means {found['means']}")
    for kind in ("redrift", "diffusers"):
        for row, values in found[kind].items():
            print(f"  {row:34s}" + "".join(f"{v!s:>9s}" for v in values))


def frechet_table(name: str, quick: bool) -> dict | None:
    """Return Frechet distances over the features of the shipped classifier, with a floor."""
    if name not in shipped() or (name == "cifar10" and quick):
        return None
    real = real_pictures(name)
    if real is None:
        return None
    features = classifier(name).features
    model = problems.shipped(name)
    images, labels = real
    half = 400 if quick else len(images) // 2
    budgets = (10,) if quick else (5, 10, 20)
    g = torch.Generator().manual_seed(problems.SEEDS[0])
    picks = [halves(len(images), half, labels, generator=g)[0] for _ in range(4)]
    noise, label = torch.randn(half, *model.card["shape"], generator=g), labels[picks[0]]

    seen = mapped(images, features)

    def distance(found: Tensor) -> float:
        mine = mapped(found, features)
        return rounded(mean([frechet(mine, seen[pick]) for pick in picks]))

    floor = frechet_floor(seen, size=half, strata=labels, generator=g)
    out: dict = {"samples": half, "budgets": list(budgets), "floor": rounded(floor)}
    out["redrift"] = {
        plan_name: [distance(drawn(model, noise, label, b, PLANS[plan_name])) for b in budgets]
        for plan_name in FRECHET_PLANS
    }
    out["diffusers"] = {}
    for config_name in CONFIGS[:4] if quick else CONFIGS:
        config = next(c for c in peers.configs() if c.name == config_name)
        rows = [imitated(model, noise, label, b, config) for b in budgets]
        out["diffusers"][config_name] = [None if x is None else distance(x) for x in rows]
    out["gaussian"] = distance(gaussian(images, half, g))
    out["means"] = distance(class_means(images, labels, label))
    out["converged"] = distance(drawn(model, noise, label, 60, dict(solver="deis", order=3)))
    return out


@torch.no_grad()
def mapped(x: Tensor, features) -> Tensor:
    """Return the features of pictures, float64."""
    return torch.cat([features(part).double() for part in x.split(250)])


def gaussian(images: Tensor, n: int, g: torch.Generator) -> Tensor:
    """Draw pictures from a Gaussian with the pixels' mean and covariance."""
    flat = images.flatten(1).double()
    middle = flat.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(flat.T))
    noise = torch.randn(n, len(middle), generator=g, dtype=torch.float64)
    drawn = middle + noise * values.clamp(min=0).sqrt() @ vectors.T
    return drawn.clamp(-1, 1).float().reshape(n, *images.shape[1:])


def class_means(images: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean picture of each wanted class."""
    return torch.stack([images[labels == c].mean(0) for c in range(int(labels.max()) + 1)])[wanted]


def real_pictures(name: str) -> tuple[Tensor, Tensor] | None:
    """Return real pictures in [-1, 1] and their labels, or None where they are not at hand."""
    if name == "digits":
        images, labels = problems.digits()
        return images.float(), labels
    path = os.environ.get("REDRIFT_CIFAR10")
    if not path:
        return None
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.read_table(Path(path), columns=["img", "label"]).slice(0, 1000)
    files = [io.BytesIO(row["bytes"]) for row in table["img"].to_pylist()]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    return images, torch.tensor(table["label"].to_pylist())


def drawn(model, noise: Tensor, label: Tensor, budget: int, options: dict | None) -> Tensor:
    """Sample pictures by the plan that the options ask for."""
    return sampled(model, plan(model.process, budget, options), noise, label)


def sampled(model, made: rd.Plan, noise: Tensor, label: Tensor) -> Tensor:
    """Sample pictures by a plan."""
    x = rd.sample(model, made, x=noise.to(model.device), cond={"label": label.to(model.device)},
                  batch_size=200)  # fmt: skip
    return (x / float(model.process.signal(made.times[-1]))).clamp(-1, 1).cpu()


@torch.no_grad()
def imitated(model, noise: Tensor, label: Tensor, budget: int, config) -> Tensor | None:
    """Sample pictures by a scheduler of diffusers from the same noise."""
    process = model.process

    def denoise(x: Tensor, rho: float) -> Tensor:
        t = process.unclock(torch.tensor(-math.log(rho), dtype=torch.float64))
        z, told = ((x * process.alpha(t)).to(model.device), label.to(model.device))
        parts = zip(z.split(200), told.split(200))
        return torch.cat([model.x0(a, t, label=b) for a, b in parts]).cpu()

    found = peers.drive(config, denoise, lambda rho: noise.double() / peers.alpha(rho), budget)
    return None if found.x is None else found.x.clamp(-1, 1).float()


def plot(result, path):
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(result), figsize=(5 * len(result), 3.6), squeeze=False)
    for axis, (name, found) in zip(axes[0], result.items(), strict=True):
        for row, values in found["diffusers"].items():
            axis.plot(found["budgets"], [math.nan if v is None else v for v in values], "o--", ms=3,
                      color="0.6", lw=0.8, label=f"diffusers {row}")  # fmt: skip
        for row, values in found["redrift"].items():
            axis.plot(found["budgets"], values, "o-", ms=3, label=f"redrift {row}")
        axis.axhline(found["floor"], color="k", lw=0.8, label="real to real")
        axis.set(title=name, xlabel="evaluations", ylabel="Frechet distance", yscale="log")
        axis.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
