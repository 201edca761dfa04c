"""State-space models and their filters: path-integral, classical, exact.

`StateSpace` states a model, `particle_filter` filters a series of measurements, `ParticleFilter` a
stream; `kalman` and its relatives give the same answers where they can. The model itself lives in
`redrift.statespace`, the steering of particles in `redrift.pathintegral`; all that a user needs of
them is here.
"""

from redrift.filters.exact import benes_filter, grid_filter
from redrift.filters.kalman import ensemble_kalman, extended_kalman, kalman, unscented_kalman
from redrift.filters.particle import Bootstrap, ParticleFilter, particle_filter
from redrift.filters.plots import plot_posterior, to_arviz
from redrift.filters.posterior import GaussianPosterior, Posterior
from redrift.filters.window_length import WindowChoice, choose_window
from redrift.pathintegral import AuxiliaryProposal, GuidedProposal, PathIntegral
from redrift.statespace import (
    Euclidean,
    FilterState,
    GaussianPrior,
    ParticleCloud,
    Sensor,
    Space,
    StateSpace,
)

__all__ = [
    "AuxiliaryProposal",
    "Bootstrap",
    "Euclidean",
    "FilterState",
    "GaussianPosterior",
    "GaussianPrior",
    "GuidedProposal",
    "ParticleCloud",
    "ParticleFilter",
    "PathIntegral",
    "Posterior",
    "Sensor",
    "Space",
    "StateSpace",
    "WindowChoice",
    "benes_filter",
    "choose_window",
    "ensemble_kalman",
    "extended_kalman",
    "grid_filter",
    "kalman",
    "particle_filter",
    "plot_posterior",
    "to_arviz",
    "unscented_kalman",
]
