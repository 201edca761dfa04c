r"""The path integral sampler: learn the drift that turns noise into samples of a density.

$dX = \sigma u\,dt + \sigma\,dW$ from a point, u chosen so that X_T has the law mu: the optimal control of
$E[\int \tfrac12|u|^2 dt + \log\mu_0(X_T) - \log\hat\mu(X_T)]$, whose minimum is -log Z. Paths carry weights,
unbiased for Z whatever the control, so an imperfect control costs efficiency and not truth.

Paper: Path Integral Sampler, arXiv:2111.15141.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from redrift._core.errors import whole
from redrift._core.optional import need
from redrift._core.rng import fresh
from redrift.control import fit as fitting
from redrift.control import store
from redrift.control.annealed import Annealed, anneal, two_passes
from redrift.control.check import Check, LogZ, TrustWarning, judge, warn_of
from redrift.control.density import as_target, checked
from redrift.control.nets import Control
from redrift.control.objective import NetDrift, path_log_weight
from redrift.control.options import (
    Architecture,
    Buffer,
    Checkpoint,
    History,
    Losses,
    Objective,
    Optimiser,
)
from redrift.control.problem import ControlProblem
from redrift.control.reference import reference_chain
from redrift.measure import Weights
from redrift.process import Brownian, Process
from redrift.targets import Target
from redrift.targets.base import Affine, affine, affine_inverse, spread_of

Function = Callable[[Tensor], Tensor]
_AUTO_VARIANCE = 2.0  # of the reference's end, in units of the target's own variance


class PIS:
    """Sample an unnormalised density by a learned control, with weights.

    Args:
        log_prob: maps (B, dim) to (B,), differentiable; or a `redrift.targets.Target`.
        dim: length of x; taken from a target.
        reference: Brownian(horizon=V) starts at the origin and ends as N(0, V): PIS.
            OrnsteinUhlenbeck starts and ends in its stationary law: DDS; VP: DIS. None takes V = 2 in
            coordinates that `fit` measures by short annealed chains, x = loc + scale z.
        steps: N >= 1.
        score: gradient of log_prob; autograd by default.
        loc: origin of the coordinates (dim,); 0 by default.
        scale: width of the coordinates, (dim,) or a matrix (dim, dim); 1 by default. Give either, or
            a reference, and nothing is measured.
        full: measure a whole covariance, for correlated targets that are nearly Gaussian.
        power: of the grid (see `reference_chain`); 0 is uniform.
        network: the control's network.
        objective: what `fit` minimises by default.
        optimiser: how, by default.
        buffer: the samples that it learns from by default.

    Example:
        >>> pis = PIS(lambda x: -x.square().sum(-1), dim=3, steps=20)
        >>> _ = pis.fit(iterations=20, particles=500, check=False, generator=torch.Generator())
        >>> x, w = pis.sample(100)
    """

    def __init__(
        self,
        log_prob: Function | Target,
        dim: int | None = None,
        *,
        reference: Process | None = None,
        steps: int = 100,
        score: Function | None = None,
        loc: Tensor | None = None,
        scale: Tensor | None = None,
        full: bool = False,
        power: float = 2.0,
        network: Architecture = Architecture(),  # noqa: B008
        objective: Objective = Objective(),  # noqa: B008
        optimiser: Optimiser = Optimiser(),  # noqa: B008
        buffer: Buffer = Buffer(),  # noqa: B008
    ) -> None:
        self.target = as_target(log_prob, dim, score)
        self.dim = self.target.dim
        self.measured = reference is not None or loc is not None or scale is not None
        self.process = Brownian(_AUTO_VARIANCE) if reference is None else reference
        self.power, self.full, self.network = power, full, network
        self.objective, self.optimiser, self.buffer = objective, optimiser, buffer
        self.chain = reference_chain(self.process, steps, power)
        one = torch.ones(self.dim, dtype=torch.float64)
        self.loc = one * 0 if loc is None else loc.double()
        self.scale = one if scale is None else scale.double()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(network.seed)
            self.net = Control(
                self.dim, steps, self.chain.end, width=network.width, depth=network.depth,
                gradient=network.gradient, spread=network.spread,
            ).to(network.dtype)  # fmt: skip
        self.annealed: Annealed | None = None

    @classmethod
    def paper(cls, log_prob: Function | Target, dim: int | None = None, **options: Any) -> PIS:  # noqa: ANN401
        """Return the sampler as its paper runs it, for comparison.

        V = 1 (T = 5 with sigma^2 = .2), 100 even steps, a fixed step variance, the KL loss with the
        target's gradient held fixed, lr 5e-3 times .95 every 50 iterations, batches of 300.
        """
        own: dict[str, Any] = dict(
            reference=Brownian(1.0), steps=100, power=0.0, network=Architecture(width=64, spread=0.0),
            objective=Objective("kl", batch=300),
            optimiser=Optimiser(lr=5e-3, decay="epoch", ema=0.0), buffer=Buffer(refresh=0),
        )  # fmt: skip
        return cls(log_prob, dim, **(own | options))

    @property
    def problem(self) -> ControlProblem:
        """Return the control problem in the sampler's coordinates."""
        moved = Affine(self.target, self.loc, self.scale)
        return ControlProblem(
            checked(moved.log_prob, self.dim), moved.score, self.dim, self.chain, self.network.clip
        )

    def fit(
        self,
        iterations: int | None = None,
        *,
        seconds: float | None = None,
        loss: Losses | None = None,
        particles: int | None = None,
        objective: Objective | None = None,
        optimiser: Optimiser | None = None,
        buffer: Buffer | None = None,
        check: bool = True,
        checkpoint: Checkpoint | None = None,
        every: int = 500,
        progress: bool = False,
        callback: Callable[[dict[str, Any]], object] | None = None,
        generator: torch.Generator | None = None,
    ) -> History:
        """Train the control.

        Where neither a reference nor coordinates were given, `measure` sets them first, and the history
        says so.

        Args:
            iterations: of Adam; reproducible to the bit.
            seconds: of processor time instead, annealed chains included.
            loss: in place of the objective's.
            particles: of the annealed chains, in place of the buffer's.
            objective: what is minimised; the sampler's by default, as the next two.
            optimiser: how.
            buffer: the samples of the target to learn from, where a loss or the coordinates need them.
            check: judge the result at the end (see `check`) and warn.
            checkpoint: file for the whole state of training.
            every: iterations between checkpoints, and between rows of progress.
            progress: show a bar with ELBO and ESS.
            callback: called with each row of the history.
            generator: of everything random; advanced.

        Raises:
            ValueError: for bad arguments, or a log_prob that returns what is no log-density.
            NumericalError: if training stops being finite. A `TrustWarning` says if the result
                should not be trusted.

        Cost:
            An iteration of mixed, am or bm: one evaluation of network and target gradient at `points`
            states; of kl, lv or tb: twice at batch * steps states.
        """
        fitting.check_budget(iterations, seconds)
        objective = self.objective if objective is None else objective
        objective = objective if loss is None else replace(objective, loss=loss)
        buffer = self.buffer if buffer is None else buffer
        buffer = buffer if particles is None else replace(buffer, particles=particles)
        began = time.process_time()
        g = fresh() if generator is None else generator
        self._probe(needs_score=self.net.gradient or objective.needs_samples)
        at, open_before = fitting.coordinates(checkpoint), not self.measured
        if at:
            self.loc, self.scale, self.measured = at["loc"], at["scale"], True
        needed = not at and (objective.needs_samples or not self.measured)
        x = self._samples(buffer, g) if needed or (buffer.samples is not None and not at) else None
        if x is not None and not self.measured:
            self.measure(x)
        training = fitting.Training(
            self.problem, self.net, objective, self.optimiser if optimiser is None else optimiser,
            buffer, g, None if x is None else affine_inverse(self.loc, self.scale, x),
            {"loc": self.loc, "scale": self.scale},
        )  # fmt: skip
        history = fitting.run(
            training, iterations=iterations, seconds=seconds, checkpoint=checkpoint, every=every,
            progress=progress, callback=callback, spent=time.process_time() - began,
        )  # fmt: skip
        history.measured, history.loc, history.scale = open_before, self.loc, self.scale
        self.net.load_state_dict(training.average.state_dict())
        if check:
            verdict = self.check(generator=torch.Generator().manual_seed(training.iteration))
            if verdict.concern:
                warnings.warn(verdict.concern, TrustWarning, stacklevel=2)
        return history

    def measure(self, samples: Tensor) -> None:
        """Set the coordinates x = loc + scale z by samples of the target (M, dim).

        The network is left as it is; fit it in the new coordinates.
        """
        x = self._checked(samples)
        self.loc, self.scale, self.measured = x.mean(0), spread_of(x, full=self.full), True

    def _probe(self, *, needs_score: bool) -> None:
        """Evaluate the target at two points, so that a bad one fails before any work."""
        z = torch.randn(2, self.dim, generator=torch.Generator().manual_seed(0))
        problem = self.problem
        z = z.to(self.net.last.weight.dtype)
        problem.log_prob(z)
        if needs_score and not bool(torch.isfinite(problem.score(z)).all()):
            raise ValueError("the gradient of log_prob is not finite near the origin.")

    def _samples(self, buffer: Buffer, g: torch.Generator) -> Tensor:
        """Return samples of the target to learn from, float64: those given, or annealed ones."""
        if buffer.samples is not None:
            return self._checked(buffer.samples)
        self.annealed = self._chains(buffer.particles, buffer.start, g)
        return self.annealed.weights.resample(self.annealed.x, generator=g).double()

    def _checked(self, samples: Tensor) -> Tensor:
        if samples.ndim != 2 or samples.shape[1] != self.dim or len(samples) < 2:
            raise ValueError(
                f"samples has shape {tuple(samples.shape)}, expected (M, {self.dim}), M >= 2."
            )
        return samples.double()

    def _chains(
        self, particles: int, start: float | Tensor | None, g: torch.Generator
    ) -> Annealed:
        dtype = self.net.last.weight.dtype
        if not self.measured:
            return two_passes(self.target, particles, start, dtype, g)
        problem = self.problem  # in the sampler's own coordinates, which may be white
        wide = math.sqrt(self.chain.end) if start is None else start
        z = anneal(
            problem.log_prob, problem.score, self.dim, particles, scale=wide, dtype=dtype,
            generator=g,
        )  # fmt: skip
        return replace(z, x=affine(self.loc, self.scale, z.x))

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        antithetic: bool = False,
        batch_size: int = 5000,
        warn: bool = True,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> tuple[Tensor, Weights]:
        """Draw n samples with unnormalised weights.

        Args:
            n: how many.
            antithetic: pair paths with opposite noise; n and batch_size must be even.
            batch_size: paths at once.
            warn: emit a `TrustWarning` if the weights have collapsed.
            generator: one, one per sample, or None.

        Returns:
            (n, dim), and Weights whose log_z estimates log Z (exp of it without bias).

        Cost:
            `steps` evaluations of network and gradient, one of log_prob, per sample.
        """
        n = whole("n", n)
        dtype, problem = self.net.last.weight.dtype, self.problem
        drift = NetDrift(problem, self.net)
        xs, ws = [], []
        for i in range(0, n, batch_size):
            size = min(batch_size, n - i)
            part = generator[i : i + size] if isinstance(generator, Sequence) else generator
            z, w, _ = problem.simulate(
                drift, size, dtype=dtype, antithetic=antithetic, generator=part
            )
            xs.append(affine(self.loc, self.scale, z))
            ws.append(w)
        weights = Weights(torch.cat(ws))
        if warn and n >= 100:
            warn_of(weights)
        return torch.cat(xs), weights

    def log_z(self, n: int = 10_000, *, generator: torch.Generator | None = None) -> LogZ:
        """Estimate log Z from n samples; biased low by about half its variance."""
        _, w = self.sample(n, generator=generator)
        return LogZ(float(w.log_z), float(w.log_z_se), n)

    def elbo(self, n: int = 10_000, *, generator: torch.Generator | None = None) -> LogZ:
        """Estimate E log w, a lower bound of log Z, with its standard error."""
        _, w = self.sample(n, warn=False, generator=generator)
        return LogZ.mean(w.log_w)

    def eubo(self, samples: Tensor, *, generator: torch.Generator | None = None) -> LogZ:
        """Estimate the mean log-weight of paths that end in target samples: an upper bound of log Z.

        Args:
            samples: of the target (M, dim), exact ones for a bound.
            generator: of the bridges back from them.
        """
        return LogZ.mean(self.path_log_weight(samples, generator=generator))

    def to_arviz(self, n: int = 10_000, *, generator: torch.Generator | None = None) -> Any:  # noqa: ANN401
        """Return n draws, resampled by weight, as an arviz object with the variable "x".

        Uneven weights repeat draws, which arviz's ESS does not see; needs the extra "arviz".
        """
        arviz: Any = need("arviz", "arviz")
        x, w = self.sample(n, generator=generator)
        drawn = w.resample(x, generator=generator)
        return arviz.from_dict(posterior={"x": drawn.unsqueeze(0).numpy()})

    @torch.no_grad()
    def path_log_weight(
        self, samples: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return log w (M,) of paths of the reference that end in the given samples (M, dim)."""
        problem, dtype = self.problem, self.net.last.weight.dtype
        if samples.ndim != 2 or samples.shape[1] != self.dim:
            raise ValueError(f"samples is {tuple(samples.shape)}, expected (M, {self.dim}).")
        terminal = affine_inverse(self.loc, self.scale, samples.double()).to(dtype)
        found = []
        for part in terminal.split(2000):
            path = problem.bridge(part, generator=generator)
            found.append(path_log_weight(problem, self.net, path))
        return torch.cat(found)

    def check(
        self,
        samples: Tensor | None = None,
        *,
        n: int = 4000,
        generator: torch.Generator | None = None,
    ) -> Check:
        """Judge the sampler by its own weights and by samples it did not make.

        Its own weights cannot see a mode that it never visits; paths that end in other samples can.
        Without `samples` the annealed chains of `fit` serve, or new ones.

        Args:
            samples: of the target, from anywhere (M, dim).
            n: own paths, and others at most.
            generator: of all.
        """
        _, own = self.sample(n, warn=False, generator=generator)
        annealed = None
        if samples is None:
            g = fresh() if generator is None else generator
            try:
                run = self.annealed or self._chains(min(n, 2000), None, g)
            except ValueError:
                return judge(own, None, None)  # no gradient: nothing to run chains with
            annealed = run.weights
            samples = run.weights.resample(run.x, min(n, len(run.x)), generator=g)
        return judge(own, self.path_log_weight(samples[:n], generator=generator), annealed)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write network, coordinates and reference to a safetensors file, whole or not at all."""
        options = {"power": self.power, "clip": self.network.clip, "dim": self.dim}
        store.save_sampler(path, self.net, self.loc, self.scale, self.process, options)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        log_prob: Function | Target,
        dim: int | None = None,
        *,
        score: Function | None = None,
    ) -> PIS:
        """Read a sampler of `save` for a density, which the file does not hold.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged or for another dimension.
        """
        length, options, weights = store.load_sampler(path)
        known = isinstance(getattr(log_prob, "__self__", log_prob), Target) or dim is not None
        target = as_target(log_prob, dim if known else length, score)
        if target.dim != length:
            raise ValueError(
                f"{path} holds a sampler for dim = {length}, the density has {target.dim}."
            )
        pis = cls(target, **options)
        pis.net.load_state_dict(weights)
        return pis
