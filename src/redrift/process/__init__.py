"""Laws of linear SDEs: what noise does to data, and how the state is written (L1)."""

from redrift.process.base import Level, Process
from redrift.process.blur import Blur
from redrift.process.cld import CLD
from redrift.process.convert import PREDICTIONS, convert
from redrift.process.exploding import EDM, VE, Brownian
from redrift.process.flow import Flow
from redrift.process.grids import SPACINGS, timegrid
from redrift.process.ornstein_uhlenbeck import OrnsteinUhlenbeck
from redrift.process.scalar import ScalarProcess
from redrift.process.store import PROCESSES, from_dict, to_dict
from redrift.process.table import TableProcess
from redrift.process.vp import VP, SubVP

__all__ = [
    "CLD",
    "EDM",
    "PREDICTIONS",
    "PROCESSES",
    "SPACINGS",
    "VE",
    "VP",
    "Blur",
    "Brownian",
    "Flow",
    "Level",
    "OrnsteinUhlenbeck",
    "Process",
    "ScalarProcess",
    "SubVP",
    "TableProcess",
    "convert",
    "from_dict",
    "timegrid",
    "to_dict",
]
