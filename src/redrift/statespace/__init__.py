"""State-space models: where the state lives, how it moves, what is measured, and weighted particles."""

from redrift.statespace.cloud import ParticleCloud
from redrift.statespace.model import StateSpace
from redrift.statespace.prior import GaussianPrior
from redrift.statespace.recursion import FilterState, Proposal
from redrift.statespace.sensor import Sensor
from redrift.statespace.space import Euclidean, Space

__all__ = [
    "Euclidean",
    "FilterState",
    "GaussianPrior",
    "ParticleCloud",
    "Proposal",
    "Sensor",
    "Space",
    "StateSpace",
]
