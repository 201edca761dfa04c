"""Train digits under a matrix or a blurring process: python training/linear.py cld | blur.

Denoising score matching with z = S x0 + R eps; for CLD the clean velocity is part of the noise (hybrid
score matching). The net predicts the error of the best linear denoiser (the mixed score).
"""

from collections.abc import Sequence

import torch
from common import VPTask, begin, options, train
from digits import CARD, NET, read
from torch import Tensor, nn

import redrift as rd
from redrift._core.linalg import apply
from redrift.denoise import Mixed
from redrift.nn import UNet
from redrift.process import Process

DATA_STD = 0.9  # of the pixels about 0
PROCESSES = {"cld": rd.CLD(), "blur": rd.Blur((8, 8))}


class LinearTask(VPTask):
    """The mixed score under any linear process, in the network's basis."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.facts = dict(predicts="mixed", process=process.describe())
        self.mixed = Mixed(lambda x, t: x, process, data_std=DATA_STD)
        start, stop = process.interval
        self.low, self.high = max(stop, 1e-4), start
        span = torch.linspace(self.low**0.5, self.high**0.5, 8, dtype=torch.float64) ** 2
        self.levels = tuple(span.tolist())

    def times(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw times (batch,), one in each of `batch` equal strata of sqrt(t)."""
        u = torch.arange(batch) + torch.rand(batch, generator=generator, dtype=torch.float64)
        ends = self.low**0.5, self.high**0.5
        return (ends[0] + (ends[1] - ends[0]) * u / batch) ** 2

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draw white noise, one block per block of the state."""
        blocks = (self.process.k,) if self.process.k > 1 else ()
        return torch.randn((shape[0], *blocks, *shape[1:]), generator=generator)

    def error(
        self, net: nn.Module, x0: Tensor, t: Tensor, eps: Tensor, label: Tensor | None
    ) -> Tensor:
        """Return the mean squared error of eps for each sample (B,)."""
        process, level = self.process, self.process.level(t.double())
        clean = apply(level.signal, process.lift(x0), process.modes)
        z = clean + apply(level.root, process.to(eps), process.modes)
        x_lin, scale = self.mixed.linear(z, level)
        target = process.back((process.to(x0) - x_lin) / scale)
        x = self.mixed.network_input(z)
        return (net(x, t.to(x.dtype), label) - target).square().flatten(1).mean(1)

    def pictures(self, net: nn.Module, shape: Sequence[int], label: Tensor, seed: int) -> Tensor:
        """Sample pictures to look at."""
        model = Mixed(net, self.process, data_std=DATA_STD)
        plan = rd.deis(self.process, rd.timegrid(self.process, 50), order=3)
        generator = torch.Generator().manual_seed(seed)
        x = rd.sample(model, plan, shape=shape, cond={"label": label}, generator=generator)
        return x.clamp(-1, 1)


def main() -> None:
    parser = options("digits-", seconds=600, description=__doc__)
    parser.add_argument("process", choices=sorted(PROCESSES))
    parser.set_defaults(batch=128)
    args = parser.parse_args()
    name = f"digits-{args.process}"
    if args.out == parser.get_default("out"):
        args.out = args.out.with_name(name)
    begin(args)
    task = LinearTask(PROCESSES[args.process])
    channels = task.process.channels(1)
    images, labels, held, held_labels = read()
    train(
        UNet(**{**NET, "channels": channels, "out_channels": 1}),
        images, labels, args, card={**CARD, "name": name}, held=(held, held_labels),
        flip=False, bfloat16=False, preview=[i // 10 for i in range(100)], task=task,
    )  # fmt: skip


if __name__ == "__main__":
    main()
