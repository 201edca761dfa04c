r"""The exact control of a Gaussian mixture: the oracle that a learned control is measured by.

$b_k(x) = \nabla\log\phi_k$ with $\phi_k(x) = \int N(y; \psi x, c)\,\mu(y)/\mu_0(y)\,dy$. For isotropic
components $N(m_i, s^2 I)$ the end given x is a mixture again, of precision
$\lambda = 1/c + 1/s^2 - 1/V$ and means $h_i / \lambda$, $h_i = \psi x / c + m_i / s^2$, so

    b = sum_i r_i h_i / (lambda c) - psi x / c,   r = softmax(log w_i + |h_i|^2 / 2 lambda - |m_i|^2 / 2 s^2).

A chain sample_smc by it is exact in the limit of many steps only: the kernel keeps the reference's
variance, or (curvature=True) its diagonal becomes the exact conditional variance, which is the best
that a Gaussian step can do. What is left is the ceiling of any learned control.

Paper: Path Integral Sampler, arXiv:2111.15141, for the Brownian reference; N(m, s^2 I) in closed form.
"""

from __future__ import annotations

import torch
from torch import Tensor

from redrift.control.reference import Reference
from redrift.targets import Mixture


class MixtureControl:
    """Steer a reference exactly towards an isotropic mixture.

    Args:
        target: the mixture.
        reference: the chain, in the mixture's own coordinates.
        curvature: also give the step's exact conditional variance, per coordinate.

    Raises:
        ValueError: if mu / mu_0 cannot be integrated from some step: 1/c + 1/s^2 <= 1/V.

    Example:
        >>> from redrift.control.reference import reference_chain
        >>> from redrift.process import Brownian
        >>> from redrift.targets import grid9
        >>> steer = MixtureControl(grid9(), reference_chain(Brownian(25.0), 10))
        >>> steer(0, torch.zeros(1, 2))[0].abs().max() < 1e-9
        tensor(True)
    """

    def __init__(self, target: Mixture, reference: Reference, *, curvature: bool = False) -> None:
        self.target, self.reference, self.curvature = target, reference, curvature
        inverse = 1 / target.std**2
        self.precision = 1 / reference.c[:-1] + inverse - 1 / reference.end
        if not bool((self.precision > 0).all()):
            raise ValueError(
                "the reference is too narrow for the mixture: its end variance must not be below "
                f"{1 / (inverse + 1 / float(reference.c[0])):.3g}."
            )

    def __call__(self, k: int, x: Tensor, /) -> tuple[Tensor, Tensor | None]:
        """Return b (B, dim) and log S / q at step k."""
        chain, target = self.reference, self.target
        c, psi, precision = (float(v[k]) for v in (chain.c, chain.psi, self.precision))
        means, inverse = target.means.to(x), 1 / target.std**2
        far = psi * x / c
        h = far[:, None] + means * inverse
        logits = target.log_weights.to(x) + h.square().sum(-1) / (2 * precision)
        logits = logits - means.square().sum(-1) * (inverse / 2)
        r = logits.softmax(-1)[..., None]
        ends = h / precision
        mean = (r * ends).sum(1)
        b = mean / c - far
        if not self.curvature:
            return b, None
        spread = 1 / precision + (r * (ends - mean[:, None]).square()).sum(1)
        gain = float(chain.gain[k])
        return b, torch.log(1 - gain**2 / c + gain**2 * spread / c**2)
