"""Path measures: kernels with a density in noise space, weights, and resampling."""

from redrift.measure.girsanov import control_cost, log_girsanov
from redrift.measure.kernel import GaussianKernel, Kernel
from redrift.measure.noise import Diagonal, NoiseLaw
from redrift.measure.resampling import (
    Resampled,
    adaptive_resample,
    effective_share,
    multinomial,
    resample,
    residual,
    stratified,
    systematic,
)
from redrift.measure.tail import pareto_k
from redrift.measure.weights import Weights

__all__ = [
    "Diagonal",
    "GaussianKernel",
    "Kernel",
    "NoiseLaw",
    "Resampled",
    "Weights",
    "adaptive_resample",
    "control_cost",
    "effective_share",
    "log_girsanov",
    "multinomial",
    "pareto_k",
    "resample",
    "residual",
    "stratified",
    "systematic",
]
