"""Every plan converges with the order it declares, on a nonlinear problem with a fine reference.

A mixture is used because linear problems are blind to the nonlinear order conditions.
"""

import functools

import pytest
import torch

import redrift as rd
from problems import (
    F64,
    Melt,
    Spring,
    even_grid,
    flow_exactly,
    follow,
    mixture,
    noisy_start,
    slopes,
)

WITHIN = 0.15
RANGES = {
    # process time at the ends: rho from 2 to .1 on the scalar ones; steps of the coarsest run
    "EDM": (rd.EDM(), 2.0, 0.1, 64),
    "VP": (rd.VP(), 0.3956, 0.0275, 64),
    "Flow": (rd.Flow(), 2 / 3, 1 / 11, 64),
    "Spring": (Spring(), 1.0, 0.5, 24),
    "Melt": (Melt(), 0.5, 0.3, 64),
}


@functools.cache
def problem(name):
    process, start, stop, coarsest = RANGES[name]
    model = mixture(process, low=0.3, high=0.5)
    z = noisy_start(model, start, 12)
    return model, z, start, stop, flow_exactly(model, z, start, stop, 20 * coarsest)


def counts(name):
    return [RANGES[name][3] * 2**i for i in range(4)]


def rms(a, b):
    return float((a - b).pow(2).mean().sqrt())


def errors(name, build):
    model, z, start, stop, exact = problem(name)
    results = []
    for steps in counts(name):
        plan = build(model.process, even_grid(model.process, steps, start, stop))
        results.append(rms(follow(model, plan, z), exact))
    return results


def assert_order(found, order):
    steepness = slopes(found)
    assert all(abs(s - order) <= WITHIN for s in steepness), (found, steepness)


@pytest.mark.parametrize("variable", ["t", "rho", "logrho"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["EDM", "VP"])
def test_deis_of_order_q_with_exact_history_converges_with_slope_q(name, order, variable):
    model, z, start, stop, exact = problem(name)
    process = model.process
    found = []
    for steps in counts(name):
        grid = even_grid(process, steps, start, stop)
        # nodes above the start, where the exact trajectory gives the history
        clock = process.clock(grid)
        above = process.unclock(clock[0] - (clock[1] - clock[0]) * torch.arange(order - 1, 0, -1))
        plan = rd.deis(
            process, torch.cat((above, grid)), order=order, variable=variable, startup=False
        )
        past = []
        for t in above:
            past.insert(0, model.ask(back_to(model, z, start, t), process.level(t), "eps"))
        rows = list(plan.rows)[order - 1 :]
        found.append(rms(follow(model, plan, z, rows=rows, past=past), exact))
    assert_order(found, order)


def back_to(model, z, start, t):
    """Solve the flow upwards, from `start` to the noisier time t, with RES rows in fine steps."""
    from redrift.solvers.exprk import RungeKutta

    process, rule = model.process, RungeKutta(3, c2=1 / 3)
    ends = process.clock(torch.stack((torch.as_tensor(start, dtype=F64), t)))
    times = process.unclock(ends[0] + torch.linspace(0, 1, 65, dtype=F64) * (ends[1] - ends[0]))
    rows = [row for a, b in zip(times, times[1:]) for row in rule(process, (), a, b, left=1)]
    plan = rd.res(process, times.flip(0), order=3)
    return follow(model, plan, z, rows=rows)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", list(RANGES))
def test_the_starter_keeps_the_order_of_deis(name, order):
    assert_order(errors(name, lambda p, grid: rd.deis(p, grid, order=order)), order)


def test_a_one_step_start_of_order_one_caps_the_run_at_order_two():
    found = errors("VP", lambda p, grid: rd.deis(p, grid, order=4, startup=False))
    assert slopes(found)[-1] < 2.5, found


@pytest.mark.parametrize("multistep", [False, True])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("name", list(RANGES))
def test_res_converges_with_its_order(name, order, multistep):
    found = errors(name, lambda p, grid: rd.res(p, grid, order=order, multistep=multistep))
    assert_order(found, order)


@pytest.mark.parametrize("wants", ["x0", "eps"])
@pytest.mark.parametrize(("c2", "c3"), [(1 / 3, 2 / 3), (0.5, 0.75), (0.5, 1.0), (0.3, 0.7)])
def test_three_stage_res_is_of_order_three_for_every_choice_of_its_stages(c2, c3, wants):
    found = errors("VP", lambda p, grid: rd.res(p, grid, order=3, c2=c2, c3=c3, wants=wants))
    assert_order(found, 3)


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({"order": 2, "single": True}, 2),
        ({"order": 3, "single": True}, 3),
        ({"order": 2}, 2),
        ({"order": 3}, 2),  # its slopes are approximate: order 2, as published
    ],
)
def test_dpm_solver_converges_with_its_known_order(options, order):
    found = errors("EDM", lambda p, grid: rd.dpmpp(p, grid, **options))
    assert abs(slopes(found)[-1] - order) <= WITHIN, found
