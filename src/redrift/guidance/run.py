"""The state of one run: the particles with their weights, and the step that the strategies work on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from redrift._core.rng import Generators
from redrift.denoise import Denoiser
from redrift.guidance.loss import Waiting
from redrift.guidance.result import Guidance
from redrift.solvers import Transition

T = TypeVar("T")


class ParticleRun:
    """One run of `Particles`: what `begin` makes, and every strategy reads and writes.

    Attributes:
        width: K, particles of a sample.
        weighted: whether the choices keep weights.
        submit: begins to evaluate the rule on clean samples: (rows,), or (rows, S) for S segments.
        max_batch: most rows of one network call, or None.
        result: what is found.
        model, wants, generator: of the present step.
        log_w: log-weights (B, K).
        before: potential U of the last guided step (B, K), which the next one takes back.
        best: least loss of all guided steps so far (B, K).
        roots: (B, K), see `Guidance`.
        kept: losses (B, K) of the states chosen at the last guided step.
        ended: whether that is the plan's last step.
    """

    model: Denoiser
    wants: str
    generator: Generators

    def __init__(
        self,
        width: int,
        weighted: bool,
        submit: Callable[[Tensor], Waiting],
        max_batch: int | None,
    ) -> None:
        self.width, self.weighted, self.submit, self.max_batch = width, weighted, submit, max_batch
        self.result = Guidance(evaluations=width)
        self.log_w = self.before = self.best = self.roots = torch.empty(0, 0)
        self.kept: Tensor | None = None
        self.ended = False

    def enter(self, law: Transition, model: Denoiser, wants: str, generator: Generators) -> None:
        """Take up a step; the first one sets up the particles."""
        self.model, self.wants, self.generator, self.ended = model, wants, generator, law.last
        if not self.log_w.numel():
            B, K = len(law.mean) // self.width, self.width
            self.log_w = self.before = torch.zeros(B, K, dtype=torch.float64)
            self.best = torch.full_like(self.log_w, math.inf)
            self.roots = torch.arange(K).repeat(B, 1)

    def take(self, index: Tensor) -> None:
        """Let particle i continue particle index[i], of all samples' (B * K,) one after the other."""
        shape = self.before.shape
        self.before, self.best, self.roots = (
            value.reshape(-1)[index].reshape(shape)
            for value in (self.before, self.best, self.roots)
        )

    def waiting(self, call: Callable[[], T]) -> T:
        """Return what a call of the rule gives, and count the time as waited."""
        began = time.perf_counter()
        found = call()
        self.result.waited += time.perf_counter() - began
        return found
