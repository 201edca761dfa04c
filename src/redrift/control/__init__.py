"""Control of a chain towards a density (L4): the path integral sampler and its baselines."""

from redrift.control.annealed import Annealed, anneal
from redrift.control.check import Check, LogZ, TrustWarning
from redrift.control.family import dds, dis
from redrift.control.hmc import hmc
from redrift.control.nets import Control
from redrift.control.optimal import MixtureControl
from redrift.control.options import (
    Architecture,
    Buffer,
    Checkpoint,
    History,
    Objective,
    Optimiser,
)
from redrift.control.pis import PIS
from redrift.control.reference import Reference, reference_chain
from redrift.control.smc import sample_smc

__all__ = [
    "PIS",
    "Annealed",
    "Architecture",
    "Buffer",
    "Check",
    "Checkpoint",
    "Control",
    "History",
    "LogZ",
    "MixtureControl",
    "Objective",
    "Optimiser",
    "Reference",
    "TrustWarning",
    "anneal",
    "dds",
    "dis",
    "hmc",
    "reference_chain",
    "sample_smc",
]
