"""DEIS and RES against DDIM at equal evaluations, on a law whose exact denoiser is known."""

import torch

import redrift as rd
from redrift.denoise import GaussianMixture

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)

# Sixteen narrow Gaussians in eight dimensions: every error below is the solver's own.
process = rd.VP()
means = 0.5 * torch.randn(16, 8, generator=generator, dtype=torch.float64)
std = 0.02 + 0.13 * torch.rand(16, 8, generator=generator, dtype=torch.float64)
model = GaussianMixture(torch.ones(16, dtype=torch.float64), means, std, process)

# The same noise for every solver, and a fine reference that ends at the same level.
x = torch.randn(128, 8, generator=generator, dtype=torch.float64)
fine = rd.deis(process, rd.timegrid(process, 500), order=4)
exact = rd.sample(model, fine, x=x)

solvers = {
    "DDIM": {"solver": "ddim"},
    "DEIS order 2": {"solver": "deis", "order": 2},
    "DEIS order 4": {"solver": "deis", "order": 4},
    "RES 2 stages": {"solver": "res", "order": 2},
    "RES 3 stages": {"solver": "res", "order": 3},
}
print(f"{'evaluations':14s}" + "".join(f"{n:>10d}" for n in (6, 10, 20, 40)))
for name, choice in solvers.items():
    errors = []
    for budget in (6, 10, 20, 40):
        plan = rd.plan_for(process, budget, **choice)
        distance = (rd.sample(model, plan, x=x) - exact).pow(2).mean(1).sqrt()
        errors.append(float(distance.median()))
    print(f"{name:14s}" + "".join(f"{e:10.1e}" for e in errors))

print(plan.cite())
