"""Path measures: kernels with a density in noise space, weights, and resampling."""

from redrift.measure.kernel import GaussianKernel, Kernel
from redrift.measure.noise import NoiseLaw
from redrift.measure.resampling import multinomial, resample, residual, stratified, systematic
from redrift.measure.weights import Weights

__all__ = [
    "GaussianKernel",
    "Kernel",
    "NoiseLaw",
    "Weights",
    "multinomial",
    "resample",
    "residual",
    "stratified",
    "systematic",
]
