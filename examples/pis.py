"""The path integral sampler on nine modes: weights that tell the truth, and a lie that is caught."""

import warnings

import torch

import redrift as rd
from redrift.control import Architecture, Buffer, Objective, anneal, sample_smc
from redrift.targets import grid9

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
target = grid9()  # log Z = 0, nine equal modes

# Train for a few seconds; coordinates and first samples come from short annealed chains.
pis = rd.PIS(target, steps=40)
pis.fit(
    iterations=250,
    particles=2000,
    objective=Objective(points=1024),
    check=False,
    generator=generator,
)
x, w = pis.sample(4000, generator=generator)
print(
    f"PIS         log Z {w.log_z:+.4f} +- {w.log_z_se:.4f}  ESS {w.ess:.2f}  k-hat {w.k_hat:.2f}"
)

x, w = sample_smc(pis, 4000, generator=generator)
print(f"PIS + SMC   log Z {w.log_z:+.4f}              ESS {w.ess:.2f}")

run = anneal(target.log_prob, target.score, 2, 4000, scale=5.0, generator=generator)
print(f"SMC         log Z {run.weights.log_z:+.4f}              {run.temperatures} temperatures")

# The bound from below needs nothing; the one from above needs samples of the target.
low, high = pis.elbo(4000, generator=generator), pis.eubo(target.sample(2000, generator=generator))
print(f"bounds      {low.value:+.4f} <= log Z <= {high.value:+.4f}")

# A control that cannot see the density's gradient, taught one mode only: its weights look fine.
blind = rd.PIS(target, reference=rd.Brownian(25.0), steps=40, network=Architecture(gradient=False))
one = 0.5477 * torch.randn(3000, 2, generator=generator)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    taught = Buffer(one, on_policy=0.0)
    blind.fit(
        300, buffer=taught, objective=Objective(points=800), check=False, generator=generator
    )
    _, w = blind.sample(4000, generator=generator)
print(f"one mode    log Z {w.log_z:+.4f} +- {w.log_z_se:.4f}  ESS {w.ess:.2f}")
print(blind.check(generator=generator).concern)
