"""Laws of the discrete path measure: kernels in noise space and the weights of rollouts.

Statistical laws use fixed seeds and allow 4 standard errors: a correct program fails one check
with probability 6e-5 (about 60 such checks here, 0.4 % for the file, were the seeds free). Beside
each law stands the defect that it catches.
"""

import itertools
import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from redrift.measure import GaussianKernel, NoiseLaw, Weights
from redrift.rollout import rollout

INF = math.inf
SCHEMES = ("systematic", "stratified", "multinomial", "residual")


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def random_net(seed, inputs=2, outputs=2, size=0.8):
    """A bounded, nonlinear function of the state."""
    first, second = random(inputs, 16, seed=seed), random(16, outputs, seed=seed + 1000)
    offset = random(16, seed=seed + 2000)
    return lambda x: size * torch.tanh(torch.tanh(x @ first + offset) @ second)


def random_chol(seed, size):
    """A state-dependent Cholesky factor, bounded away from 0."""
    net = random_net(seed, outputs=4, size=size)

    def chol(x):
        values = net(x)
        return values.reshape(-1, 2, 2).tril(-1) + torch.diag_embed(1 + values[:, 1:3])

    return chol


def standard_error(values):
    return values.std() / math.sqrt(len(values))


def assert_mean(values, expected):
    error = (values.mean() - expected).abs().item()
    assert error < 4 * standard_error(values).item(), (values.mean().item(), expected)


def brownian_kernels(steps, seed=0):
    """Uneven steps with a full covariance each; returns the covariance of the sum."""
    roots = [random(2, 2, seed=seed + i) / math.sqrt(2 * steps) for i in range(steps)]
    kernels = [GaussianKernel(lambda x: x, root) for root in roots]
    return kernels, sum(root @ root.T for root in roots)


def changed(kernels, how):
    size = 0.8 / math.sqrt(len(kernels))
    nets = [random_net(7 + i, size=size) for i in range(len(kernels))]
    if how == "control":
        return [kernel.controlled(net) for kernel, net in zip(kernels, nets, strict=True)]
    laws = [(net, random_chol(70 + i, size / 5)) for i, net in enumerate(nets)]
    return [
        kernel.twisted(lambda x, mean=mean, chol=chol: (mean(x), chol(x)))
        for kernel, (mean, chol) in zip(kernels, laws, strict=True)
    ]


# --- unbiasedness ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["control", "twist"])
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_weights_of_a_random_control_are_unbiased_for_z(steps, how):
    # n = 40 000, relative standard error 0.5 to 2 %: catches a lost quadratic or determinant
    # term, a sign, densities taken at the control of the next state (each off by 20 % or more).
    p, covariance = brownian_kernels(steps)
    z = 3.7
    reference = MultivariateNormal(torch.zeros(2, dtype=torch.float64), covariance)
    shift = torch.linalg.cholesky(covariance) @ torch.tensor([0.4, -0.3], dtype=torch.float64)
    target = MultivariateNormal(shift, 0.6 * covariance)
    x0 = torch.zeros(40_000, 2, dtype=torch.float64)
    x, log_w, _ = rollout(changed(p, how), p, x0, generator=seeded(steps))
    log_w = log_w + math.log(z) + target.log_prob(x) - reference.log_prob(x)
    assert_mean(log_w.exp(), z)
    weights = Weights(log_w)
    assert abs(weights.log_z - math.log(z)) < 4 * weights.log_z_se
    assert 0.05 < weights.ess < 0.95


def test_weights_of_a_drifting_reference_are_unbiased():
    # The same where P itself has a nonlinear drift and a law of its noise: E_Q[w f] = E_P[f],
    # n = 40 000. Catches a weight that takes P's noise for N(0, I), or forgets P's determinant.
    drift = random_net(3)
    kernel = GaussianKernel(lambda x: x + 0.3 * drift(x), 0.5, two_scales)
    p, q = [kernel] * 3, [kernel.controlled(random_net(5, size=0.4))] * 3
    x0 = torch.full((40_000, 2), 0.2, dtype=torch.float64)
    plain = rollout(p, p, x0, generator=seeded(1))
    weighted = rollout(q, p, x0, generator=seeded(2))
    assert torch.equal(plain.log_weight, torch.zeros(40_000, dtype=torch.float64))
    left, right = plain.x.cos(), weighted.log_weight.exp()[:, None] * weighted.x.cos()
    for a, b in zip(left.T, right.T, strict=True):
        error = math.hypot(standard_error(a), standard_error(b))
        assert abs(a.mean() - b.mean()) < 4 * error


def two_scales(x):
    return 0.2 * x.cos(), torch.tensor([[1.3, 0.0], [0.4, 0.7]], dtype=x.dtype)


def test_a_control_shifts_the_mean_of_the_kernels_own_law_and_keeps_its_covariance():
    # Catches a control that replaces the law: unbiased still, but another proposal.
    x = random(5, 2, seed=0)
    mean, chol = GaussianKernel(torch.sin, 0.5, two_scales).controlled(torch.tanh).law(x)
    assert torch.equal(mean, 0.2 * x.cos() + x.tanh())
    assert torch.equal(chol, two_scales(x)[1])


def test_antithetic_pairs_are_exact_draws_with_opposite_noise():
    # Catches halves that are paired wrongly, and noise that is not negated.
    p, _ = brownian_kernels(1)
    x0 = torch.zeros(20_000, 2, dtype=torch.float64)
    x, log_w, _ = rollout(changed(p, "control"), p, x0, antithetic=True, generator=seeded(0))
    control = random_net(7)(x0[:1])
    noise = torch.linalg.solve(p[0].scale, x.T).T - control
    torch.testing.assert_close(noise[0::2], -noise[1::2], atol=1e-12, rtol=0)
    assert_mean(log_w.exp().reshape(-1, 2).mean(1), 1.0)
    assert log_w.std() > 0.2


# --- Girsanov -------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.3, "matrix"])
def test_kernel_ratio_is_girsanovs_formula_when_the_covariance_is_shared(scale):
    # log dP/dQ = - sum u'dB - |u|^2 h / 2, B the driving noise of Q, to 1e-12. Catches any
    # confusion of P's and Q's noise, or of a control with a drift.
    h, control = 0.05, random_net(1, size=3.0)
    g = random(2, 2, seed=4) if scale == "matrix" else torch.tensor(scale, dtype=torch.float64)
    base = GaussianKernel(lambda x: x - h * x**3, math.sqrt(h) * g)
    steered = base.controlled(lambda x: math.sqrt(h) * control(x))
    x0 = random(50, 2, seed=0)
    _, log_w, path = rollout([steered] * 20, [base] * 20, x0, path=True, generator=seeded(3))
    expected = torch.zeros(50, dtype=torch.float64)
    full = g if g.ndim else g * torch.eye(2, dtype=torch.float64)
    for x, y in itertools.pairwise(path):
        u = control(x)
        drift = -(x**3) + u @ full.T
        increment = torch.linalg.solve(full, (y - x - h * drift).T).T
        expected += -(u * increment).sum(1) - h * (u * u).sum(1) / 2
    assert (log_w - expected).abs().max() < 1e-12
    assert log_w.std() > 1


def test_small_controls_keep_their_digits_in_float32():
    # u = 1e-4 on 10 000 numbers of noise: the difference of two squares of about 1e4 would lose
    # all digits in float32 (error about 1e-3 against a log-ratio of size 1e-2).
    base = GaussianKernel(lambda x: x, 1.0)
    steered = base.controlled(lambda x: torch.full_like(x, 1e-4))
    x0 = torch.zeros(16, 10_000)
    x, log_w, _ = rollout([steered], [base], x0, generator=seeded(0))
    eta = x.double() - 1e-4
    expected = -(1e-4 * eta).sum(1) - 10_000 * 1e-8 / 2
    assert (log_w.double() - expected).abs().max() < 1e-5


# --- singular covariance --------------------------------------------------------------------


def linear_model(steps):
    """Position and velocity, noise on the velocity only; the position is observed."""
    a = torch.tensor([[1.0, 0.2], [-0.3, 0.9]], dtype=torch.float64)
    b = torch.tensor([[0.0], [0.5]], dtype=torch.float64)
    start = torch.tensor([[0.8, 0.0], [0.3, 0.6]], dtype=torch.float64)
    h, r = torch.tensor([[1.0, 0.0]], dtype=torch.float64), 0.09
    y = random(steps, seed=5)
    return a, b, start, h, r, y


def kalman_log_evidence(a, b, start, h, r, y):
    mean, cov = torch.zeros(2, dtype=torch.float64), start @ start.T
    evidence = torch.zeros((), dtype=torch.float64)
    for i, value in enumerate(y):
        if i > 0:
            mean, cov = a @ mean, a @ cov @ a.T + b @ b.T
        innovation, spread = value - (h @ mean)[0], (h @ cov @ h.T)[0, 0] + r
        evidence = evidence - 0.5 * (innovation**2 / spread + (2 * math.pi * spread).log())
        gain = (cov @ h.T)[:, 0] / spread
        mean, cov = mean + gain * innovation, cov - torch.outer(gain, (h @ cov)[0])
    return evidence


def backward_information(a, b, h, r, y):
    """(Lambda, eta) of log p(y_t, ..., y_T | x_t) as a function of x_t, for each t."""
    precision = torch.zeros(2, 2, dtype=torch.float64)
    vector = torch.zeros(2, dtype=torch.float64)
    messages = []
    for value in y.flip(0):
        middle = torch.linalg.inv(torch.eye(1, dtype=torch.float64) + b.T @ precision @ b)
        keep = torch.eye(2, dtype=torch.float64) - precision @ b @ middle @ b.T
        precision = a.T @ keep @ precision @ a + h.T @ h / r
        vector = a.T @ keep @ vector + h[0] * value / r
        messages.append((precision, vector))
    return messages[::-1]


def exact_twist(kernel, root, message):
    precision, vector = message
    size = root.shape[1]
    cov = torch.linalg.inv(torch.eye(size, dtype=torch.float64) + root.T @ precision @ root)
    chol = torch.linalg.cholesky((cov + cov.T) / 2)

    def law(x):
        return (vector - kernel.mean(x) @ precision) @ root @ cov, chol

    return kernel.twisted(law)


def smoothing_problem(steps):
    a, b, start, h, r, y = model = linear_model(steps)
    first = GaussianKernel(torch.zeros_like, start)  # the prior is a noise step of its own
    p = [first, *[GaussianKernel(lambda x: x @ a.T, b)] * (steps - 1)]
    roots = [start, *[b] * (steps - 1)]
    messages = backward_information(a, b, h, r, y)
    q = [exact_twist(k, s, m) for k, s, m in zip(p, roots, messages, strict=True)]

    def log_likelihood(path):
        rest = y[:, None] - path[1:] @ h[0]
        return (-0.5 * rest**2 / r - 0.5 * math.log(2 * math.pi * r)).sum(0)

    return q, p, log_likelihood, kalman_log_evidence(*model)


def test_singular_covariance_with_the_exact_twist_gives_the_kalman_evidence_in_every_weight():
    # E = 1 < D = 2. Catches densities taken in state space, a wrong determinant of the twist.
    q, p, log_likelihood, evidence = smoothing_problem(6)
    x0 = torch.zeros(200, 2, dtype=torch.float64)
    run = rollout(q, p, x0, path=True, generator=seeded(0))
    log_w = run.log_weight + log_likelihood(run.path)
    assert (log_w - evidence).abs().max() < 1e-11
    assert run.path[-1].std(0).min() > 0.01


def test_singular_covariance_with_a_wrong_twist_stays_unbiased():
    # n = 40 000, relative standard error about 1 %: the mean of the weights is the evidence even
    # where the proposal is the twist of other data.
    q, p, log_likelihood, evidence = smoothing_problem(3)
    wrong = [
        kernel.twisted(lambda x, law=kernel.law: (0.6 * law(x).mean, 1.2 * law(x).chol))
        for kernel in q
    ]
    x0 = torch.zeros(40_000, 2, dtype=torch.float64)
    run = rollout(wrong, p, x0, path=True, generator=seeded(1))
    assert_mean((run.log_weight + log_likelihood(run.path) - evidence).exp(), 1.0)


# --- reversed kernels -----------------------------------------------------------------------


def gaussian_chain(steps):
    """A linear chain q on Gaussian data, its exact reversal p, the data law and the end law.

    Half of each scale is moved into a law of the noise, so every determinant takes part.
    """
    mean, cov = random(2, seed=1), random(2, 2, seed=2)
    cov = cov @ cov.T + 0.3 * torch.eye(2, dtype=torch.float64)
    data = MultivariateNormal(mean, cov)
    q, p = [], []
    for i in range(steps):
        a, root = 0.9 * torch.linalg.qr(random(2, 2, seed=10 + i)).Q, random(2, 2, seed=20 + i)
        q.append(gaussian_kernel(lambda x, a=a: x @ a.T, root @ root.T, seed=30 + i))
        joint = a @ cov @ a.T + root @ root.T
        gain = torch.linalg.solve(joint, a @ cov).T
        p.append(
            gaussian_kernel(
                lambda y, k=gain, m=mean, a=a: m + (y - m @ a.T) @ k.T,
                cov - gain @ a @ cov,
                seed=40 + i,
            )
        )
        mean, cov = mean @ a.T, (joint + joint.T) / 2
    return q, p, data, MultivariateNormal(mean, cov)


def gaussian_kernel(mean, cov, seed):
    """N(mean(x), cov) written as a random scale and the law of the noise that makes up for it."""
    scale, offset = random(2, 2, seed=seed), random_net(seed + 100)
    inner = torch.linalg.inv(scale)
    inner = inner @ cov @ inner.T
    chol = torch.linalg.cholesky((inner + inner.T) / 2)
    return GaussianKernel(
        lambda x: mean(x) - offset(x) @ scale.T, scale, lambda x: NoiseLaw(offset(x), chol)
    )


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_optimal_reverse_gives_the_exact_log_density_in_every_path(steps):
    # The ELBO is tight: log p(x_N) + log dP/dQ = log p(x_0) whatever the noise. Catches a lost or
    # wrongly signed determinant of either pull or law, and pull's arguments swapped.
    q, p, data, end = gaussian_chain(steps)
    x0 = data.mean + random(100, 2, seed=3)
    run = rollout(q, p, x0, reverse=True, generator=seeded(0))
    assert (run.log_weight + end.log_prob(run.x) - data.log_prob(x0)).abs().max() < 1e-10


def test_reversed_kernel_agrees_with_the_closed_form_density():
    # One step against torch.distributions: log p(x|y) - log q(y|x) in state space.
    q, p, data, _ = gaussian_chain(1)
    x0 = data.mean + random(100, 2, seed=3)
    run = rollout(q, p, x0, reverse=True, generator=seeded(0))

    def log_density(kernel, x, y):
        law = kernel.law(x)
        mean = kernel.mean(x) + law.mean @ kernel.scale.T
        return MultivariateNormal(
            mean,
            scale_tril=torch.linalg.cholesky(
                kernel.scale @ law.chol @ law.chol.T @ kernel.scale.T
            ),
        ).log_prob(y)

    expected = log_density(p[0], run.x, x0) - log_density(q[0], x0, run.x)
    assert (run.log_weight - expected).abs().max() < 1e-10


def test_any_walk_bounds_the_log_density_of_the_reverse_and_is_unbiased_for_it():
    # n = 40 000 paths from one x0, relative standard error about 1 %: q is no longer what p
    # reverses, p(x0) is still known. Catches weights that are right only at the optimum.
    q, p, data, end = gaussian_chain(3)
    loose = [
        GaussianKernel(lambda x, k=k: k.mean(x) + 0.2 * x.sin(), 1.2 * k.scale, k.law) for k in q
    ]
    x0 = (data.mean + 0.3).expand(40_000, 2)
    run = rollout(loose, p, x0, reverse=True, generator=seeded(2))
    log_w = run.log_weight + end.log_prob(run.x) - data.log_prob(x0)
    assert log_w.mean() < -0.05
    assert_mean(log_w.exp(), 1.0)
    assert Weights(log_w).ess > 0.2


@pytest.mark.parametrize("roots", ["number", "per_sample", "matrix", "matrices"])
def test_pull_inverts_push_with_the_determinant_of_its_jacobian(roots):
    # States (B, 3, 2), matrices on the last axis. Catches a determinant counted once instead of
    # once per leading position, and a transposed scale.
    scale = {
        "number": -0.4,
        "per_sample": lambda x: 0.5 + x[:, 0, 0] ** 2,
        "matrix": random(2, 2, seed=1),
        "matrices": lambda x: random(2, 2, seed=1) + 0.1 * x[:, 0, :, None],
    }[roots]
    kernel = GaussianKernel(lambda x: x.sin(), scale)
    x, xi = random(4, 3, 2, seed=2), random(4, 3, 2, seed=3)
    back, volume = kernel.pull(x, kernel.push(x, xi))
    torch.testing.assert_close(back, xi, atol=1e-12, rtol=0)
    for b in range(4):
        jacobian = torch.autograd.functional.jacobian(
            lambda e, b=b: kernel.push(x[b : b + 1], e), xi[b : b + 1]
        ).reshape(6, 6)
        expected = torch.linalg.slogdet(jacobian).logabsdet
        assert abs(volume[b] - expected) < 1e-12


@pytest.mark.parametrize("root", ["()", "(B,)", "(E, E)", "(B, E, E)"])
def test_the_four_shapes_of_a_root_are_one_law(root):
    # The weight of one twist, its factor c I written in each shape, states (B, 3, 2).
    c = 1.4
    eye = torch.eye(2, dtype=torch.float64)
    base = GaussianKernel(lambda x: x, 0.5)

    def law(x):
        shapes = {
            "()": torch.tensor(c, dtype=x.dtype),
            "(B,)": torch.full((len(x),), c, dtype=x.dtype),
            "(E, E)": c * eye,
            "(B, E, E)": (c * eye).expand(len(x), 2, 2),
        }
        return 0.3 * x.cos(), shapes[root]

    x0 = random(5, 3, 2, seed=0)
    x, log_w, _ = rollout([base.twisted(law)], [base], x0, generator=seeded(0))
    xi = (x - x0) / 0.5
    eta = (xi - 0.3 * x0.cos()) / c
    expected = (eta.square() - xi.square()).sum((1, 2)) / 2 + 6 * math.log(c)
    assert (log_w - expected).abs().max() < 1e-12


# --- rollout as a function ------------------------------------------------------------------


def test_a_sample_and_its_weight_do_not_depend_on_the_batch_split():
    # Bitwise, with one generator per sample. Catches noise drawn across samples.
    base = GaussianKernel(lambda x: x - 0.1 * x**3, 0.3)
    q, p = [base.controlled(torch.cos)] * 4, [base] * 4
    x0 = random(6, 3, seed=0)
    whole = rollout(q, p, x0, generator=[seeded(i) for i in range(6)])
    parts = [
        rollout(q, p, x0[a:b], generator=[seeded(i) for i in range(a, b)])
        for a, b in ((0, 1), (1, 4), (4, 6))
    ]
    assert torch.equal(whole.x, torch.cat([part.x for part in parts]))
    assert torch.equal(whole.log_weight, torch.cat([part.log_weight for part in parts]))


def test_rollout_leaves_its_arguments_and_the_global_generator_alone():
    base = GaussianKernel(lambda x: x, torch.eye(2))
    x0, log_weight = torch.ones(3, 2), torch.tensor([0.0, -INF, 1.0])
    state = torch.get_rng_state()
    run = rollout(
        [base.controlled(torch.sin)], [base], x0, log_weight=log_weight, generator=seeded(0)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x0, torch.ones(3, 2))
    assert log_weight.tolist() == [0.0, -INF, 1.0]
    assert run.log_weight.isinf().tolist() == [False, True, False]


def test_the_weight_is_differentiable_in_the_control():
    # d/da of E_Q[log dQ/dP] = a |1|^2 per step for a constant control a: the exact gradient.
    a = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    base = GaussianKernel(lambda x: x, 0.2)
    q = [base.controlled(lambda x: a * torch.ones_like(x))] * 4
    x0 = torch.zeros(4_000, 1, dtype=torch.float64)
    run = rollout(q, [base] * 4, x0, antithetic=True, generator=seeded(0))
    (gradient,) = torch.autograd.grad(-run.log_weight.mean(), a)
    assert abs(gradient.item() - 4 * 0.5) < 1e-10


@pytest.mark.parametrize("method", SCHEMES)
def test_resampling_by_the_weights_keeps_every_expectation(method):
    # n = 20 000 controlled paths, resampled: f's mean is that of P. Catches ancestors that do not
    # belong to the weights. The standard error is that of the weighted mean, plus resampling's.
    p, covariance = brownian_kernels(2)
    x0 = torch.zeros(20_000, 2, dtype=torch.float64)
    x, log_w, _ = rollout(changed(p, "control"), p, x0, generator=seeded(4))
    y = Weights(log_w).resample(x, 5_000, method, generator=seeded(5))
    assert y.shape == (5_000, 2)
    ess = 20_000 * Weights(log_w).ess
    error = covariance.diagonal().sqrt() * (1 / ess + 1 / 5_000).sqrt()
    assert (y.mean(0).abs() < 4 * error).all()
    assert ((Weights(log_w).normalised[:, None] * x).sum(0).abs() < 4 * error).all()
