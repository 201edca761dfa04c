"""Two-stage RES against two-stage DPM-Solver++: what the exact second condition buys."""

import torch

import redrift as rd
from redrift.denoise import GaussianMixture
from redrift.solvers.conditions import conditions

torch.set_num_threads(1)
process = rd.VP()

# The order conditions, evaluated on the tables of one step.
for name, plan in {
    "RES": rd.res(process, rd.timegrid(process, 2), order=2),
    "DPM-Solver++": rd.dpmpp(process, rd.timegrid(process, 2), order=2, single=True),
}.items():
    print(f"{name:14s} residual of the slope condition {conditions(plan.rule).psi2:+.1e}")

# Numerical defect on mixtures of sixteen narrow Gaussians, quadratic grid.
ratios = {budget: [] for budget in (9, 10, 15, 20)}
for seed in range(3):
    g = torch.Generator().manual_seed(seed)
    means = 0.5 * torch.randn(16, 8, generator=g, dtype=torch.float64)
    std = 0.02 * 7.5 ** torch.rand(16, 8, generator=g, dtype=torch.float64)
    model = GaussianMixture(torch.ones(16, dtype=torch.float64), means, std, process)
    x = torch.randn(128, 8, generator=g, dtype=torch.float64)
    exact = rd.sample(model, rd.deis(process, rd.timegrid(process, 400), order=4), x=x)
    for budget, found in ratios.items():
        defect = {}
        for solver, options in {"res": {}, "dpmpp": {"single": True}}.items():
            plan = rd.plan_for(process, budget, solver=solver, order=2, **options)
            distance = (rd.sample(model, plan, x=x) - exact).pow(2).mean(1).sqrt()
            defect[solver] = float(distance.median())
        found.append(defect["res"] / defect["dpmpp"])
for budget, found in ratios.items():
    print(f"{budget:3d} evaluations: RES / DPM-Solver++ = " + ", ".join(f"{r:.2f}" for r in found))
