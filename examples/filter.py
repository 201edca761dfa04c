"""The path-integral particle filter: exact where Kalman is, and where the bootstrap filter is lost."""

import math

import torch

import redrift as rd
from redrift.filters import Bootstrap, ParticleFilter, PathIntegral, grid_filter, kalman
from redrift.statespace.problems import PROBLEMS

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)

# Four integrators, of which the first is seen with sd 1e-3: 8 data sets at once.
chain = PROBLEMS["integrators"]()
x, y = chain.model.simulate(chain.times, batch=8, generator=generator)
exact = kalman(chain.model, y, times=chain.times)
for name, n, proposal in (
    ("bootstrap", 5000, Bootstrap()),
    ("path integral", 50, PathIntegral(chain.window)),
    ("one window", 1, PathIntegral(math.inf, math.inf)),
):
    post = rd.particle_filter(
        chain.model, y, times=chain.times, particles=n, proposal=proposal, generator=generator
    )
    miss = ((post.mean[:, -1] - exact.mean[:, -1]) / exact.std[:, -1]).square().mean().sqrt()
    off = (post.log_evidence - exact.log_evidence).abs().max()
    print(f"integrators  {name:14s} N={n:<5d} error {miss:9.3g} sd   log Z off by {off:.1e}")

# A double well, against a filter on a grid of states; values missing here and there.
well = PROBLEMS["double-well"]()
x, y = well.model.simulate(well.times, batch=8, generator=generator)
y[torch.rand(y.shape, generator=generator) < 0.1] = torch.nan
exact = grid_filter(well.model, y, times=well.times, low=-3.5, high=3.5, points=1200)
post = rd.particle_filter(
    well.model, y, times=well.times, particles=50, generator=generator, smooth=True,
    proposal=PathIntegral(well.window, scope="particle"),
)  # fmt: skip
miss = ((post.mean - exact.mean) / exact.std).square().mean().sqrt()
print(f"double well  ESS/N {post.ess.mean():.2f}   error {miss:.2f} sd (floor {50**-0.5:.2f})")

# A stream: one measurement at a time, constant memory.
track = PROBLEMS["tracking"]()
x, y = track.model.simulate(track.times, generator=generator)
f = ParticleFilter(track.model, 50, PathIntegral(track.window, rao_blackwell=True))
state = f.init()
for t, value in zip(track.times, y[0]):
    state, law = f.update(state, t, value, generator=generator)
exact = kalman(track.model, y[0], times=track.times)
mean, truth = law.mean[0], exact.mean[-1]
print(f"stream       at {law.time:.1f}: mean off Kalman's by {(mean - truth).abs().max():.1e}")
