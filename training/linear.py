"""Train digits under a matrix or a blurring process: python training/linear.py cld | blur.

With --data cifar10-train.parquet the pictures are CIFAR-10's (see cifar10.py) and the process is CLD.
Denoising score matching with z = S x0 + R eps; for CLD the clean velocity is part of the noise (hybrid
score matching). The net predicts the error of the best linear denoiser (the mixed score).
"""

from collections.abc import Sequence
from pathlib import Path

import cifar10
import digits
import torch
from common import VPTask, begin, options, train
from torch import Tensor, nn

import redrift as rd
from redrift._core.linalg import apply
from redrift.denoise import Mixed
from redrift.nn import UNet
from redrift.process import Level, Process

DATA_STD = {"digits": 0.9, "cifar10": 0.5}  # of the pixels about 0
CIFAR10 = {**cifar10.NET, "multipliers": (1, 4, 10)}
PROCESSES = {"cld": rd.CLD(), "blur": rd.Blur((8, 8))}


class LinearTask(VPTask):
    """The mixed score under any linear process, in the network's basis."""

    def __init__(self, process: Process, data_std: float) -> None:
        self.process = process
        self.facts = dict(predicts="mixed", process=process.describe())
        self.mixed = Mixed(lambda x, t: x, process, data_std=data_std)
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
        whole = (shape[0], *blocks, *shape[1:])
        return torch.randn(whole, generator=generator, device=generator.device)

    def error(
        self, net: nn.Module, x0: Tensor, t: Tensor, eps: Tensor, label: Tensor | None
    ) -> Tensor:
        """Return the mean squared error of eps for each sample (B,)."""
        process, level = self.process, self.process.level(t)
        tables = (a.to(x0.device, non_blocking=True) for a in (level.signal, level.root))
        level = Level(t, *tables)
        clean = apply(level.signal, process.lift(x0), process.modes)
        z = clean + apply(level.root, process.to(eps), process.modes)
        x_lin, scale = self.mixed.linear(z, level)
        target = process.back((process.to(x0) - x_lin) / scale)
        x = self.mixed.network_input(z)
        return (net(x, t.to(x), label).float() - target).square().flatten(1).mean(1)

    def pictures(self, net: nn.Module, shape: Sequence[int], label: Tensor, seed: int) -> Tensor:
        """Sample pictures to look at."""
        model = Mixed(net, self.process, data_std=self.mixed.data_std)
        plan = rd.deis(self.process, rd.timegrid(self.process, 50), order=3)
        generator = torch.Generator().manual_seed(seed)
        blocks = (self.process.k,) if self.process.k > 1 else ()
        x = torch.randn((shape[0], *blocks, *shape[1:]), generator=generator).to(label.device)
        x = apply(self.process.root(plan.times[0]), self.process.to(x), self.process.modes)
        x = rd.sample(model, plan, x=self.process.back(x), cond={"label": label})
        return x.clamp(-1, 1)


def main() -> None:
    parser = options("digits-", seconds=600, description=__doc__)
    parser.add_argument("process", choices=sorted(PROCESSES))
    parser.add_argument("--data", type=Path, help="parquet file of CIFAR-10, instead of digits")
    parser.set_defaults(batch=128)
    args = parser.parse_args()
    data = "cifar10" if args.data else "digits"
    if args.data and args.process != "cld":
        parser.error("--data goes with cld")
    name = f"{data}-{args.process}"
    if args.out == parser.get_default("out"):
        args.out = args.out.with_name(name)
    begin(args)
    task = LinearTask(PROCESSES[args.process], DATA_STD[data])
    if args.data:
        images, labels = cifar10.read(args.data)
        net, card, shown = CIFAR10, cifar10.CARD, [i // 2 for i in range(20)]
        flags = dict(flip=True, bfloat16=True)
    else:
        images, labels, *held = digits.read()
        net, card, shown = digits.NET, digits.CARD, [i // 10 for i in range(100)]
        flags = dict(flip=False, bfloat16=False, held=tuple(held))
    channels = images.shape[1]
    size = dict(channels=task.process.channels(channels), out_channels=channels)
    train(
        UNet(**{**net, **size}), images, labels, args, card={**card, "name": name}, preview=shown,
        task=task, **flags,
    )  # fmt: skip


if __name__ == "__main__":
    main()
