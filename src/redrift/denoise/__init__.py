"""Predictions of a process: networks, exact oracles and wrappers (L2)."""

from redrift.denoise.denoiser import Denoiser, Shared
from redrift.denoise.exact import Empirical, Gaussian, GaussianMixture
from redrift.denoise.mixed import Mixed
from redrift.denoise.store import load, save
from redrift.denoise.wrappers import Guided, Preconditioned, Wrapper

__all__ = [
    "Denoiser",
    "Empirical",
    "Gaussian",
    "GaussianMixture",
    "Guided",
    "Mixed",
    "Preconditioned",
    "Shared",
    "Wrapper",
    "load",
    "save",
]
