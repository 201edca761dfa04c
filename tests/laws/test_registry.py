"""A solver is added by one file: the walk of CONTRIBUTING, carried out on a method that is not here."""

import importlib.util
import sys

import pytest
import torch

import redrift as rd
from problems import F64, generator, mixture
from redrift.integrations._program import compile_plan
from redrift.solvers import SOLVERS, Layer, UniC, layer, registry
from redrift.solvers.layers import layers, without

TOY = """
from dataclasses import dataclass

from redrift.solvers.coefficients import constant, fraction, one
from redrift.solvers.plan import Plan
from redrift.solvers.registry import register, solver
from redrift.solvers.row import Row


@register
@dataclass(frozen=True)
class Midpoint:
    wants: str = "x0"

    def __call__(self, process, past, t, next_t, *, left):
        start, end = process.level(t), process.level(next_t)
        middle = fraction(process, start, end, 0.5)
        half, C_half = constant(process, self.wants, start, middle)
        A, C = constant(process, self.wants, start, end)
        tables, weights = (one(A), half, A), ((), (C_half,), (None, C))
        return (Row(start, end, (start, middle), tables, weights),)


@solver(fixed=2, stages=lambda options: 2, remainder=False)
def exponential_midpoint(process, times, *, end="min"):
    return Plan.build(process, times, Midpoint(), wants="x0", order=2, history=0,
                      name="exponential midpoint", end=end)
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "SOLVERS", SOLVERS)
    monkeypatch.setattr(registry, "RULES", registry.RULES)
    before = dict(SOLVERS), dict(registry.RULES)
    path = tmp_path / "midpoint.py"
    path.write_text(TOY)
    spec = importlib.util.spec_from_file_location("midpoint", path)
    module = sys.modules["midpoint"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["midpoint"]
    for table, kept in zip((SOLVERS, registry.RULES), before, strict=True):
        table.clear()
        table.update(kept)


def test_a_solver_in_a_file_of_its_own_is_planned_saved_hosted_and_of_its_order(toy, tmp_path):
    process = rd.VP()
    model = mixture(process)
    z = torch.randn(64, 4, dtype=F64, generator=generator(0))
    exact = rd.sample(model, rd.plan_for(process, 900, solver="res", order=3), x=z)

    def error(evaluations):
        plan = rd.plan_for(process, evaluations, solver="exponential_midpoint", spacing="logsnr")
        assert plan.evaluations == evaluations
        return (rd.sample(model, plan, x=z) - exact).pow(2).mean(1).sqrt().median()

    slope = torch.log2(error(200) / error(400))
    assert float(slope) == pytest.approx(2, abs=0.15)

    plan = rd.plan_for(process, 10, solver="exponential_midpoint")
    assert len(compile_plan(plan, "eps")) == 10
    plan.save(tmp_path / "plan.json")
    again = rd.Plan.load(tmp_path / "plan.json")
    assert torch.equal(rd.sample(model, plan, x=z), rd.sample(model, again, x=z))
    with pytest.raises(ValueError, match="needs at least 2 evaluations"):
        rd.plan_for(process, 1, solver="exponential_midpoint")
    with pytest.raises(ValueError, match="has no order to choose"):
        rd.plan_for(process, 10, solver="exponential_midpoint", order=3)


def test_a_rule_that_is_not_registered_says_how_when_it_is_saved(toy, tmp_path):
    del registry.RULES["Midpoint"]
    plan = rd.plan_for(rd.VP(), 10, solver="exponential_midpoint")
    with pytest.raises(ValueError, match=r"@rd\.solvers\.register"):
        plan.save(tmp_path / "plan.json")
    assert not list(tmp_path.glob("*.json"))


def test_names_of_rules_are_not_taken_twice():
    class Adams:
        pass

    with pytest.raises(TypeError, match="frozen dataclass"):
        registry.register(Adams)
    import dataclasses

    with pytest.raises(ValueError, match="registered already"):
        registry.register(dataclasses.dataclass(frozen=True)(Adams))


def test_a_plan_without_a_layer_is_the_plan_built_without_it():
    process = rd.VP()
    grid = rd.timegrid(process, 8)
    for corrector in (True, 0.4):
        for startup in (True, False):
            plan = rd.deis(process, grid, order=3, corrector=corrector, startup=startup)
            bare = rd.deis(process, grid, order=3, startup=startup)
            assert layer(plan.rule, UniC).above == (0.0 if corrector is True else 0.4)
            for found, wanted in zip(plan.without(UniC).rows, bare.rows, strict=True):
                for C, D in zip(found.C, wanted.C, strict=True):
                    assert all(torch.equal(c, d) for c, d in zip(C, D, strict=True))
            assert bare.without(UniC) is bare
    nested = rd.solvers.langevin_corrected(rd.res(process, grid, multistep=True, end="zero"), 1)
    assert len(list(layers(without(nested.rule, Layer)))) == 1
