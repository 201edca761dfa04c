"""Distances between sets of samples (L1)."""

from redrift.metrics.frechet import frechet, frechet_floor
from redrift.metrics.wasserstein import energy_distance, sliced_wasserstein, wasserstein_1d

__all__ = [
    "energy_distance",
    "frechet",
    "frechet_floor",
    "sliced_wasserstein",
    "wasserstein_1d",
]
