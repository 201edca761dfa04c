"""Samplers as tables: rows, plans and the builders that make them (L2)."""

from redrift.solvers.ancestral import ddpm, exponential_sde
from redrift.solvers.best import best_plan
from redrift.solvers.choose import SOLVERS, plan_for, plan_on
from redrift.solvers.dpmpp import dpmpp
from redrift.solvers.exprk import krogstad, res
from redrift.solvers.gddim import gddim
from redrift.solvers.loop import Ask, Law, Move, walk
from redrift.solvers.multistep import ddim, deis
from redrift.solvers.plan import Plan, Row, Rule
from redrift.solvers.rhork import heun, ipndm, rho_rk

__all__ = [
    "SOLVERS",
    "Ask",
    "Law",
    "Move",
    "Plan",
    "Row",
    "Rule",
    "best_plan",
    "ddim",
    "ddpm",
    "deis",
    "dpmpp",
    "exponential_sde",
    "gddim",
    "heun",
    "ipndm",
    "krogstad",
    "plan_for",
    "plan_on",
    "res",
    "rho_rk",
    "walk",
]
