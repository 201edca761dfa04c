"""Steering of particle filters: windows of paths drawn anew under a control that looks ahead."""

from redrift.pathintegral.proposal import AuxiliaryProposal, GuidedProposal, PathIntegral
from redrift.pathintegral.twisting import TwistingFunction
from redrift.pathintegral.window import Window

__all__ = ["AuxiliaryProposal", "GuidedProposal", "PathIntegral", "TwistingFunction", "Window"]
