"""State-space models and their filters: path-integral, classical, exact.

`StateSpace` states a model, `particle_filter` filters a record, `ParticleFilter` a stream; `kalman`
and its relatives give the same answers where they can.
"""

from redrift.filters.diagnostics import WindowChoice, choose_window
from redrift.filters.exact import benes, grid_filter
from redrift.filters.kalman import ensemble_kalman, extended_kalman, kalman, unscented_kalman
from redrift.filters.law import Law
from redrift.filters.particle import Bootstrap, ParticleFilter, State
from redrift.filters.pathintegral import Auxiliary, Guided, PathIntegral
from redrift.filters.posterior import GaussianPosterior, Posterior
from redrift.filters.run import particle_filter
from redrift.filters.sensors import Sensor
from redrift.filters.space import Euclidean, Space
from redrift.filters.statespace import Gaussian, StateSpace

__all__ = [
    "Auxiliary",
    "Bootstrap",
    "Euclidean",
    "Gaussian",
    "GaussianPosterior",
    "Guided",
    "Law",
    "ParticleFilter",
    "PathIntegral",
    "Posterior",
    "Sensor",
    "Space",
    "State",
    "StateSpace",
    "WindowChoice",
    "benes",
    "choose_window",
    "ensemble_kalman",
    "extended_kalman",
    "grid_filter",
    "kalman",
    "particle_filter",
    "unscented_kalman",
]
