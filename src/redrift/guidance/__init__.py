"""Guidance by rules: policies on a step's law that need no gradient, and wrappers that use one.

`SCG` and its relatives (`SVDD`, `FKSteering`, `TreeG`, `TreeGSD`, `BestOfN`) are presets of one particle
engine, `Particles`; `DPS`, `ClassifierGuidance` and `Clamp` change the predictions instead, so that they
also serve deterministic plans. `rules` holds losses for pictures.
"""

from redrift.guidance import rules
from redrift.guidance.gradient import DPS, Clamp, ClassifierGuidance, MaskRule
from redrift.guidance.guided import Guidance
from redrift.guidance.loss import Loss, Pooled, as_loss
from redrift.guidance.particles import Particles
from redrift.guidance.presets import SCG, SVDD, BestOfN, FKSteering, TwistedSMC
from redrift.guidance.segments import Masks, Segments, split
from redrift.guidance.tree import TreeG, TreeGSD

__all__ = [
    "DPS",
    "SCG",
    "SVDD",
    "BestOfN",
    "Clamp",
    "ClassifierGuidance",
    "FKSteering",
    "Guidance",
    "Loss",
    "MaskRule",
    "Masks",
    "Particles",
    "Pooled",
    "Segments",
    "TreeG",
    "TreeGSD",
    "TwistedSMC",
    "as_loss",
    "rules",
    "split",
]
