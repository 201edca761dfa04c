"""Control of a chain towards a density (L4): the path integral sampler and its baselines."""

from redrift.control.annealed import Annealed, anneal
from redrift.control.check import Check, TrustWarning
from redrift.control.hmc import hmc
from redrift.control.nets import Control
from redrift.control.pis import PIS, LogZ
from redrift.control.recipe import History, Recipe
from redrift.control.reference import Reference, reference_chain

__all__ = [
    "PIS",
    "Annealed",
    "Check",
    "Control",
    "History",
    "LogZ",
    "Recipe",
    "Reference",
    "TrustWarning",
    "anneal",
    "hmc",
    "reference_chain",
]
