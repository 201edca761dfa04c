"""Exponential moving average of a net's parameters, with a warm-up of the decay."""

import copy
from typing import Any

import torch
from torch import nn


class EMA:
    """Average a net's parameters along its training.

    The n-th update (n = 0, 1, ...) is ``avg <- d avg + (1 - d) net`` with
    ``d = min(decay, (1 + n) / (10 + n))``, so that the random start is soon forgotten. Buffers
    are copied.

    Args:
        net: the net to follow; it is copied, never changed.
        decay: the largest decay, in [0, 1).

    Cost: one copy of the net; one pass over its parameters an update.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> ema = EMA(net)
        >>> ema.update(net)
        >>> prediction = ema.net(torch.ones(1, 2))
    """

    def __init__(self, net: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay, self.updates = decay, 0
        self.net = copy.deepcopy(net).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move the average towards the parameters of `net`."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for mine, theirs in zip(self.net.parameters(), net.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)
        for mine, theirs in zip(self.net.buffers(), net.buffers(), strict=True):
            mine.copy_(theirs)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Return decay, number of updates and the average's parameters."""
        return {"decay": self.decay, "updates": self.updates, "net": self.net.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.decay, self.updates = state["decay"], state["updates"]
        self.net.load_state_dict(state["net"])
