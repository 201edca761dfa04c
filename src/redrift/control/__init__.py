"""Control of a chain towards a density (L4): the path integral sampler and its baselines."""

from redrift.control.annealed import Annealed, anneal
from redrift.control.check import Check, LogZ, TrustWarning
from redrift.control.family import dds, dis
from redrift.control.hmc import hmc
from redrift.control.nets import Control
from redrift.control.optimal import MixtureControl
from redrift.control.pis import PIS
from redrift.control.recipe import History, Recipe
from redrift.control.reference import Reference, reference_chain
from redrift.control.steered import steered

__all__ = [
    "PIS",
    "Annealed",
    "Check",
    "Control",
    "History",
    "LogZ",
    "MixtureControl",
    "Recipe",
    "Reference",
    "TrustWarning",
    "anneal",
    "dds",
    "dis",
    "hmc",
    "reference_chain",
    "steered",
]
