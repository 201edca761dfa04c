"""Path measures: kernels with a density in noise space, weights, and resampling."""

from redrift.measure.girsanov import control_cost, log_girsanov
from redrift.measure.kernel import GaussianKernel, Kernel
from redrift.measure.noise import Diagonal, NoiseLaw
from redrift.measure.resampling import multinomial, resample, residual, stratified, systematic
from redrift.measure.tail import pareto_k
from redrift.measure.weights import Weights

__all__ = [
    "Diagonal",
    "GaussianKernel",
    "Kernel",
    "NoiseLaw",
    "Weights",
    "control_cost",
    "log_girsanov",
    "multinomial",
    "pareto_k",
    "resample",
    "residual",
    "stratified",
    "systematic",
]
