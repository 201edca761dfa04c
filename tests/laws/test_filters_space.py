"""Filters on other spaces: positive numbers, which are a line in other clothes, and rotation matrices."""

import dataclasses
import math

import pytest
import torch

from redrift.filters import (
    AuxiliaryProposal,
    Bootstrap,
    Euclidean,
    GaussianPrior,
    GuidedProposal,
    PathIntegral,
    Sensor,
    StateSpace,
    ensemble_kalman,
    extended_kalman,
    grid_filter,
    kalman,
    particle_filter,
    plot_posterior,
    unscented_kalman,
)
from redrift.filters.kalman import _moved

F64 = torch.float64


class Positive:
    """The positive numbers: retract is x exp(xi), a group that is a line in its logarithm."""

    axes = 1
    flat = False

    def retract(self, x, xi):
        return x * xi.exp()

    def local(self, base, x):
        return (x / base).log()

    def mean(self, x, w):
        return (w.unsqueeze(-1) * x.log()).sum(-2).exp()


def eye(d):
    return torch.eye(d, dtype=F64)


def pair(kind):
    """Return a model of u = log x on the line, and the same of x."""

    def pull(u):
        return 0.5 * torch.sin(u) - u

    def counts(y, u):
        return y[..., 0] * u[..., 0] - u[..., 0].exp()

    if kind == "sensor":
        line = {"sensors": Sensor(lambda u, t: u + 0.2 * u**2, 0.05)}
        curved = {"sensors": Sensor(lambda x, t: x.log() + 0.2 * x.log() ** 2, 0.05)}
    else:
        line = {"log_obs": lambda y, u, t: counts(y, u)}
        curved = {"log_obs": lambda y, x, t: counts(y, x.log())}
    first = torch.tensor([0.3], dtype=F64)
    return (
        StateSpace(GaussianPrior(first, 0.5 * eye(1)), lambda u, t: pull(u), 0.6, 0.1, **line),
        StateSpace(
            GaussianPrior(first.exp(), 0.5 * eye(1)), lambda x, t: pull(x.log()), 0.6, 0.1,
            space=Positive(), **curved,
        ),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["sensor", "counts"])
@pytest.mark.parametrize(
    "proposal",
    [
        Bootstrap(), GuidedProposal(), AuxiliaryProposal(), PathIntegral(0.8),
        PathIntegral(0.8, scope="particle"), PathIntegral(0.8, mode="archive", rao_blackwell=True),
    ],
    ids=["bootstrap", "guided", "auxiliary", "shared", "particle", "archive"],
)  # fmt: skip
def test_a_group_that_is_a_line_in_its_logarithm_gives_the_numbers_of_the_line(proposal, kind):
    line, curved = pair(kind)
    times = [0.4, 0.8, 1.2, 1.6]
    y = torch.tensor([[[0.5], [1.0], [math.nan], [2.0]], [[0.0], [0.2], [1.0], [0.0]]], dtype=F64)
    a, b = (
        particle_filter(
            m, y, times=times, particles=40, proposal=proposal, smooth=True,
            generator=torch.Generator().manual_seed(3),
        )
        for m in (line, curved)
    )  # fmt: skip
    close = {"atol": 1e-8, "rtol": 1e-8}
    torch.testing.assert_close(b.particles.log(), a.particles, **close)
    torch.testing.assert_close(b.log_evidences, a.log_evidences, **close)
    torch.testing.assert_close(b.mean.log(), a.mean, **close)
    torch.testing.assert_close(b.quantile(0.9) + b.mean.log(), a.quantile(0.9), **close)
    for lag in (None, 0.0) if isinstance(proposal, PathIntegral) else ():
        if lag is not None and proposal.window < 0.8:
            continue
        (m1, v1), (m2, v2) = a.smoothed(lag), b.smoothed(lag)
        torch.testing.assert_close(m2.log(), m1, **close)
        torch.testing.assert_close(v2, v1, **close)


def test_a_matrix_for_a_sensor_is_refused_on_a_curved_space():
    with pytest.raises(ValueError, match="give a function of points"):
        StateSpace(
            GaussianPrior(torch.ones(1), eye(1)), lambda x, t: x, sensors=Sensor(eye(1)),
            space=Positive(),
        )  # fmt: skip


class Rotations:
    """Rotation matrices: retract is X exp(xi), a group that does not commute."""

    axes, flat = 2, False

    def retract(self, x, xi):
        return x @ torch.linalg.matrix_exp(hat(xi))

    def local(self, base, x):
        R = base.mT @ x
        w = torch.stack([R[..., 2, 1], R[..., 0, 2], R[..., 1, 0]], -1)
        w = (w - torch.stack([R[..., 1, 2], R[..., 2, 0], R[..., 0, 1]], -1)) / 2
        square, cosine = (w * w).sum(-1), (R.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
        sine = torch.where(square > 1e-12, square, 1.0).sqrt()
        angle = torch.where(square > 1e-12, torch.atan2(sine, cosine) / sine, 1 + square / 6)
        return angle.unsqueeze(-1) * w

    def mean(self, x, w):
        mean = x[..., 0, :, :]
        for _ in range(8):
            xi = (w.unsqueeze(-1) * self.local(mean.unsqueeze(-3), x)).sum(-2)
            mean = self.retract(mean, xi)
        return mean


def hat(xi):
    a, b, c = xi.unbind(-1)
    zero = torch.zeros_like(a)
    return torch.stack([zero, -c, b, c, zero, -a, -b, a, zero], -1).reshape(*xi.shape[:-1], 3, 3)


SPACE = Rotations()
E1 = torch.tensor([1.0, 0.0, 0.0], dtype=F64)
TURN = torch.linalg.matrix_exp(hat(torch.tensor([0.9, -1.3, 0.7], dtype=F64)))
TIMES = [0.2, 0.4, 0.6]
READINGS = torch.tensor(
    [
        [[0.8, 0.4, 0.3], [0.7, math.nan, 0.2], [0.5, 0.7, 0.5]],
        [[0.9, 0.0, 0.4], [0.9, -0.3, 0.2], [0.7, -0.6, 0.1]],
    ],
    dtype=F64,
)  # fmt: skip


def rotating(origin=None, kind="plain"):
    """Return a model of rotations whose points are written as seen from `origin`."""
    A = eye(3) if origin is None else origin

    def scale(x, t):
        pull = torch.sin(SPACE.local(A, x))
        return torch.diag_embed(0.3 + 0.2 * pull) + 0.1 * pull.unsqueeze(-1)

    def drift(x, t):
        turning = torch.sin(3 * t) * E1 if kind == "clock" else 0.4
        return turning - 0.8 * SPACE.local(A, x)

    def seen(x, t):
        return (A.mT @ x) @ E1

    def density(y, x, t):
        return 4 * (y * seen(x, t)).sum(-1)

    start = A @ SPACE.retract(eye(3), torch.tensor([0.2, 0.3, -0.1], dtype=F64))
    noisy = kind == "stratonovich"
    sensor = Sensor(seen, torch.tensor([0.02, 0.03, 0.02]))
    if kind == "density":
        sensor = Sensor(log_prob=density, size=3)
    return StateSpace(
        GaussianPrior(start, 0.1 * eye(3)), drift, scale if noisy else 0.4, 0.1, space=SPACE,
        calculus="stratonovich" if kind == "stratonovich" else "ito", sensors=sensor,
    )  # fmt: skip


PROPOSALS = {
    "bootstrap": Bootstrap(),
    "guided": GuidedProposal(),
    "auxiliary": AuxiliaryProposal(),
    "window": PathIntegral(0.4),
    "particle": PathIntegral(0.4, scope="particle"),
    "archive": PathIntegral(0.4, mode="archive", rao_blackwell=True),
    "refined": PathIntegral(0.4, iterations=2),
}


@pytest.mark.parametrize("kind", ["plain", "clock", "stratonovich", "density"])
@pytest.mark.parametrize("name", PROPOSALS)
def test_rotations_seen_from_elsewhere_weigh_and_move_alike(name, kind):
    a, b = (
        particle_filter(
            rotating(origin, kind), READINGS, times=TIMES, particles=8, proposal=PROPOSALS[name],
            smooth=True, generator=torch.Generator().manual_seed(3),
        )
        for origin in (None, TURN)
    )  # fmt: skip
    close = {"atol": 1e-10, "rtol": 1e-10}
    assert bool(torch.isfinite(a.log_evidence).all())
    torch.testing.assert_close(b.log_evidences, a.log_evidences, **close)
    torch.testing.assert_close(b.particles, TURN @ a.particles, **close)
    torch.testing.assert_close(b.mean, TURN @ a.mean, **close)
    torch.testing.assert_close(b.cov, a.cov, **close)
    torch.testing.assert_close(b.quantile(0.9), a.quantile(0.9), **close)
    if isinstance(PROPOSALS[name], PathIntegral):
        (m1, v1), (m2, v2) = a.smoothed(), b.smoothed()
        torch.testing.assert_close(m2, TURN @ m1, **close)
        torch.testing.assert_close(v2, v1, **close)


KALMANS = {
    "extended": extended_kalman,
    "iterated": lambda *a, **k: extended_kalman(*a, iterations=3, **k),
    "unscented": unscented_kalman,
    "ensemble": lambda *a, **k: ensemble_kalman(
        *a, members=20, generator=torch.Generator().manual_seed(1), **k
    ),
}


@pytest.mark.parametrize("kind", ["plain", "clock", "stratonovich"])
@pytest.mark.parametrize("name", KALMANS)
def test_kalmans_relatives_see_rotations_alike_from_elsewhere(name, kind):
    a, b = (
        KALMANS[name](rotating(origin, kind), READINGS, times=TIMES) for origin in (None, TURN)
    )
    close = {"atol": 1e-10, "rtol": 1e-10}
    torch.testing.assert_close(b.log_evidence, a.log_evidence, **close)
    torch.testing.assert_close(b.mean, TURN @ a.mean, **close)
    torch.testing.assert_close(b.cov, a.cov, **close)
    torch.testing.assert_close(b.quantile(0.1), a.quantile(0.1), **close)
    with pytest.raises(ValueError, match="smooth"):
        a.smoothed()


def test_the_covariance_is_carried_to_the_coordinates_of_the_new_mean():
    xi = torch.tensor([[0.5, -0.4, 0.3]], dtype=F64)
    root = 1e-5 * torch.tensor([[1.0, 0.2, 0.0], [0.0, 2.0, 0.5], [0.3, 0.0, 1.5]], dtype=F64)
    mean, cov = _moved(rotating(), TURN.unsqueeze(0), xi, (root @ root.mT).unsqueeze(0))
    torch.testing.assert_close(mean, SPACE.retract(TURN, xi))
    around = SPACE.retract(TURN, torch.cat([xi + root.mT, xi - root.mT]))
    off = SPACE.local(mean, around)
    torch.testing.assert_close(cov[0], off.mT @ off / 2, rtol=1e-5, atol=0)


def near(size, curved, kind="plain"):
    """Return a model of small rotations near the identity, or of the tangent vectors there."""

    def scale(x, t):
        xi = SPACE.local(eye(3), x) if curved else x
        return size * torch.diag_embed(0.6 + 0.3 * torch.sin(xi / size))

    def drift(x, t):
        xi = SPACE.local(eye(3), x) if curved else x
        return -xi + size * torch.cos(2 * t) * E1 if kind == "clock" else -xi

    def seen(x, t):
        xi = SPACE.local(eye(3), x) if curved else x
        return xi + 0.3 * xi**2 / size

    first = eye(3) if curved else torch.zeros(3, dtype=F64)
    return StateSpace(
        GaussianPrior(first, 0.5 * size**2 * eye(3)), drift,
        scale if kind == "stratonovich" else 0.6 * size, 0.1, Sensor(seen, 0.2 * size**2, size=3),
        calculus="stratonovich" if kind == "stratonovich" else "ito",
        space=SPACE if curved else Euclidean(),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["clock", "stratonovich"])
@pytest.mark.parametrize("name", ["bootstrap", "window", *KALMANS])
def test_small_rotations_are_their_tangent_vectors_to_first_order(name, kind):
    y = torch.tensor([[0.3, 0.5, -0.2], [0.6, 0.2, -0.4]], dtype=F64)
    gaps = []
    for size in (1e-4, 1e-5):
        posts = []
        for curved in (True, False):
            options = {"times": TIMES[:2]}
            if name in PROPOSALS:
                options |= {"particles": 8, "proposal": PROPOSALS[name]}
                options["generator"] = torch.Generator().manual_seed(5)
            run = particle_filter if name in PROPOSALS else KALMANS[name]
            posts.append(run(near(size, curved, kind), size * y, **options))
        gaps.append(float((posts[0].log_evidence - posts[1].log_evidence).abs()))
        mean = SPACE.local(eye(3), posts[0].mean)
        torch.testing.assert_close(mean / size, posts[1].mean / size, atol=20 * size, rtol=0)
    assert gaps[0] < 20 * 1e-4
    assert gaps[1] < 0.2 * gaps[0] + 1e-7


class Line:
    """R^d as any space, said to be curved."""

    axes, flat = 1, False
    retract, local, mean = Euclidean.retract, Euclidean.local, Euclidean.mean


@pytest.mark.parametrize("name", [*PROPOSALS, *KALMANS])
def test_a_line_said_to_be_curved_gives_the_numbers_of_the_line(name):
    model, y = near(1.0, False, "stratonovich"), READINGS - 0.2
    options = {"times": TIMES}
    if name in PROPOSALS:
        options |= {"particles": 8, "proposal": PROPOSALS[name]}
    posts = []
    for space in (Euclidean(), Line()):
        if name in PROPOSALS:
            options["generator"] = torch.Generator().manual_seed(5)
        run = particle_filter if name in PROPOSALS else KALMANS[name]
        posts.append(run(dataclasses.replace(model, space=space), y, **options))
    for one in ("log_evidence", "mean", "cov"):
        torch.testing.assert_close(getattr(posts[1], one), getattr(posts[0], one))


def test_what_a_curved_space_cannot_do_is_refused_with_the_remedy():
    model = rotating()
    with pytest.raises(ValueError, match="a flat space"):
        kalman(model, READINGS, times=TIMES)
    with pytest.raises(ValueError, match="give a function of points"):
        dataclasses.replace(model, drift=-eye(3))
    one = dataclasses.replace(pair("sensor")[1])
    with pytest.raises(ValueError, match="the space is curved: use particle_filter"):
        grid_filter(one, READINGS[:, :, :1], times=TIMES, low=0.1, high=3.0)
    post = particle_filter(model, READINGS, times=TIMES)
    with pytest.raises(ValueError, match=r"plot functions of post\.particles"):
        plot_posterior(post)
    # a clock beside points, which holds in the bootstrap and not where times are stacked
    beside = dataclasses.replace(model, drift=lambda x, t: SPACE.local(eye(3) + 0 * t, x))
    particle_filter(beside, READINGS, times=TIMES, particles=5)
    with pytest.raises(ValueError, match=r"beside points write t\.reshape\(\*t\.shape, 1\)"):
        particle_filter(beside, READINGS, times=TIMES, particles=5, proposal=PathIntegral(0.4))
    fine = dataclasses.replace(
        model, drift=lambda x, t: SPACE.local(eye(3) + 0 * t.reshape(*t.shape, 1), x)
    )
    particle_filter(fine, READINGS, times=TIMES, particles=5, proposal=PathIntegral(0.4))


def test_rotations_that_are_lost_are_replaced_by_rotations():
    model = rotating()
    wild = dataclasses.replace(
        model, drift=lambda x, t: torch.where(x[..., :1, 0] > 0.9, math.inf, model.drift(x, t))
    )
    for proposal in (Bootstrap(), PathIntegral(0.4, twisting="none")):
        post = particle_filter(
            wild, READINGS, times=TIMES, particles=200, proposal=proposal, smooth=True,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        assert post.lost > 0
        assert bool(torch.isfinite(post.mean).all())
        assert bool(torch.isfinite(post.smoothed()[0]).all())
