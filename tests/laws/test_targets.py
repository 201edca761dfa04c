"""Laws of the targets: their normalisers, gradients and samples are what they say."""

import importlib.util
import math

import pytest
import torch

from redrift.targets import (
    TARGETS,
    Affine,
    Cox,
    Funnel,
    LatentTarget,
    Logistic,
    ManyWell,
    Mixture,
    Wells,
    gradient,
    pines,
)

F64 = torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def points(n=40, seed=3):
    return torch.rand(n, 2, generator=seeded(seed), dtype=F64)


def small():
    """Return every kind of target, small; those of scikit-learn's data where it is installed."""
    a = torch.randn(30, 3, generator=seeded(0), dtype=F64)
    here = importlib.util.find_spec("sklearn") is not None
    made = {name: make() for name, make in TARGETS.items() if here or name != "cancer"}
    made["logistic"] = Logistic(a, (a[:, 0] > 0).double())
    made["latent"] = LatentTarget(lambda z: -((z.sum(-1) - 1) ** 2), 3)
    made["cox"] = Cox(points(), 5)
    made["white"] = Cox(points(), 5).whitened()
    made["affine"] = Affine(Funnel(3), torch.ones(3, dtype=F64), torch.eye(3, dtype=F64) + 0.2)
    made["mixture"] = Mixture(a[:4], 0.5, torch.arange(1.0, 5.0))
    return made


@pytest.mark.parametrize(
    "name", sorted({*TARGETS, "logistic", "latent", "cox", "white", "affine"})
)
def test_the_score_is_the_gradient(name):
    if name == "cancer":
        pytest.importorskip("sklearn")
    target = small()[name]
    x = 0.7 * torch.randn(6, target.dim, generator=seeded(1), dtype=F64)
    assert target.log_prob(x).shape == (6,)
    error = target.score(x) - gradient(target.log_prob, x)
    assert error.abs().max() < 1e-9 * (1 + target.score(x).abs().max())


PLANAR = {
    "mog9": (9.0, 0.03),
    "gmm40": (60.0, 0.15),
    "rings": (7.0, 0.01),
    "doublewell": (9.0, 0.02),
}


@pytest.mark.parametrize("name", PLANAR)
def test_log_z_in_the_plane_is_the_integral(name):
    # a Riemann sum on a grid finer than the narrowest detail. Catches a lost constant.
    reach, step = PLANAR[name]
    target = TARGETS[name]()
    line = torch.arange(-reach, reach, step, dtype=F64)
    total = -math.inf
    for part in torch.cartesian_prod(line, line).split(400_000):
        found = float(target.log_prob(part).logsumexp(0))
        total = float(torch.logaddexp(torch.tensor(total), torch.tensor(found)))
    assert abs(total + 2 * math.log(step) - target.log_z) < 1e-3


def test_log_z_of_the_wells_are_the_published_numbers():
    assert abs(ManyWell(32).log_z - 16 * (math.log(11784.509265 * math.sqrt(2 * math.pi)))) < 1e-8
    assert abs(Wells(1, 1, 2.0).log_z - 0.29300174) < 1e-7
    assert abs(Wells(5, 5, 4.0).log_z + 0.54105551) < 1e-7
    assert abs(Wells(50, 5, 2.0).log_z - 42.81724268) < 1e-6
    assert abs(TARGETS["rings"]().log_z - 2.30488149) < 1e-7
    right = ManyWell(2).sample(100_000, generator=seeded(0))[:, 0] > 0
    assert abs(right.double().mean() - 0.84431) < 4 * math.sqrt(0.844 * 0.156 / 1e5)


@pytest.mark.parametrize("variance", [1.0, 9.0])
def test_the_funnel_is_normalised(variance):
    # importance sampling from the funnel of another variance is exact up to the first coordinate
    other, funnel = Funnel(4, 2 * variance), Funnel(4, variance)
    x = other.sample(200_000, generator=seeded(0))
    w = (funnel.log_prob(x) - other.log_prob(x)).exp()
    assert abs(w.mean() - 1) < 4 * w.std() / math.sqrt(len(w))
    ratio = w.log() + x[:, 0] ** 2 / (4 * variance)
    assert (ratio - math.log(2) / 2).abs().max() < 1e-9


SAMPLED = ["mog9", "gmm40", "funnel", "funnel1", "manywell", "rings", "mixture"]


@pytest.mark.parametrize("name", SAMPLED)
def test_samples_are_those_of_the_density(name):
    # Stein: E[h score + div h] = 0 for bounded h, 4 standard errors, n = 50 000. Catches samples
    # of another width, shares of modes, or a log-density of another law.
    target = small()[name]
    x = target.sample(50_000, generator=seeded(5))
    phi = torch.sin(0.3 * x + 0.2)
    divergence = 0.3 * torch.cos(0.3 * x + 0.2)
    stein = phi * gradient(target.log_prob, x) + divergence
    error = stein.std(0) / math.sqrt(len(x))
    assert (stein.mean(0).abs() < 4.5 * error).all()


def test_affine_coordinates_keep_log_z():
    # E_q[p / q] in z equals 1 for a mixture moved by a matrix. Catches the volume's sign.
    scale = torch.tensor([[1.5, 0.0], [0.4, 0.5]], dtype=F64)
    moved = Affine(Mixture(torch.zeros(1, 2), 1.0), torch.tensor([0.3, -1.0]).double(), scale)
    line = torch.arange(-16, 16, 0.05, dtype=F64)
    mass = moved.log_prob(torch.cartesian_prod(line, line)).exp().sum() * 0.05**2
    assert abs(mass - 1) < 1e-6
    z = moved.sample(10, generator=seeded(0))
    assert torch.allclose(moved.out(z), moved.inner.sample(10, generator=seeded(0)))


def test_coordinates_of_the_cox_process_are_one_density():
    # White and plain differ by the volume alone; the variational gradient has mean 0 under its
    # Gaussian, and its bound beats Laplace's. Catches a spread that misses its half.
    cox = Cox(points(126), 8)
    white = cox.whitened()
    z = torch.randn(20_000, cox.dim, generator=seeded(0), dtype=F64)
    assert (white.log_prob(z) - Affine.log_prob(white, z)).abs().max() < 1e-9
    score = white.score(z)
    assert (score.mean(0).abs() < 4.5 * score.std(0) / math.sqrt(len(z))).all()
    base = z.square().sum(-1) / 2
    assert (white.log_prob(z) + base).mean() > (cox.whitened("laplace").log_prob(z) + base).mean()


def test_the_prior_of_the_cox_process_is_normalised():
    # with no counts and no area the likelihood is 1: log_prob is the Gaussian's
    cox = Cox(points(), 4)
    law = torch.distributions.MultivariateNormal(
        torch.full((16,), cox.mean, dtype=F64), scale_tril=cox.chol
    )
    x = law.sample((5,))
    expected = law.log_prob(x) + cox.log_likelihood(x)
    assert (cox.log_prob(x) - expected).abs().max() < 1e-9
    assert cox.counts.sum() == 40


def test_logistic_evidence_in_one_dimension_is_the_integral():
    a = torch.randn(12, 1, generator=seeded(0), dtype=F64)
    target = Logistic(a, (a[:, 0] + 0.3 > 0).double(), prior_std=2.0)
    x = torch.randn(1, 2, generator=seeded(1), dtype=F64)
    logits = target.design @ x[0]
    labels = (a[:, 0] + 0.3 > 0).double()
    fit = torch.distributions.Bernoulli(logits=logits).log_prob(labels).sum()
    prior = torch.distributions.Normal(0 * x, 2.0).log_prob(x).sum()
    assert abs(target.log_prob(x)[0] - fit - prior) < 1e-10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Funnel(1), "dim >= 2"),
        (lambda: ManyWell(3), "even"),
        (lambda: Wells(2, 3), "wells <= dim"),
        (lambda: Mixture(torch.zeros(3), 1.0), "means must be"),
        (lambda: Cox(torch.full((3, 2), 2.0)), "unit square"),
        (lambda: Logistic(torch.zeros(3, 2), torch.arange(3)), "labels must be 0 or 1"),
        (lambda: Affine(Funnel(2), torch.zeros(3), torch.ones(2)), r"expected \(2,\)"),
        (lambda: Affine(Funnel(2), torch.zeros(2), torch.zeros(2)), "singular"),
        (lambda: Cox(points(), 4).gaussian("full"), "variational"),
        (lambda: gradient(lambda x: x.detach().sum(-1), torch.ones(2, 2)), "no gradient"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_file_of_points_is_read_or_refused(tmp_path):
    path = tmp_path / "points.csv"
    with pytest.raises(FileNotFoundError):
        pines(path)
    rows = [f'"{i}",{x},{y}' for i, (x, y) in enumerate(points(126).tolist())]
    path.write_text("\n".join(['"","data_x","data_y"', *rows]) + "\n")
    assert pines(path).counts.sum() == 126
    path.write_text("\n".join(["header", *rows[:5]]))
    with pytest.raises(ValueError, match="expected 126 points"):
        pines(path)
    path.write_text("header\n1,a,b\n")
    with pytest.raises(ValueError, match="not a table"):
        pines(path)
