"""Predictions of a process: networks, exact oracles and wrappers (L2)."""

from redrift.denoise.denoiser import Denoiser, Shared
from redrift.denoise.edits import Edited, Inpaint, clip, clip_quantile
from redrift.denoise.exact import Empirical, Gaussian, GaussianMixture
from redrift.denoise.mixed import Mixed
from redrift.denoise.store import load, save
from redrift.denoise.wrappers import Guided, Preconditioned, Wrapper

__all__ = [
    "Denoiser",
    "Edited",
    "Empirical",
    "Gaussian",
    "GaussianMixture",
    "Guided",
    "Inpaint",
    "Mixed",
    "Preconditioned",
    "Shared",
    "Wrapper",
    "clip",
    "clip_quantile",
    "load",
    "save",
]
