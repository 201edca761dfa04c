"""Bad input to models, sensors and filters is named, with its remedy."""

import dataclasses
import math

import pytest
import torch

from redrift._core.errors import NumericalError
from redrift.filters import (
    Bootstrap,
    GaussianPrior,
    ParticleFilter,
    PathIntegral,
    Sensor,
    StateSpace,
    extended_kalman,
    grid_filter,
    kalman,
    particle_filter,
)
from redrift.statespace.problems import PROBLEMS

F64 = torch.float64


def eye(d):
    return torch.eye(d, dtype=F64)


ONE = StateSpace(
    GaussianPrior(torch.zeros(1, dtype=F64), eye(1)), -eye(1), 1.0, 0.5, Sensor(eye(1))
)
Y = torch.zeros(3, 1, dtype=F64)


def discrete(**changes):
    return dataclasses.replace(ONE, time="discrete", **changes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: particle_filter(ONE, Y, times=[1.0, 1.0, 2.0]), r"times\[1\] = 1 does not come"),
        (lambda: particle_filter(ONE, Y, times=[0.0, 1.0, 2.0]), "the model's start = 0"),
        (lambda: particle_filter(ONE, Y, times=[1.0, 2.0]), "2 entries and y 3"),
        (lambda: particle_filter(ONE, torch.zeros(3, 2)), r"expected \(K, 1\)"),
        (lambda: particle_filter(ONE, Y + math.inf), "mark missing values by NaN"),
        (lambda: particle_filter(discrete(), Y, times=[0.5, 0.7, 1.0]), "whole steps"),
        (lambda: particle_filter(ONE, Y, particles=0), "particles must be at least 1"),
        (
            lambda: GaussianPrior(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])),
            "eigenvalue is -1",
        ),
        (lambda: Sensor(eye(2), torch.tensor([1.0, -1.0])), "not positive definite"),
        (lambda: Sensor(eye(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])), "symmetric"),
        (lambda: Sensor(), "give h"),
        (lambda: Sensor(eye(1), kind="rate"), "kind='rate' is not known"),
        (lambda: dataclasses.replace(ONE, drift=eye(2)), r"expected \(1, 1\)"),
        (lambda: dataclasses.replace(ONE, scale=torch.ones(1)), "torch.diag"),
        (
            lambda: dataclasses.replace(ONE, sensors=Sensor(torch.ones(1, 2))),
            "reads 2 numbers of 1",
        ),
        (lambda: dataclasses.replace(ONE, sensors=()), "no sensor"),
        (lambda: dataclasses.replace(ONE, dt=0.0), "dt=0.0"),
        (lambda: PathIntegral(-1.0), "window=-1.0"),
        (lambda: PathIntegral(1.0, twisting="lqr"), "Did you mean 'ilqr' or 'lq'"),
        (lambda: PathIntegral(1.0, scope="particle", iterations=2), "scope='shared'"),
        (lambda: kalman(dataclasses.replace(ONE, drift=lambda x, t: -x), Y), "extended_kalman"),
        (
            lambda: extended_kalman(dataclasses.replace(ONE, sensors=Sensor(eye(1), nu=3.0)), Y),
            "Gaussian sensors",
        ),
        (lambda: grid_filter(PROBLEMS["tracking"]().model, Y, low=-1, high=1), "one dimension"),
        (lambda: particle_filter(ONE, Y).smoothed(0.1), "smooth=True"),
        (lambda: particle_filter(ONE, Y).quantile(1.0), "between 0 and 1"),
        (lambda: particle_filter(ONE, [([1.0], Y[:2])]), "a series of 1 times"),
    ],
)
def test_bad_input_is_named_with_its_remedy(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_a_window_too_short_to_see_the_state_is_refused_with_the_length_needed():
    problem = PROBLEMS["integrators"]()
    _, y = problem.model.simulate(problem.times[:12], generator=torch.Generator().manual_seed(0))
    times = problem.times[:12]
    with pytest.raises(ValueError, match=r"determine 1 of the 4 directions.*at least 1.6"):
        particle_filter(problem.model, y, times=times, proposal=PathIntegral(0.4))
    particle_filter(problem.model, y, times=times, proposal=PathIntegral(1.6))


def test_weights_that_are_all_zero_name_the_time():
    model = dataclasses.replace(
        ONE, sensors=Sensor(log_prob=lambda y, x, t: torch.where(x[..., 0] > 50, 0.0, -math.inf))
    )
    with pytest.raises(NumericalError, match=r"at time 0.5 every particle") as caught:
        particle_filter(model, Y, proposal=Bootstrap())
    assert caught.value.time == 0.5


def test_states_that_blow_up_lose_their_weight_and_are_counted():
    explode = dataclasses.replace(
        ONE,
        drift=lambda x, t: torch.where(x > 0.5, x.exp() ** 400, -x),
        sensors=Sensor(eye(1), 9.0),
    )
    post = particle_filter(explode, Y, particles=200, generator=torch.Generator().manual_seed(0))
    assert post.lost > 0
    assert bool(torch.isfinite(post.mean).all())


def test_a_stream_refuses_times_that_stand_still_and_dimensions_that_change():
    f = ParticleFilter(ONE, 8)
    state, _ = f.update(f.init(2), 1.0, torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"does not come after 1\.0"):
        f.update(state, 1.0, torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"expected \(2, 1\)"):
        f.update(state, 2.0, torch.zeros(3, 1))
    with pytest.raises(ValueError, match="infinite at time 2"):
        f.update(state, 2.0, torch.full((2, 1), math.inf))


def test_neither_data_nor_the_global_generator_is_touched():
    y, before = Y.clone(), torch.get_rng_state()
    particle_filter(ONE, y, proposal=PathIntegral(1.0), generator=torch.Generator().manual_seed(0))
    assert torch.equal(y, Y)
    assert torch.equal(before, torch.get_rng_state())


def test_innovations_of_a_sound_model_have_mean_square_one():
    problem = PROBLEMS["tracking"]()
    g = torch.Generator().manual_seed(0)
    _, y = problem.model.simulate(problem.times, batch=64, generator=g)
    post = particle_filter(
        problem.model, y, times=problem.times, particles=400, generator=g,
        proposal=PathIntegral(problem.window),
    )  # fmt: skip
    rest, spread = post.innovations(generator=g)
    assert abs(float(((rest / spread) ** 2).mean()) - 1) < 0.1
