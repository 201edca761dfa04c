"""Guidance by rules: policies on a step's law that need no gradient, and wrappers that use one.

`SCG` and its relatives (`SVDD`, `FKSteering`, `TreeG`, `TreeGSD`, `BestOfN`) put the strategies of one
particle engine together, `Particles`; `DPS`, `ClassifierGuidance` and `MaskRule.hard` change the
predictions instead, so that they also serve deterministic plans. `rules` holds losses for pictures.
"""

from redrift.guidance import rules
from redrift.guidance.destinations import Destinations
from redrift.guidance.gradient import DPS, ClassifierGuidance, MaskRule
from redrift.guidance.loss import Loss, Pooled, as_loss
from redrift.guidance.particles import Particles
from redrift.guidance.potential import Potential
from redrift.guidance.presets import SCG, SVDD, BestOfN, FKSteering, TreeG, TreeGSD, TwistedSMC
from redrift.guidance.proposal import Draws, Twisted
from redrift.guidance.result import Guidance
from redrift.guidance.segments import Masks, Segments, equal_segments
from redrift.guidance.selection import Beam, Best, BySegment, Categorical, Resampling

__all__ = [
    "DPS",
    "SCG",
    "SVDD",
    "Beam",
    "Best",
    "BestOfN",
    "BySegment",
    "Categorical",
    "ClassifierGuidance",
    "Destinations",
    "Draws",
    "FKSteering",
    "Guidance",
    "Loss",
    "MaskRule",
    "Masks",
    "Particles",
    "Pooled",
    "Potential",
    "Resampling",
    "Segments",
    "TreeG",
    "TreeGSD",
    "Twisted",
    "TwistedSMC",
    "as_loss",
    "equal_segments",
    "rules",
]
