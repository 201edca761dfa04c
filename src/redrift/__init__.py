"""redrift: change the drift; know the cost.

A `Process` says what noise does to data, a `Denoiser` predicts on it, a `Plan` steps it, and
`sample` walks the plan.
"""

from redrift import collage, control, denoise, filters, guidance, process, solvers, targets
from redrift._core.errors import NumericalError
from redrift.calibration import calibrate
from redrift.control import PIS
from redrift.denoise import Denoiser, Guided, load, save
from redrift.filters import StateSpace, particle_filter
from redrift.guidance import SCG
from redrift.pretrained import pretrained
from redrift.process import (
    CLD,
    EDM,
    VE,
    VP,
    Blur,
    Brownian,
    Flow,
    OrnsteinUhlenbeck,
    SubVP,
    TableProcess,
    timegrid,
)
from redrift.sampling import sample
from redrift.solvers import (
    Plan,
    best_plan,
    ddim,
    ddpm,
    deis,
    dpmpp,
    exponential_sde,
    gddim,
    heun,
    ipndm,
    krogstad,
    plan_for,
    res,
    rho_rk,
)

__version__ = "0.1.0"

__all__ = [
    "CLD",
    "EDM",
    "PIS",
    "SCG",
    "VE",
    "VP",
    "Blur",
    "Brownian",
    "Denoiser",
    "Flow",
    "Guided",
    "NumericalError",
    "OrnsteinUhlenbeck",
    "Plan",
    "StateSpace",
    "SubVP",
    "TableProcess",
    "best_plan",
    "calibrate",
    "collage",
    "control",
    "ddim",
    "ddpm",
    "deis",
    "denoise",
    "dpmpp",
    "exponential_sde",
    "filters",
    "gddim",
    "guidance",
    "heun",
    "ipndm",
    "krogstad",
    "load",
    "particle_filter",
    "plan_for",
    "pretrained",
    "process",
    "res",
    "rho_rk",
    "sample",
    "save",
    "solvers",
    "targets",
    "timegrid",
]
