"""Plans compiled for a host's loop: the same numbers as `sample`, and entry anywhere."""

import pytest
import torch

import redrift as rd
from problems import F64, generator
from redrift.integrations._program import Run, compile_plan, enter
from redrift.solvers import plan_for

PROCESS = rd.VP()
PLANS = {
    "ddim": {},
    "deis": {"order": 4},
    "best": {},
    "krogstad": {},
    "res": {"order": 3},
    "dpmpp": {},
    "ipndm": {},
    "rho_rk": {},
    "heun": {},
    "gddim": {},
    "ddpm": {},
    "exponential_sde": {},
}
CORRECTED = {"solver": "deis", "order": 2, "wants": "v", "corrector": True}
MULTISTEP = {"solver": "res", "order": 2, "multistep": True}


def mixture(dim=4):
    g = generator(1)
    means = 0.5 * torch.randn(8, dim, generator=g, dtype=F64)
    std = torch.full((8,), 0.2, dtype=F64)
    return rd.denoise.GaussianMixture(torch.ones(8, dtype=F64), means, std, PROCESS)


def drive(program, model, x, first=0, seed=5):
    g, run = generator(seed), Run()
    for i in range(first, len(program)):
        level = program.instructions[i].level
        output = model.ask(x, level, program.predicts)
        x = program.advance(
            run, i, output, x, lambda like: torch.randn(like.shape, generator=g, dtype=like.dtype)
        )
    return x, run


def made(options, budget):
    options = dict(options)
    return plan_for(PROCESS, budget, solver=options.pop("solver"), **options)


@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
@pytest.mark.parametrize(
    "options",
    [{"solver": s, **o} for s, o in PLANS.items()] + [CORRECTED, MULTISTEP],
    ids=lambda o: "-".join(map(str, o.values())),
)
def test_a_compiled_plan_takes_the_steps_of_sample(options, predicts):
    model, x = mixture(), torch.randn(8, 4, generator=generator(2), dtype=F64)
    plan = made(options, 10)
    exact = rd.sample(model, plan, x=x, generator=generator(5))
    found, run = drive(compile_plan(plan, predicts), model, x)
    assert (found - exact).abs().max() < 1e-10
    assert not run.kept  # every prediction was forgotten when nothing used it any more


@pytest.mark.parametrize("begin", [1, 2, 4, 6, 7, 8])
@pytest.mark.parametrize(
    "options",
    [{"solver": "res", "order": 3}, {"solver": "deis", "order": 3}, {"solver": "heun"},
     {"solver": "best"}, CORRECTED],
    ids=lambda o: "-".join(map(str, o.values())),
)  # fmt: skip
def test_a_run_that_begins_anywhere_asks_where_the_whole_one_does_and_follows_the_flow(
    options, begin
):
    model, plan = mixture(), made(options, 9)
    program = compile_plan(plan, "eps")
    if begin >= len(program):
        return
    entered = enter(program, begin)
    asked = [float(step.level.t) for step in program.instructions[begin:]]
    assert [float(step.level.t) for step in entered.instructions] == asked
    level = program.instructions[begin].level
    clean = model.sample(64, generator=generator(3))
    noise = torch.randn(clean.shape, generator=generator(4), dtype=F64)
    x = float(level.signal) * clean + float(level.root) * noise
    found, _ = drive(entered, model, x)
    end = list(plan.rows)[-1].end
    stop = plan.times[-2] if float(end.root) == 0 else end.t
    if float(level.t) <= float(stop):
        return  # only the step that removes the rest of the noise is left
    times = rd.timegrid(PROCESS, 200, start=float(level.t), stop=float(stop))
    finish = "denoise" if float(end.root) == 0 else "min"
    exact = rd.sample(model, rd.res(PROCESS, times, order=3, end=finish), x=x)
    euler = rd.sample(model, rd.ddim(PROCESS, times[[0, 200]], end=finish), x=x)
    error, one = ((a - exact).square().mean(1).sqrt().median() for a in (found, euler))
    # the last step alone is of order 1, on another reading; Heun's method is poor from far away
    assert error <= 1.05 * one + 1e-9
    assert error < 0.1 or options["solver"] == "heun"


@pytest.mark.parametrize(
    ("options", "begin", "step"),
    [
        ({"solver": "deis", "order": 3}, 4, 4),
        ({"solver": "best"}, 2, 2),
        (CORRECTED, 3, 3),
        ({"solver": "res", "order": 3}, 3, 1),
        ({"solver": "krogstad"}, 1, 1),
    ],
    ids=["deis", "best", "corrected", "res", "krogstad"],
)
def test_entering_at_a_step_boundary_is_the_plan_started_there(options, begin, step):
    # rows made for a history that is not there give another answer
    model, plan = mixture(), made(options, 9)
    x = torch.randn(8, 4, generator=generator(2), dtype=F64)
    found, _ = drive(enter(compile_plan(plan, "eps"), begin), model, x)
    assert torch.allclose(found, rd.sample(model, plan.start(step), x=x), rtol=1e-11, atol=1e-11)


def test_entering_inside_a_starter_leads_to_the_next_step_and_starts_anew_there():
    model, g = mixture(), rd.timegrid(PROCESS, 5)
    plan = rd.deis(PROCESS, g, order=3, startup=True)
    program = compile_plan(plan, "eps")
    x = torch.randn(8, 4, generator=generator(2), dtype=F64)
    found, _ = drive(enter(program, 1), model, x)
    inside = program.instructions[1].level.t
    boundary = rd.sample(model, rd.ddim(PROCESS, torch.stack((inside, g[1]))), x=x)
    rest = rd.deis(PROCESS, g[1:], order=3, startup=False)
    assert torch.allclose(found, rd.sample(model, rest, x=boundary), rtol=1e-11, atol=1e-11)


def test_what_a_host_cannot_run_is_refused():
    grid = rd.timegrid(rd.EDM(), 5, "karras", start=40.0)
    churned = rd.heun(rd.EDM(), grid, churn=2.0)
    with pytest.raises(ValueError, match="leave churn out"):
        compile_plan(churned, "eps")
    blur = rd.Blur((4, 4))
    with pytest.raises(ValueError, match="one noise level"):
        compile_plan(rd.ddim(blur, rd.timegrid(blur, 5)), "eps")
