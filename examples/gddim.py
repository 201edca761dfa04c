"""gDDIM on critically-damped Langevin diffusion: the root matters, and so does the order."""

import torch

import redrift as rd
from redrift.denoise import GaussianMixture

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)

# An exact denoiser of (position, velocity): errors below are the solver's own.
process = rd.CLD()
means = 0.5 * torch.randn(8, 4, generator=generator, dtype=torch.float64)
std = 0.05 + 0.1 * torch.rand(8, 4, generator=generator, dtype=torch.float64)
model = GaussianMixture(torch.ones(8, dtype=torch.float64), means, std, process)

shape = (64, 4)


def run(plan):
    """Sample from the same noise each time."""
    fresh = [torch.Generator().manual_seed(i) for i in range(shape[0])]
    return rd.sample(model, plan, shape=shape, dtype=torch.float64, generator=fresh)


exact = run(rd.gddim(process, rd.timegrid(process, 300), order=4))
print(f"{'evaluations':24s}" + "".join(f"{n:>10d}" for n in (10, 20, 50)))
rows = {f"R, order {q}": {"order": q} for q in (1, 2, 3, 4)}
rows["L (Cholesky), order 2"] = {"order": 2, "root": "L"}
for name, options in rows.items():
    errors = []
    for steps in (10, 20, 50):
        x = run(rd.gddim(process, rd.timegrid(process, steps), **options))
        errors.append(float((x - exact).pow(2).mean(1).sqrt().median()))
    print(f"{name:24s}" + "".join(f"{e:10.1e}" for e in errors))

# Nothing else changes for a shipped network on the same process.
digits = rd.pretrained("digits-cld")
plan = rd.gddim(digits.process, rd.timegrid(digits.process, 20), order=2)
label = torch.arange(10)
x = rd.sample(digits, plan, shape=(10, 1, 8, 8), cond={"label": label}, generator=generator)
print(plan)
print("mean brightness of 0 to 9:", [round(float(v), 2) for v in x.mean((1, 2, 3))])
