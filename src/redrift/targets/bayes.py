r"""Posteriors: logistic regression, and the latent of a decoder."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from redrift._core.optional import need
from redrift.targets.base import Target


class Logistic(Target):
    r"""Bayesian logistic regression, $w \sim N(0, \sigma^2 I)$, $y_i \sim Bernoulli(logistic(a_i' w))$.

    Args:
        features: (N, d) as they come; columns are standardised here and a column of ones is added.
        labels: (N,) of 0 and 1.
        prior_std: sigma, > 0.
        log_z: a reference value of the log evidence, if known.
        log_z_error: its standard error.
        name: for tables.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        prior_std: float = 1.0,
        log_z: float | None = None,
        log_z_error: float = 0.0,
        name: str = "logistic",
    ) -> None:
        if features.ndim != 2 or labels.shape != features.shape[:1] or not prior_std > 0:
            raise ValueError(
                f"features must be (N, d), labels (N,) and prior_std > 0, got "
                f"{tuple(features.shape)}, {tuple(labels.shape)}, {prior_std}."
            )
        if not set(labels.unique().tolist()) <= {0, 1}:
            raise ValueError("labels must be 0 or 1.")
        a = features.double()
        spread = a.std(0, correction=0)
        a = (a - a.mean(0)) / torch.where(spread > 0, spread, 1.0)
        self.design = torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], 1)
        # log logistic((2y - 1) a'w): the sign goes into the rows
        self._rows = self.design * (2 * labels.double() - 1)[:, None]
        self.dim, self.prior_std = self.design.shape[1], float(prior_std)
        self.log_z, self.log_z_error, self.name = log_z, log_z_error, name

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log likelihood + log prior (B,); its integral is the evidence."""
        fit = torch.nn.functional.logsigmoid(x @ self._rows.to(x).T).sum(-1)
        prior = x.square().sum(-1) / (2 * self.prior_std**2)
        return fit - prior - self.dim * math.log(2 * math.pi * self.prior_std**2) / 2

    def score(self, x: Tensor) -> Tensor:
        """Return its gradient (B, dim)."""
        rows = self._rows.to(x)
        return torch.sigmoid(-(x @ rows.T)) @ rows - x / self.prior_std**2


def breast_cancer() -> Logistic:
    """Return logistic regression on scikit-learn's breast cancer data, d = 31, prior N(0, I).

    Published figures for "cancer" often leave the prior out, which makes the density improper;
    here it is in.

    Raises:
        ImportError: without scikit-learn.
    """
    data = need("sklearn.datasets", "train").load_breast_cancer()
    return Logistic(
        torch.from_numpy(data.data),
        torch.from_numpy(data.target),
        log_z=BREAST_CANCER[0],
        log_z_error=BREAST_CANCER[1],
        name="cancer",
    )


BREAST_CANCER = (-55.232, 0.004)  # AIS from the Laplace approximation, ESS .87, n = 10 000


class LatentTarget(Target):
    r"""The posterior of a decoder's latent, $p(z)\,p(x \mid z)$ with $z \sim N(0, I)$; its log Z is log p(x).

    Args:
        log_likelihood: maps z (B, dim) to log p(x | z) (B,) of the one observation at hand: a
            variational autoencoder's decoder with its noise, say.
        dim: length of z.
        log_z: log p(x) where it is known.
        log_z_error: its standard error.
    """

    name = "latent"

    def __init__(
        self,
        log_likelihood: Callable[[Tensor], Tensor],
        dim: int,
        *,
        log_z: float | None = None,
        log_z_error: float = 0.0,
    ) -> None:
        self.log_likelihood, self.dim = log_likelihood, dim
        self.log_z, self.log_z_error = log_z, log_z_error

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(z) + log p(x | z)."""
        prior = x.square().sum(-1) / 2 + self.dim * math.log(2 * math.pi) / 2
        return self.log_likelihood(x) - prior
