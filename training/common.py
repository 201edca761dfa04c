"""What the training scripts share: the VP schedule, the v loss, one loop, files that survive.

The clock is the VP process with beta from 0.1 to 20: with B(t) = 0.1 t + 9.95 t**2,
``x_t = alpha x0 + sigma eps``, ``alpha = exp(-B / 2)``, ``sigma**2 = 1 - exp(-B)``. The net is
asked for ``v = alpha eps - sigma x0``.

Every random number of a step is a function of the seed and the step's number, so that a run that
was killed and resumed draws what it would have drawn anyway.
"""

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

import redrift as rd
from redrift.nn import EMA

T_MIN, T_MAX = 1e-3, 1.0
LABEL_DROPOUT = 0.15


def log_snr(t: Tensor) -> Tensor:
    """Return log(alpha / sigma) at the times t."""
    b = 0.1 * t + 9.95 * t**2
    return -0.5 * torch.expm1(b).log()


def time_of(log_snr: Tensor) -> Tensor:
    """Return the times at which log(alpha / sigma) has the given values."""
    b = torch.nn.functional.softplus(-2 * log_snr)
    return 2 * b / (0.1 + torch.sqrt(0.01 + 39.8 * b))


def alpha_sigma(t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma (B, 1, ..., 1) at the times t (B,), in the dtype of `like`."""
    b = (0.1 * t + 9.95 * t**2).double().reshape(-1, *[1] * (like.ndim - 1))
    pair = torch.stack((torch.exp(-b / 2), torch.sqrt(-torch.expm1(-b))))
    alpha, sigma = pair.to(like, non_blocking=True)
    return alpha, sigma


def draw_times(batch: int, generator: torch.Generator) -> Tensor:
    """Draw times (batch,) in [T_MIN, T_MAX], float64.

    log(alpha / sigma) is normal with mean 0.5 and deviation 2, cut to the range of the clock and
    drawn by one uniform in each of `batch` equal strata. Most of a picture is decided around 0.5;
    the deviation is wide because few-step samplers ask the net at both ends as well.
    """
    mean, deviation = 0.5, 2.0
    ends = torch.tensor([T_MAX, T_MIN], dtype=torch.float64)
    low, high = torch.special.ndtr((log_snr(ends) - mean) / deviation)
    u = (torch.arange(batch) + torch.rand(batch, generator=generator, dtype=torch.float64)) / batch
    wanted = mean + deviation * torch.special.ndtri(low + (high - low) * u)
    return time_of(wanted).clamp(T_MIN, T_MAX)


class VPTask:
    """What is learned: v under the VP process. Other tasks offer the same four things."""

    facts = dict(predicts="v", process="VP, beta 0.1 to 20, t in [0.001, 1]")  # noqa: RUF012
    levels = (0.001, 0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)

    def times(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw times (batch,), float64."""
        return draw_times(batch, generator)

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draw the noise of a batch of pictures of this shape, where the generator is."""
        return torch.randn(shape, generator=generator, device=generator.device)

    def error(
        self, net: nn.Module, x0: Tensor, t: Tensor, eps: Tensor, label: Tensor | None
    ) -> Tensor:
        """Return the mean squared error for each sample (B,)."""
        return v_error(net, x0, t, eps, label)

    def pictures(self, net: nn.Module, shape: Sequence[int], label: Tensor, seed: int) -> Tensor:
        """Sample pictures to look at."""
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(shape, generator=generator).to(label.device)
        return ddim(net, z, label, steps=50)


def v_error(net: nn.Module, x0: Tensor, t: Tensor, eps: Tensor, label: Tensor | None) -> Tensor:
    """Return the mean squared error of v for each sample (B,)."""
    alpha, sigma = alpha_sigma(t, x0)
    v = net((alpha * x0 + sigma * eps), t.to(x0), label)
    return (v.float() - (alpha * eps - sigma * x0)).square().flatten(1).mean(1)


@torch.no_grad()
def ddim(net: nn.Module, z: Tensor, label: Tensor | None, steps: int = 200) -> Tensor:
    """Carry noise z to pictures by DDIM in v form, on a grid even in log(alpha / sigma).

    Each step rotates: ``x0 = alpha z - sigma v``, ``eps = sigma z + alpha v``. The last
    prediction of x0 is returned, clipped to [-1, 1].
    """
    ends = torch.tensor([T_MAX, T_MIN], dtype=torch.float64)
    times = time_of(torch.linspace(*log_snr(ends).tolist(), steps, dtype=torch.float64))
    for here, there in zip(times, torch.cat([times[1:], times[-1:]]), strict=True):
        alpha, sigma = alpha_sigma(here[None], z)
        v = net(z, here.to(z).expand(len(z)), label)
        x0, eps = alpha * z - sigma * v, sigma * z + alpha * v
        alpha, sigma = alpha_sigma(there[None], z)
        z = alpha * x0 + sigma * eps
    return x0.clamp(-1, 1)


def save_picture(x: Tensor, path: Path, columns: int, zoom: int = 2) -> None:
    """Write pictures (B, C, H, W) in [-1, 1] as one PNG, row by row, C = 1 or 3."""
    b, c, h, w = x.shape
    tiles = torch.full((math.ceil(b / columns) * columns, c, h + 2, w + 2), -1.0)
    tiles[:b, :, 1:-1, 1:-1] = x.float().cpu()
    sheet = tiles.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    pixels = ((sheet.numpy() + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    image = Image.fromarray(pixels.squeeze(-1) if c == 1 else pixels)
    image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    _atomically(lambda p: image.save(p, format="PNG"), path)


def _atomically(write: Callable[[Path], None], path: Path) -> None:
    """Call write on a temporary file beside `path`, then rename it: never half a file."""
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    temporary.chmod(0o644)
    os.replace(temporary, path)


def write_json(value: dict, path: Path) -> None:
    """Write a value as JSON, atomically."""
    _atomically(lambda p: p.write_text(json.dumps(value, indent=1) + "\n"), path)


def write_weights(net: nn.Module, path: Path) -> None:
    """Write a net's state in half precision; its class and config go into the header."""
    tensors = {k: v.detach().half().cpu().contiguous() for k, v in net.state_dict().items()}
    header = {"class": type(net).__name__, "config": json.dumps(net.config)}
    _atomically(lambda p: save_file(tensors, p, metadata=header), path)


def hardware(device: str, threads: int) -> str:
    """Say in words what the run used."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {threads} thread(s)"


def options(name: str, seconds: float, description: str | None) -> argparse.ArgumentParser:
    """Return the command line that all scripts share."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--out", type=Path, default=Path("runs") / name, help="folder of the run")
    p.add_argument("--seconds", type=float, default=seconds, help="training time, all runs")
    p.add_argument("--images", type=int, default=None, help="images to see, instead of a time")
    p.add_argument("--every", type=float, default=300.0, help="seconds between checkpoints")
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--rate", type=float, default=1e-3, help="largest learning rate")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--device", default="cpu")
    p.add_argument("--compile", action="store_true", help="compile the net: worth it on a GPU")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--start", default=None, help="shipped model or model file to go on from")
    return p


def begin(args: argparse.Namespace) -> None:
    """Apply threads and seed, make the run's folder."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)


@dataclass
class Run:
    """One training run: its net, average and optimiser, and how far it has come."""

    args: argparse.Namespace
    net: nn.Module
    ema: EMA
    optimiser: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)
    task: VPTask = field(default_factory=VPTask)
    before: dict = field(default_factory=dict)

    @property
    def progress(self) -> float:
        """The part spent of the budget: of the images if given, else of the seconds."""
        args = self.args
        seen = self.step * args.batch
        return min(1.0, seen / args.images if args.images else self.seconds / args.seconds)

    def rate(self, warmup: int) -> float:
        """Return the learning rate: up over `warmup` steps, then down as a cosine."""
        up = min(1.0, (self.step + 1) / warmup)
        return self.args.rate * up * (0.5 + 0.5 * math.cos(math.pi * self.progress))

    def resume(self) -> None:
        """Take over the checkpoint in the run's folder, if there is one, or the weights to go on from."""
        path = self.args.out / "checkpoint.pt"
        if not path.exists():
            return self.start()
        state = torch.load(path, map_location=self.args.device, weights_only=True)
        if state["config"] != self.net.config or state["batch"] != self.args.batch:
            raise ValueError(f"{path} is of another net or batch: choose another --out")
        for part in ("net", "ema", "optimiser"):
            getattr(self, part).load_state_dict(state[part])
        self.step, self.seconds, self.history = (state[k] for k in ("step", "seconds", "history"))
        self.before = state.get("before", {})
        print(f"resumed {path} at step {self.step}, {self.seconds:.0f} s", file=sys.stderr)

    def start(self) -> None:
        """Take over the weights of a shipped model, or of a file, and what its card says was seen."""
        if self.args.start is None:
            return
        model = (rd.load if Path(self.args.start).suffix else rd.pretrained)(self.args.start)
        if model.net.config != self.net.config:
            raise ValueError(f"{self.args.start} is of another net: {model.net.config}")
        for net in (self.net, self.ema.net):
            net.load_state_dict(model.net.state_dict())
        seen = ("images", "seconds", "loss", "hardware")
        self.before = {key: model.card.get(key) for key in seen}

    def save(self) -> None:
        """Write checkpoint, average and losses to the run's folder."""
        out, state = self.args.out, dict(config=self.net.config, batch=self.args.batch)
        state |= {k: getattr(self, k) for k in ("step", "seconds", "history", "before")}
        state |= {k: getattr(self, k).state_dict() for k in ("net", "ema", "optimiser")}
        _atomically(lambda p: torch.save(state, p), out / "checkpoint.pt")
        write_weights(self.ema.net, out / "ema.safetensors")
        write_json({"history": self.history}, out / "loss.json")

    def figures(self, pictures: int) -> dict:
        """Return what the card says of the run; `pictures` is the size of the data set."""
        args = self.args
        return dict(
            config=self.net.config,
            **self.task.facts,
            parameters=sum(p.numel() for p in self.net.parameters()),
            steps=self.step,
            batch=args.batch,
            images=self.step * args.batch + (self.before.get("images") or 0),
            **({"started_from": {"model": args.start, **self.before}} if self.before else {}),
            epochs=round(self.step * args.batch / pictures, 2),
            seconds=round(self.seconds),
            finished=self.progress >= 1,
            hardware=hardware(args.device, args.threads),
            torch=torch.__version__,
            seed=args.seed,
            rate=args.rate,
            ema=self.ema.decay,
            label_dropout=LABEL_DROPOUT,
            loss=self.history[-1]["loss"] if self.history else None,
        )


def draw(
    images: Tensor,
    labels: Tensor,
    classes: int,
    batch: int,
    flip: bool,
    generator: torch.Generator,
    task: VPTask,
    device: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw a batch with replacement: pictures, times, noise, and labels of which some are null.

    The times stay on the CPU; the noise is drawn on `device`, of the generator's seed there.
    """
    index = torch.randint(len(images), (batch,), generator=generator)
    x0, label = images[index], labels[index]
    t, coins = task.times(batch, generator), torch.rand(2, batch, generator=generator)
    label = torch.where(coins[0] < LABEL_DROPOUT, classes, label)
    x0, label, coins = (a.to(device, non_blocking=True) for a in (x0, label, coins))
    x0, seed = to_floats(x0), generator.initial_seed()
    if flip:
        x0 = torch.where(coins[1][:, None, None, None] < 0.5, x0.flip(-1), x0)
    return x0, t, task.noise(x0.shape, torch.Generator(device).manual_seed(seed)), label


def train(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    args: argparse.Namespace,
    *,
    card: dict,
    flip: bool,
    bfloat16: bool,
    warmup: int = 500,
    decay: float = 0.999,
    preview: Sequence[int] = (),
    held: tuple[Tensor, Tensor] | None = None,
    task: VPTask | None = None,
) -> EMA:
    """Train a net, resuming from the run's folder; leave weights and a card there.

    Args:
        net: a conditional net with a `config`; it is trained in place.
        images: (N, C, H, W), uint8 in 0..255 or floats in [-1, 1].
        labels: (N,) in 0..classes - 1.
        args: of `options`; the budget counts over all runs that led here.
        card: what to say about the data; the run's figures are added.
        flip: mirror half of the pictures.
        bfloat16: run the net under bfloat16 autocast.
        warmup: steps over which the learning rate rises.
        decay: of the moving average.
        preview: labels of the pictures drawn at each checkpoint.
        held: pictures and labels that are not trained on; the card then tells their loss too.
        task: what is learned; None is v under VP.

    Returns:
        The moving average.
    """
    device, task = args.device, task or VPTask()
    net.to(device).train()
    fast = torch.compile(net) if args.compile else net
    adam = torch.optim.AdamW(
        net.parameters(), lr=args.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    run = Run(args, net, EMA(net, decay), adam, task=task)
    run.resume()

    def save() -> None:
        run.save()
        figures = run.figures(len(images))
        figures["loss_of_ema"] = losses(run.ema.net, images, labels, device, task)
        if held:
            figures["loss_of_ema_held_out"] = losses(run.ema.net, *held, device, task)
        write_json({**card, **figures}, args.out / "card.json")
        if preview:
            shape, label = (len(preview), *images.shape[1:]), torch.tensor(preview, device=device)
            sheet = task.pictures(run.ema.net, shape, label, args.seed)
            columns = math.ceil(math.sqrt(len(preview)))
            save_picture(sheet, args.out / "samples.png", columns, zoom=64 // shape[-1])

    running = []
    last_save, tick = run.seconds, time.perf_counter()
    bar = tqdm(unit=" images", initial=run.step * args.batch, mininterval=10.0)
    while run.progress < 1:
        generator = torch.manual_seed(args.seed * 2**32 + run.step)
        classes = net.config["classes"]
        drawn = draw(images, labels, classes, args.batch, flip, generator, task, device)
        x0, t, eps, label = drawn
        rate = run.rate(warmup)
        for group in adam.param_groups:
            group["lr"] = rate
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bfloat16):
            loss = task.error(fast, x0, t, eps, label).mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        run.ema.update(net)
        running.append(loss.detach())
        now = time.perf_counter()
        run.step, run.seconds, tick = run.step + 1, run.seconds + now - tick, now
        bar.update(args.batch)
        if len(running) == 100 or run.progress >= 1:
            value = torch.stack(running).mean().item()
            if not math.isfinite(value):
                raise RuntimeError(f"the loss is {value} at step {run.step}: lower --rate")
            row = dict(step=run.step, seconds=round(run.seconds, 1), rate=rate, loss=value)
            run.history.append(row)
            running.clear()
            bar.set_postfix(loss=f"{value:.4f}", progress=f"{run.progress:.1%}", refresh=False)
        if run.seconds - last_save >= args.every:
            save()
            last_save, tick = run.seconds, time.perf_counter()
    bar.close()
    save()
    return run.ema


def to_floats(images: Tensor) -> Tensor:
    """Return pictures in [-1, 1], float32."""
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images


@torch.no_grad()
def losses(
    net: nn.Module, images: Tensor, labels: Tensor, device: str, task: VPTask
) -> dict[str, float]:
    """Return the error at a few times, on the same pictures and noise each time."""
    generator, out = torch.Generator().manual_seed(1), {}
    x0, label = to_floats(images[:180]).to(device), labels[:180].to(device)
    for t in task.levels:
        eps = task.noise(x0.shape, generator).to(device)
        times = torch.full((len(x0),), t, dtype=torch.float64)
        out[str(t)] = round(task.error(net, x0, times, eps, label).mean().item(), 5)
    return out
