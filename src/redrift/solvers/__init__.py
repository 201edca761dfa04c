"""Samplers as tables: rows, plans and the builders that make them (L2)."""

from redrift.solvers.choose import SOLVERS, plan_for
from redrift.solvers.exprk import dpmpp, res
from redrift.solvers.multistep import ddim, ddpm, deis
from redrift.solvers.plan import Ask, Law, Move, Plan, Row, Rule, walk

__all__ = [
    "SOLVERS",
    "Ask",
    "Law",
    "Move",
    "Plan",
    "Row",
    "Rule",
    "ddim",
    "ddpm",
    "deis",
    "dpmpp",
    "plan_for",
    "res",
    "walk",
]
