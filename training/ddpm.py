"""Train small networks as DDPM trains them: the noise, a thousand levels drawn evenly, plain squares.

They serve the fit of the default plans (seed 0) and, others of them, the benchmark (other data and seeds);
none ships. `python training/ddpm.py swiss-linear digits-cosine` trains and keeps them in `out/ddpm`.
"""

import math
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits, make_circles, make_moons, make_s_curve, make_swiss_roll
from torch import Tensor

import redrift as rd
from redrift._core.files import write_atomically
from redrift.nn import EMA, MLP, UNet

LEVELS = 1000
FOLDER = Path("out/ddpm")


def alpha_bar(schedule: str) -> Tensor:
    """Return DDPM's table of the linear schedule, or the improved one's of the cosine schedule."""
    if schedule == "linear":
        return torch.cumprod(1 - torch.linspace(1e-4, 0.02, LEVELS, dtype=torch.float64), 0)
    at = torch.cos((torch.arange(LEVELS + 1) / LEVELS + 0.008) / 1.008 * math.pi / 2).double() ** 2
    return torch.cumprod(1 - (1 - at[1:] / at[:-1]).clamp_max(0.999), 0)


def data(kind: str, seed: int) -> Tensor:
    """Return the samples of a data set, about of unit scale."""
    if kind == "digits":
        images = torch.from_numpy(load_digits().images).float().unsqueeze(1) / 8 - 1
        kept = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        return images[kept[: len(images) // 2]]
    n = 20_000
    points = {
        "swiss": lambda: make_swiss_roll(n, noise=0.3, random_state=seed)[0][:, [0, 2]] / 10,
        "s-curve": lambda: make_s_curve(n, noise=0.05, random_state=seed)[0][:, [0, 2]] * 0.7,
        "circles": lambda: make_circles(n, noise=0.04, factor=0.5, random_state=seed)[0],
        "moons": lambda: (make_moons(n, noise=0.05, random_state=seed)[0] - [0.5, 0.25]) * 1.5,
    }[kind]()
    return torch.from_numpy(points).float()


def train(kind: str, schedule: str, seed: int = 0) -> rd.Denoiser:
    """Train a network of the noise, or take the one that was trained before.

    Args:
        kind: "swiss", "s-curve", "circles", "moons" or "digits".
        schedule: "linear" or "cosine".
        seed: of the network, the batches and the choice of data.
    """
    table = alpha_bar(schedule)
    torch.manual_seed(seed)
    digits = kind == "digits"
    net = UNet(1, width=24, multipliers=(1, 2), blocks=1, attention=(1,)) if digits else MLP(2)
    path = FOLDER / f"{kind}-{schedule}-{seed}.pt"
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
    else:
        _fit(net, data(kind, seed), table.float(), seed, 2500 if digits else 5000)
        FOLDER.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda target: torch.save(net.state_dict(), target))
    process = rd.TableProcess(tuple(table.tolist()))
    model = rd.Denoiser(net.eval(), process, "eps", time=lambda t: t / LEVELS)
    model.card = {"name": path.stem, "shape": [1, 8, 8] if digits else [2]}
    return model


def _fit(net: torch.nn.Module, samples: Tensor, table: Tensor, seed: int, steps: int) -> None:
    """Minimise the mean square error of the noise, and leave the moving average in the network."""
    g = torch.Generator().manual_seed(seed)
    rate, batch = (1e-3, 96) if samples.ndim == 4 else (2e-3, 512)
    adam, ema = torch.optim.Adam(net.parameters(), lr=rate), EMA(net, 0.995)
    for i in range(steps):
        adam.param_groups[0]["lr"] = rate * (1 - i / steps) + 1e-5
        x = samples[torch.randint(len(samples), (batch,), generator=g)]
        t = torch.randint(LEVELS, (batch,), generator=g)
        noise = torch.randn(x.shape, generator=g)
        a = table[t].reshape(-1, *[1] * (x.ndim - 1))
        z = a.sqrt() * x + (1 - a).sqrt() * noise
        loss = (net(z, t / LEVELS) - noise).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        ema.update(net)
        if i % 500 == 0:
            print(f"  {i:5d} {float(loss.detach()):.4f}", flush=True)
    net.load_state_dict(ema.net.state_dict())


if __name__ == "__main__":
    for name in sys.argv[1:]:
        kind, _, rest = name.rpartition("-")
        print(name, flush=True)
        train(kind, rest)
