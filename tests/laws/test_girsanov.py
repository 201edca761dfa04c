"""Laws of Girsanov's forms, of weights' tails, and of rollouts that recompute.

Statistical laws use fixed seeds and allow 4 standard errors.
"""

import itertools
import math

import pytest
import torch

from redrift.measure import (
    Diagonal,
    GaussianKernel,
    Weights,
    control_cost,
    log_girsanov,
    pareto_k,
)
from redrift.rollout import rollout

F64 = torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def walked(steps=12, n=40, dim=3, spread=False):
    """A walk under a nonlinear control, its lengths, controls and driving noise."""
    lengths = torch.linspace(0.02, 0.2, steps, dtype=F64)
    base = [GaussianKernel(lambda x: x, float(h.sqrt())) for h in lengths]

    def control(x):
        return 2 * torch.sin(1.3 * x) - 0.4 * x.roll(1, -1)

    steered = [
        k.controlled(lambda x, h=h: h.sqrt() * control(x))
        for k, h in zip(base, lengths, strict=True)
    ]
    if spread:
        steered = [
            k.twisted(lambda x, h=h: (h.sqrt() * control(x), Diagonal(torch.exp(0.3 * x.cos()))))
            for k, h in zip(base, lengths, strict=True)
        ]
    x0 = torch.randn(n, dim, generator=seeded(0), dtype=F64)
    run = rollout(steered, base, x0, path=True, generator=seeded(1))
    u = torch.stack([control(x) for x in run.path[:-1]])
    driven = torch.stack([b - a for a, b in itertools.pairwise(run.path)])
    return lengths, steered, base, run, u, driven - lengths[:, None, None] * u


def test_the_ratio_of_kernels_is_girsanovs_formula():
    # to 1e-12. Catches a half lost, a sign, or dW in place of dB.
    lengths, _, _, run, u, noise = walked()
    assert (log_girsanov(u, noise, lengths) - run.log_weight).abs().max() < 1e-12
    assert run.log_weight.std() > 1


def test_a_walk_of_another_control_is_weighed_by_the_same_formula():
    # Q_v walked, Q_u weighed: log dP/dQ_u from kernels on the given path. Catches v and u swapped.
    lengths, _, base, run, v, noise = walked()
    u = torch.tanh(run.path[:-1])
    found = log_girsanov(u, noise, lengths, walked=v)
    expected = torch.zeros(len(run.x), dtype=F64)
    for k, (x, y) in enumerate(itertools.pairwise(run.path)):
        xi, _ = base[k].pull(x, y)
        shift = lengths[k].sqrt() * u[k]
        expected += ((xi - shift).square() - xi.square()).sum(1) / 2
    assert (found - expected).abs().max() < 1e-12


def test_the_cost_of_a_control_is_the_mean_of_girsanovs_weight():
    # n = 40 000: E log dP/dQ = -E int |u|^2 / 2. Catches a cost without its half.
    lengths, _, _, _, u, noise = walked(n=40_000)
    gap = log_girsanov(u, noise, lengths) + control_cost(u, lengths)
    assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(len(gap))
    assert gap.std() > 0.5


def test_a_diagonal_law_of_the_noise_is_the_same_law_as_its_matrix():
    # Catches a determinant of the diagonal left out, or its square taken.
    _, steered, base, run, _, _ = walked(spread=True)
    dense = [
        b.twisted(lambda x, k=k: (k.law(x).mean, torch.diag_embed(k.law(x).chol.std)))
        for b, k in zip(base, steered, strict=True)
    ]
    again = rollout(dense, base, run.path[0], generator=seeded(1))
    assert (again.x - run.x).abs().max() < 1e-12
    assert (again.log_weight - run.log_weight).abs().max() < 1e-11


def test_a_learned_variance_keeps_the_weights_unbiased():
    # n = 40 000, E w = 1. Catches the determinant of the step's variance with a wrong sign.
    _, _, _, run, _, _ = walked(steps=4, n=40_000, dim=1, spread=True)
    w = run.log_weight.exp()
    assert abs(w.mean() - 1) < 4 * w.std() / math.sqrt(len(w))


@pytest.mark.parametrize("reverse", [False, True])
def test_recomputing_steps_changes_no_gradient(reverse):
    # Catches noise drawn again on the way back, or a weight left out of what is recomputed.
    def gradients(checkpoint):
        a = torch.tensor([0.3, -0.2], dtype=F64, requires_grad=True)
        base = GaussianKernel(lambda x: x + 0.1 * torch.sin(a * x), 0.4)
        q = [base.controlled(lambda x: torch.tanh(a + x))] * 5
        p = [GaussianKernel(lambda y: 0.9 * y * a.cos(), 0.5)] * 5 if reverse else [base] * 5
        run = rollout(
            q, p, torch.ones(6, 2, dtype=F64), reverse=reverse, checkpoint=checkpoint,
            generator=seeded(3),
        )  # fmt: skip
        (g,) = torch.autograd.grad((run.log_weight + run.x.square().sum(1)).mean(), a)
        return g

    assert (gradients(True) - gradients(False)).abs().max() < 1e-12


# --- tails ----------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_k_hat_is_the_tail_index_of_pareto_weights(k):
    # w = U^-k has tail index k; 20 sets of 20 000, tolerance 4 standard errors of their mean (and
    # .03 for the weak prior at 1/2). Catches a tail of the smallest weights, or -k.
    u = torch.rand(20, 20_000, generator=seeded(0), dtype=F64)
    found = pareto_k(-k * u.log())
    assert abs(found.mean() - k) < 4 * found.std() / math.sqrt(20) + 0.03


def test_k_hat_does_not_depend_on_the_scale_of_the_weights():
    log_w = 0.6 * torch.randn(5000, generator=seeded(1), dtype=F64).exp()
    assert abs(pareto_k(log_w) - pareto_k(log_w + 700)) < 1e-9


def test_k_hat_is_never_nan():
    inf = math.inf
    sets = [[0.0] * 100, [0.0], [0.0] + [-inf] * 99, [-inf] * 50, [1.0] * 60 + [0.0] * 940]
    for log_w in sets:
        assert not math.isnan(float(pareto_k(torch.tensor(log_w))))
    assert float(pareto_k(torch.tensor(sets[0]))) == -inf
    assert float(pareto_k(torch.tensor(sets[2]))) == inf


def test_smoothed_weights_estimate_a_heavy_mean_with_less_error():
    # w = U^-.6 has mean 2.5 and no variance; 200 sets of 1000. Catches quantiles of a wrong law or
    # in the wrong order: the median error must fall, and stay unbiased to 5 %.
    w = Weights(-0.6 * torch.rand(200, 1000, generator=seeded(2), dtype=F64).log())
    raw, smooth = w.log_z.exp(), w.smoothed().log_z.exp()
    assert (smooth - 2.5).square().mean() < 0.7 * (raw - 2.5).square().mean()
    assert abs(smooth.mean() / 2.5 - 1) < 0.05
    order = w.log_w.argsort()
    assert (w.smoothed().log_w.gather(1, order).diff() >= -1e-12).all()


def test_weights_say_when_they_cannot_be_trusted():
    fine = Weights(0.5 * torch.randn(2000, generator=seeded(3)))
    heavy = Weights(-1.2 * torch.rand(2000, generator=seeded(3)).log())
    assert fine.concern is None
    assert "k-hat" in heavy.concern
    lone = Weights(torch.cat([torch.tensor([50.0]), torch.randn(1999, generator=seeded(4))]))
    assert "effective sample size" in lone.concern
    assert "no sample" in Weights(torch.full((5,), -math.inf)).concern


def test_bad_input_is_named():
    one = torch.ones(2, 3, 1)
    with pytest.raises(ValueError, match=r"expected \(N, B"):
        log_girsanov(one, one[:1], torch.ones(2))
    with pytest.raises(ValueError, match="positive"):
        control_cost(one, torch.tensor([1.0, 0.0]))
    base = GaussianKernel(lambda x: x, 1.0)
    bad = base.twisted(lambda x: (x, Diagonal(torch.ones(1))))
    with pytest.raises(ValueError, match="Diagonal has shape"):
        rollout([bad], [base], torch.ones(4, 2))
