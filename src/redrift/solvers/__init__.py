"""Samplers as tables: rows, plans and the builders that make them (L2)."""

from redrift.solvers.ancestral import ddpm, exponential_sde
from redrift.solvers.best import best_plan
from redrift.solvers.choose import plan_for, plan_on
from redrift.solvers.dpmpp import dpmpp
from redrift.solvers.ends import CleanEnd, LowerLast
from redrift.solvers.exprk import krogstad, res
from redrift.solvers.first import FirstEvaluation
from redrift.solvers.gddim import gddim
from redrift.solvers.langevin import langevin_corrected
from redrift.solvers.layers import Layer, layer
from redrift.solvers.loop import Ask, NextState, Transition, walk
from redrift.solvers.multistep import ddim, deis
from redrift.solvers.plan import Plan
from redrift.solvers.registry import SOLVERS, register, solver
from redrift.solvers.rhork import heun, ipndm, rho_rk
from redrift.solvers.row import Row, Rule
from redrift.solvers.startup import StartUp
from redrift.solvers.unic import UniC

__all__ = [
    "SOLVERS",
    "Ask",
    "CleanEnd",
    "FirstEvaluation",
    "Layer",
    "LowerLast",
    "NextState",
    "Plan",
    "Row",
    "Rule",
    "StartUp",
    "Transition",
    "UniC",
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
    "langevin_corrected",
    "layer",
    "plan_for",
    "plan_on",
    "register",
    "res",
    "rho_rk",
    "solver",
    "walk",
]
