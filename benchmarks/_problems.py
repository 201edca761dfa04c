r"""Problems whose probability-flow ODE can be solved to any accuracy, in one set of coordinates.

Every process with one signal and one noise level is the same problem in $\tilde x = x/\alpha$ and
$\rho = \sigma/\alpha$; it is given by its denoiser $D(\tilde x, \rho) = E[x_0 \mid \tilde x]$ alone. A method
starts on the reference trajectory at its own first level, which is a draw from the exact marginal
there, and is scored against the same trajectory at its own last level. So all methods face the
same noise, and none is blamed for where its schedule begins or ends.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

import redrift as rd

Denoise = Callable[[Tensor, float | Tensor], Tensor]
F64 = torch.float64
HARD = dict(K=16, d=8, low=0.02, high=0.15)
SMOOTH = dict(K=4, d=8, low=0.15, high=0.35)
SEEDS = (101, 102, 103, 104, 105)
CLEAN = 1e-4  # below this level the denoiser no longer moves: D there is the clean limit
OTHER_MODE = 0.1


# ------------------------------------------------------------------ the reference


def phi(k: int, z: float) -> float:
    """Return phi_k(z) for |z| <= 1 by its series."""
    return sum(z**m / math.factorial(m + k) for m in range(20))


def krogstad(denoise: Denoise, x: Tensor, rho: float, end: float) -> Tensor:
    """Step dx/dlambda = D - x from rho to end by Krogstad's exponential method of order 4."""
    h = math.log(rho / end)
    z, mid = -h, math.sqrt(rho * end)
    p1, p2, p3 = (phi(k, z) for k in (1, 2, 3))
    q1, q2 = phi(1, z / 2) / 2, phi(2, z / 2)
    half, full = math.exp(z / 2), math.exp(z)
    d1 = denoise(x, rho)
    d2 = denoise(half * x + h * q1 * d1, mid)
    d3 = denoise(half * x + h * ((q1 - q2) * d1 + q2 * d2), mid)
    d4 = denoise(full * x + h * ((p1 - 2 * p2) * d1 + 2 * p2 * d3), end)
    tail = (2 * p2 - 4 * p3) * (d2 + d3) + (4 * p3 - p2) * d4
    return full * x + h * ((p1 - 3 * p2 + 4 * p3) * d1 + tail)


class Trajectory:
    """The solution of the probability-flow ODE from one start, at any level asked for.

    Args:
        denoise: D(x, rho).
        x: start (B, *shape), float64.
        top: its level.
        step: longest step in log rho.
    """

    def __init__(self, denoise: Denoise, x: Tensor, top: float, step: float):
        self.denoise, self.step = denoise, step
        self._states = {math.log(top): x}

    def at(self, rho: float) -> Tensor:
        """Return the state at rho; at 0, its clean limit."""
        if rho == 0:
            return self.denoise(self.at(CLEAN), CLEAN)
        goal = math.log(rho)
        above = [w for w in self._states if w >= goal - 1e-9]
        w = min(above) if above else max(self._states)
        x = self._states[w]
        while abs(w - goal) > 1e-9:
            # rungs every half unit, so that no stretch is integrated often
            rung = max(goal, 0.5 * math.ceil(w / 0.5 - 1e-9) - 0.5) if goal < w else goal
            count = max(1, math.ceil(abs(w - rung) / self.step))
            for i in range(count):
                ends = (w + (rung - w) * j / count for j in (i, i + 1))
                x = krogstad(self.denoise, x, *(math.exp(e) for e in ends))
            w = rung
            self._states[w] = x
        return x


# ------------------------------------------------------------------ the problem


class Exact(rd.Denoiser):
    """A function D(x, rho) as a denoiser of a process."""

    def __init__(self, denoise: Denoise, process: rd.process.Process):
        super().__init__(denoise, process, "x0")

    def predict(self, z, level):
        signal, root = level.signal.reshape(()), level.root.reshape(())
        return self.net(z / signal, root / signal)  # tensors, for the gradients of a calibration


@dataclass(eq=False)
class Problem:
    """A denoiser with a start.

    Attributes:
        name: of the problem.
        denoise: D(x, rho), (B, *shape) float64 in and out.
        model: the same denoiser, for plans.
        start: (B, *shape) at level `top`; `groups` blocks of equal size, one for each seed.
        top: noise level at which every trajectory begins.
        groups: number of seeds.
        step: of the reference, in log rho.
        schedule: which schedule the peers use, "vp" or "edm".
        cond: conditions of the model.
        screen: the same problem with fewer samples, on which all peers run so that the best of them
            run on this one.
        like: name of a problem whose best peers are the only ones that run here.
    """

    name: str
    denoise: Denoise
    model: rd.Denoiser
    start: Tensor
    top: float
    groups: int
    step: float
    schedule: str = "vp"
    cond: dict = field(default_factory=dict)
    screen: "Problem | None" = None
    like: str | None = None

    @functools.cached_property
    def reference(self) -> Trajectory:
        return Trajectory(self.denoise, self.start, self.top, self.step)

    def errors(self, x: Tensor, rho: float) -> Tensor:
        """Return the root mean square distance to the reference at rho, (groups, samples)."""
        gap = (x.cpu().double() - self.reference.at(rho)).flatten(1)
        return gap.square().mean(1).sqrt().reshape(self.groups, -1)


def summary(errors: Tensor) -> dict[str, list[float]]:
    """Return median, 90th percentile and share in another mode for each group."""
    return {
        "median": errors.median(1).values.tolist(),
        "p90": errors.quantile(0.9, 1).tolist(),
        "flips": (errors > OTHER_MODE).double().mean(1).tolist(),
    }


# ------------------------------------------------------------------ mixtures


class Mixture:
    """A mixture of Gaussians with diagonal covariances in d dimensions, overall deviation `std`."""

    def __init__(self, K: int, d: int, low: float, high: float, seed: int, std: float = 0.5):
        g = torch.Generator().manual_seed(seed)
        means = torch.randn(K, d, generator=g, dtype=F64)
        weights = torch.rand(K, generator=g, dtype=F64) + 0.3
        self.weights = weights / weights.sum()
        self.var = (low * (high / low) ** torch.rand(K, d, generator=g, dtype=F64)) ** 2
        means = means - self.weights @ means
        spread, within = self.weights @ means**2, self.weights @ self.var
        self.means = means * ((std**2 - within).clamp_min(1e-4) / spread).sqrt()

    def sample(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return clean samples and noise, (n, d) each."""
        g = torch.Generator().manual_seed(seed)
        pick = torch.multinomial(self.weights, n, True, generator=g)
        shape = (n, self.means.shape[1])
        inner, outer = (torch.randn(shape, generator=g, dtype=F64) for _ in range(2))
        return self.means[pick] + self.var[pick].sqrt() * inner, outer


def stacked(mixtures: list[Mixture]) -> Denoise:
    """Return D for blocks of samples, one block for each mixture."""
    means, var, weights = (
        torch.stack([getattr(m, name) for m in mixtures]) for name in ("means", "var", "weights")
    )

    def denoise(x: Tensor, rho: float) -> Tensor:
        y = x.reshape(len(mixtures), -1, x.shape[-1])
        total = var + rho**2
        fixed = weights.log() - ((means**2 / total).sum(-1) + total.log().sum(-1)) / 2
        logits = y @ (means / total).mT - y**2 @ (0.5 / total).mT + fixed[:, None]
        share = torch.softmax(logits, -1)
        return (share @ (means * rho**2 / total) + y * (share @ (var / total))).reshape(x.shape)

    return denoise


@functools.cache
def diffusers_table() -> tuple[float, ...]:
    """Return alpha_bar of the linear schedule that diffusers' schedulers have by default."""
    betas = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float32)
    return tuple(torch.cumprod(1 - betas, 0).double().tolist())


def widest(process: rd.process.Process) -> float:
    """Return the largest noise level of the process's default grid."""
    first = torch.tensor(process.interval[0], dtype=F64)
    return math.exp(-float(process.clock(first)))


def mixture(kind: dict, schedule: str, seeds: tuple[int, ...], samples: int, name: str) -> Problem:
    """Build mixtures of one kind, one for each seed, on the discrete VP table or on EDM."""
    process = rd.TableProcess(diffusers_table()) if schedule == "vp" else rd.EDM()
    mixtures = [Mixture(**kind, seed=seed) for seed in seeds]
    denoise, top = stacked(mixtures), widest(process)
    draws = [m.sample(samples, 1000 + seed) for m, seed in zip(mixtures, seeds)]
    start = torch.cat([clean + top * noise for clean, noise in draws])
    model = Exact(denoise, process)
    return Problem(name, denoise, model, start, top, len(seeds), 0.01, schedule)


# ------------------------------------------------------------------ digits and trained networks


def digits() -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits, (1797, 1, 8, 8) in [-1, 1], and their labels."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return torch.from_numpy(pixels).reshape(-1, 1, 8, 8) / 8 - 1, torch.from_numpy(labels)


def empirical(groups: int, samples: int, screen: int | None, name: str) -> Problem:
    """Build the exact denoiser of the digits themselves."""
    process, images = rd.TableProcess(diffusers_table()), digits()[0]
    oracle, top = rd.denoise.Empirical(images, process), widest(process)

    def denoise(x: Tensor, rho: float) -> Tensor:
        return oracle.posterior(x, torch.as_tensor(rho, dtype=F64) ** -2)

    g = torch.Generator().manual_seed(SEEDS[0])
    clean = oracle.sample(groups * samples, generator=g)
    start = clean + top * torch.randn(clean.shape, generator=g, dtype=F64)
    model = Exact(denoise, process)
    small = empirical(groups, screen, None, name) if screen else None
    return Problem(name, denoise, model, start, top, groups, 0.04, screen=small)


def shipped(name: str) -> rd.Denoiser:
    """Return a shipped model on the GPU where there is one."""
    torch.backends.cudnn.allow_tf32 = False  # ten bits would drown the defect
    return rd.pretrained(name).to("cuda" if torch.cuda.is_available() else "cpu")


def trained(
    name: str, groups: int, samples: int, screen: int | None = None, like: str | None = None
) -> Problem:
    """Build a shipped network, class conditional, labels in turn; it computes in float32."""
    model = shipped(name)
    device = model.device
    process, shape, classes = model.process, model.card["shape"], model.card["classes"]
    top = math.sqrt(1 / diffusers_table()[-1] - 1)
    label = (torch.arange(groups * samples) % classes).to(device)

    @torch.no_grad()
    def denoise(x: Tensor, rho: float) -> Tensor:
        t = process.unclock(torch.tensor(-math.log(rho), dtype=F64))
        return model.x0((x * process.alpha(t)).to(device), t, label=label).cpu()

    g = torch.Generator().manual_seed(SEEDS[0])
    noise = torch.randn(groups * samples, *shape, generator=g, dtype=F64)
    start = noise * math.sqrt(1 + top**2)
    small = trained(name, 1, screen) if screen else None
    cond = {"label": label}
    return Problem(
        name, denoise, model, start, top, groups, 0.025, cond=cond, screen=small, like=like
    )  # fmt: skip


def problem(name: str, quick: bool = False) -> Problem:
    """Build a problem by name: one of NAMES."""
    seeds, kinds = SEEDS[: 2 if quick else 5], {"hard": HARD, "smooth": SMOOTH}
    kind, _, schedule = name.partition("-")
    if kind in kinds:
        return mixture(kinds[kind], schedule, seeds, 256, name)
    if name == "digits-empirical":
        return empirical(2, 32 if quick else 64, None if quick else 12, name)
    if quick:
        return trained(name, 1, 32)
    if torch.cuda.is_available():
        return trained(name, 4, 64, None if name == "digits" else 40)
    return trained(name, 2, 32, 10) if name == "digits" else trained(name, 2, 16, like="digits")


NAMES = ("hard-vp", "smooth-vp", "hard-edm", "smooth-edm", "digits-empirical", "digits", "cifar10")
