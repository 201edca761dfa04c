"""gDDIM on CLD and blurring diffusion: the root, the order, the corrector, the noise.

On an exact mixture: the defect of the position (median over samples of the root mean square distance
to a fine solution from the same noise) against evaluations, for orders 1 to 4 in R and in Cholesky
coordinates and for the corrector. On the shipped digits networks: the Frechet distance over the
features of the shipped classifier to the digits, of twice as many samples with the same labels (the
distance of a finite set is about proportional to one over its size, and a few hundred samples would hide
the methods behind it), beside the distance between the halves of the real digits. A divergent run's
distance is large, not hidden. Part: frechet.
"""

import torch

import redrift as rd
from benchmarks._problems import digits, shipped
from redrift.denoise import GaussianMixture
from redrift.metrics import frechet, frechet_floor
from redrift.pretrained import classifier, names

F64 = torch.float64
BUDGETS = (10, 20, 30, 50, 100)
LAMBDAS = (0.0, 0.1, 0.3, 0.5, 1.0)
SEED = 7


def mixture(process):
    """Return a narrow mixture on the process's data."""
    g = torch.Generator().manual_seed(SEED)
    if process.modes:
        means = torch.randn(12, 1, *process.modes, generator=g, dtype=F64) / 2
        return GaussianMixture(torch.ones(12, dtype=F64), means, torch.full((12,), 0.08, dtype=F64),
                               process)  # fmt: skip
    means = torch.randn(16, 8, generator=g, dtype=F64) / 2
    std = 0.02 * 7.5 ** torch.rand(16, 8, generator=g, dtype=F64)
    return GaussianMixture(torch.ones(16, dtype=F64), means, std, process)


def generators(n):
    return [torch.Generator().manual_seed(SEED + i) for i in range(n)]


def methods(process):
    """Return the deterministic plans by name."""
    found = {f"R, order {q}": {"order": q} for q in (1, 2, 3, 4)}
    found["R, order 2, corrected"] = {"order": 2, "corrector": True}
    if process.k > 1:
        found |= {f"L, order {q}": {"order": q, "root": "L"} for q in (1, 2, 3, 4)}
    return found


def defects(process, budgets, samples):
    """Return the median defect of each plan at each budget."""
    model = mixture(process)
    options = dict(shape=(samples, *model.means.shape[1:]), dtype=F64)
    fine = rd.gddim(process, rd.timegrid(process, 600), order=4)
    exact = rd.sample(model, fine, generator=generators(samples), **options)
    table = {}
    for name, choice in methods(process).items():
        row = {}
        for steps in budgets:
            plan = rd.gddim(process, rd.timegrid(process, steps), **choice)
            try:
                x = rd.sample(model, plan, generator=generators(samples), **options)
            except rd.NumericalError:
                row[steps] = None
                continue
            row[steps] = float((x - exact).flatten(1).pow(2).mean(1).sqrt().median())
        table[name] = row
    return table


def distances(name, budgets, copies):
    """Return the Frechet distance of a shipped network's samples for each plan."""
    model, net = shipped(name), classifier("digits")
    real, labels = digits()
    real, label = real.float(), labels.repeat(copies).to(model.device)
    options = dict(shape=(len(label), 1, 8, 8), cond={"label": label}, batch_size=600,
                   device=model.device)  # fmt: skip
    process = model.process
    plans = {n: c for n, c in methods(process).items() if "corrected" not in n}
    plans |= {f"lambda {v:g}, order 1": {"order": 1, "stochasticity": v} for v in LAMBDAS[1:]}
    table = {}
    for title, choice in plans.items():
        row = {}
        for steps in budgets:
            plan = rd.gddim(process, rd.timegrid(process, steps), **choice)
            try:
                x = rd.sample(model, plan, generator=generators(len(label)), **options)
                row[steps] = float(frechet(x.cpu().clamp(-1e3, 1e3), real, net.features))
            except (rd.NumericalError, ValueError):
                row[steps] = None
        table[title] = row
    floor = frechet_floor(real, net.features, strata=labels, generator=generators(1)[0])
    return {"samples": len(label), "floor": floor, "table": table}


@torch.no_grad()
def run(quick):
    """Measure everything; quick takes fewer samples and budgets."""
    budgets = (10, 20, 50) if quick else BUDGETS
    result = {"defect": {}, "frechet": networks(quick), "seed": SEED}
    for process in (rd.CLD(), rd.Blur((8, 8))):
        table = defects(process, budgets, 64 if quick else 256)
        result["defect"][type(process).__name__] = table
        show(f"defect on {type(process).__name__}", table, budgets)
    return result


@torch.no_grad()
def networks(quick):
    """Return the distances of every shipped digits network."""
    found, budgets = {}, (20, 50) if quick else (20, 30, 50)
    for name in ("digits", "digits-cld", "digits-blur"):
        if name in names():
            found[name] = distances(name, budgets, 1 if quick else 2)
            title = f"Frechet distance, {name} (real to real {found[name]['floor']:.3f})"
            show(title, found[name]["table"], budgets)
    return found


def run_parts(parts, before, facts):
    """Measure the distances again, on this machine."""
    if set(parts) != {"frechet"}:
        raise SystemExit(f"no part {', '.join(parts)}; there is frechet")
    return {**before, "frechet": networks(False), "measured": {"frechet": facts}}


def show(title, table, budgets):
    print(f"\n{title}\n{'':26s}" + "".join(f"{n:>10d}" for n in budgets))
    for name, row in table.items():
        cells = ("   failed" if row[n] is None else f"{row[n]:10.2g}" for n in budgets)
        print(f"{name:26s}" + "".join(f"{cell:>10s}" for cell in cells))


def plot(result, path):
    """Draw the defects of CLD against evaluations."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 4))
    for name, row in result["defect"]["CLD"].items():
        points = [(int(n), v) for n, v in row.items() if v is not None and v < 10]
        style = "--" if name.startswith("L") else ":" if "corrected" in name else "-"
        if points:
            axis.loglog(*zip(*points, strict=True), style, marker="o", label=name)
    axis.set(xlabel="evaluations", ylabel="defect (median)", title="gDDIM on CLD, exact scores")
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
