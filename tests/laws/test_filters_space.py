"""The filter on another space: positive numbers under multiplication are a line in other clothes."""

import math

import pytest
import torch

from redrift.filters import (
    AuxiliaryProposal,
    Bootstrap,
    GaussianPrior,
    GuidedProposal,
    PathIntegral,
    Sensor,
    StateSpace,
    particle_filter,
)

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
