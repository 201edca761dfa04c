"""A first question that is asked ahead of the start: exact for one point, of order 1, plain elsewhere."""

import math

import pytest
import torch

import redrift as rd
from problems import F64, generator, wide
from redrift.fitting import distances, follow
from redrift.integrations._program import compile_plan, enter
from redrift.solvers.fractions import grid_of_fractions

PROCESSES = {"VP": rd.VP(), "EDM": rd.EDM(), "Flow": rd.Flow()}
# grids fitted to runs whose first evaluation is at 22, and to plain ones
FITTED = [
    (
        [0.243908, 0.193007, 0.199428, 0.198965, 0.164693],
        [0.230533, 0.212693, 0.195088, 0.196418, 0.165268],
    ),
    (
        [0.230558, 0.161981, 0.168159, 0.153933, 0.151994, 0.133374],
        [0.188404, 0.176315, 0.169391, 0.149046, 0.165079, 0.151766],
    ),
]
AHEAD = {"order": 3, "wants": "v", "startup": False, "first_sigma": 20.0}


def grid_of(process, noise):
    """Return times of given noise levels sigma / alpha."""
    return torch.stack([process.unclock(-torch.tensor(rho, dtype=F64).log()) for rho in noise])


def at(process, noise, clean, direction):
    level = process.level(grid_of(process, [noise])[0])
    return float(level.signal) * clean + float(level.root) * direction


def noise_of(level):
    return float(level.root / level.signal)


@pytest.mark.parametrize(
    ("wants", "noise"), [("v", [70.0, 4.0]), ("x0", [70.0, 4.0]), ("x0", [70.0, 4.0, 1.0])]
)
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_data_of_one_point_are_met_wherever_it_asks(process, wants, noise):
    point, direction = torch.randn(2, 4, 3, generator=generator(1), dtype=F64)
    model = rd.Denoiser(lambda x, t: point, process, "x0")
    options = {**AHEAD, "order": 1, "wants": wants, "corrector": len(noise) > 2}
    plan = rd.deis(process, grid_of(process, noise), **options)
    assert round(noise_of(plan.rows[0].asks[0]), 9) == 20.0
    z = follow(model, plan, at(process, 70.0, point, direction))
    assert torch.allclose(z, at(process, noise[-1], point, direction), atol=1e-11)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_standard_normal_data_are_asked_at_on_their_path(process):
    seen = []

    def net(x, t):
        seen.append(x)
        return torch.zeros_like(x)

    plan = rd.deis(process, grid_of(process, [70.0, 4.0, 1.0]), **{**AHEAD, "order": 2})
    z = torch.randn(5, generator=generator(1), dtype=F64).reshape(5, 1)
    follow(rd.Denoiser(net, process, "x0"), plan, z)
    start, ask = (process.level(grid_of(process, [rho])[0]) for rho in (70.0, 20.0))
    scale = math.hypot(ask.signal, ask.root) / math.hypot(start.signal, start.root)
    assert torch.allclose(seen[0], scale * z, rtol=1e-12)


def test_the_step_is_of_order_one():
    process = rd.VP()
    g = generator(2)
    means = torch.randn(5, 3, generator=g, dtype=F64)
    model = rd.denoise.GaussianMixture(
        torch.ones(5, dtype=F64), means, torch.full((5,), 0.3, dtype=F64), process
    )
    z = at(process, 3.0, model.sample(64, generator=g), torch.randn(64, 3, generator=g, dtype=F64))
    found = []
    for h in (0.4, 0.2, 0.1):
        ends = [3.0, 3.0 * math.exp(-h)]
        fine = grid_of(process, [3.0 * math.exp(-h * i / 20) for i in range(21)])
        exact = follow(model, rd.res(process, fine, order=3), z)
        options = {**AHEAD, "order": 1, "first_sigma": 3.0 * math.exp(-h / 2)}
        one = follow(model, rd.deis(process, grid_of(process, ends), **options), z)
        found.append(float(distances(one, exact).mean()))
    slopes = [math.log2(a / b) for a, b in zip(found, found[1:])]
    assert slopes[-1] > 1.85, slopes  # local: one more than the order


@pytest.mark.parametrize("corrector", [False, True])
def test_a_first_step_that_does_not_cross_the_level_is_the_plain_one(corrector):
    process, options = rd.VP(), {**AHEAD, "order": 2, "corrector": corrector}
    for noise in ([12.0, 4.0, 1.0, 0.3], [90.0, 30.0, 10.0, 3.0]):
        times = grid_of(process, noise)
        one, two = (rd.deis(process, times, **{**options, "first_sigma": a}) for a in (20.0, None))
        assert str(one) == str(two)
        for a, b in zip(one.rows, two.rows, strict=True):
            assert a.weights == b.weights
            assert [x.t for x in a.asks] == [x.t for x in b.asks]


@pytest.mark.parametrize("seed", [3, 5])
def test_a_first_evaluation_below_pure_noise_is_nearer_on_data_with_a_wide_spectrum(seed):
    process = rd.VP()
    model = wide(process, components=20, dim=40, seed=seed)
    z = torch.randn(256, 40, generator=generator(4), dtype=F64)
    exact = follow(model, rd.res(process, rd.timegrid(process, 400, "logsnr"), order=3), z)

    def error(fractions, **options):
        fractions = torch.tensor(fractions, dtype=F64)
        grid = grid_of_fractions(process, fractions, process.interval)
        plan = rd.deis(process, grid, order=4, wants="v", startup=False, **options)
        return distances(follow(model, plan, z), exact)

    for below, plain in FITTED:
        a, b = error(below, first_sigma=22.0), error(plain)
        assert a.median() < 0.8 * b.median()
        assert a.quantile(0.9) < 0.8 * b.quantile(0.9)


def test_a_host_whose_state_would_have_to_be_scaled_is_refused():
    times = grid_of(rd.Flow(), [70.0, 4.0, 1.0, 0.2])
    with pytest.raises(ValueError, match="asks below its start.*leave first_sigma out"):
        compile_plan(rd.deis(rd.Flow(), times, **AHEAD), "flow")


def test_a_run_entered_in_the_middle_asks_where_the_host_was_told():
    times = grid_of(rd.VP(), [140.0, 70.0, 4.0, 1.0, 0.2])
    program = compile_plan(rd.deis(rd.VP(), times, **{**AHEAD, "first_sigma": 100.0}), "eps")
    assert round(noise_of(program.instructions[0].level), 9) == 100.0
    for i in (1, 2):
        rest = enter(program, i)
        assert [a.level.t for a in rest.instructions] == [
            b.level.t for b in program.instructions[i:]
        ]
    times = grid_of(rd.VP(), [140.0, 70.0, 4.0, 1.0, 0.2])
    program = compile_plan(rd.deis(rd.VP(), times, **AHEAD), "eps")
    assert [round(noise_of(a.level), 9) for a in enter(program, 1).instructions] == [
        70.0,
        4.0,
        1.0,
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_sigma": 0.0}, "first_sigma=0.0 must be a noise level"),
        ({"first_sigma": math.nan}, "first_sigma=nan must be a noise level"),
        ({"startup": True}, "both say where the first step asks"),
        ({"wants": "eps"}, "needs wants='v' or 'x0'"),
    ],
)
def test_bad_levels_are_refused(options, message):
    process = rd.VP()
    with pytest.raises(ValueError, match=message):
        rd.deis(process, rd.timegrid(process, 4), **{**AHEAD, **options})
    with pytest.raises(ValueError, match="one noise level"):
        rd.deis(rd.CLD(), rd.timegrid(rd.CLD(), 4), **{**AHEAD, "wants": "x0"})
