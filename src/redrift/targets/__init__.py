"""Unnormalised densities with a known or measured log Z (L1): what samplers are judged on."""

from redrift.targets.base import Affine, Target, gradient
from redrift.targets.bayes import LatentTarget, Logistic, breast_cancer
from redrift.targets.cox import Cox, pines
from redrift.targets.mixtures import Mixture, gmm40, grid9, grid25
from redrift.targets.synthetic import Funnel, ManyWell, Rings, Wells

TARGETS = {
    "mog9": grid9,
    "mog25": grid25,
    "gmm40": gmm40,
    "funnel": Funnel,
    "funnel1": lambda: Funnel(variance=1.0),
    "doublewell": lambda: ManyWell(2),
    "manywell": ManyWell,
    "wells": Wells,
    "rings": Rings,
    "cancer": breast_cancer,
}

__all__ = [
    "TARGETS",
    "Affine",
    "Cox",
    "Funnel",
    "LatentTarget",
    "Logistic",
    "ManyWell",
    "Mixture",
    "Rings",
    "Target",
    "Wells",
    "breast_cancer",
    "gmm40",
    "gradient",
    "grid9",
    "grid25",
    "pines",
]
