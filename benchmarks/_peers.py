"""diffusers' own schedulers, run on any denoiser D(x, rho) in normalised coordinates.

Every scheduler that samples the variance-preserving schedule (linear betas, 1e-4 to 2e-2, 1000 steps)
deterministically is listed with every spacing it offers; those of EDM run on their own schedules.
They are told the noise level they work at, not the integer timestep some of them round it to, and
begin at index 0 even where rounding gives two equal timesteps. A configuration that raises or
returns NaN says so. IPNDM and the flow-matching schedulers have noise schedules of their own and
are left out.
"""

import contextlib
import functools
import importlib
import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
LINEAR = dict(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
SPACINGS = ("leading", "trailing", "linspace")
SIGMAS = {
    "karras": "use_karras_sigmas",
    "exponential": "use_exponential_sigmas",
    "beta": "use_beta_sigmas",
    "lu": "use_lu_lambdas",
}
ENDS = {"min": "sigma_min", "zero": "zero"}
EDM_LEVELS = {"vp": (0.0100005, 157.4073), "edm": (0.002, 80.0)}


@dataclass(frozen=True)
class Config:
    """One scheduler with one set of options.

    Attributes:
        name: what tables print.
        kind: class name in diffusers, without "Scheduler".
        state: what the scheduler's sample is: "scaled" (alpha x), "plain" (x, Karras's form), "table"
            (alpha x, levels looked up in alpha_bar by timestep) or "edm" (x, network output F).
        options: of its constructor.
    """

    name: str
    kind: str
    state: str
    options: dict = field(hash=False)

    @property
    def plain(self) -> bool:
        """Whether only the order, the form of UniPC, the spacing and the end were chosen."""
        changed = {"lower_order_final", "euler_at_final", "algorithm_type", "predict_x0"}
        return not changed & set(self.options) and self.options.get("solver_type") != "heun"

    def make(self) -> object:
        """Return a fresh scheduler."""
        module = importlib.import_module("diffusers")
        base = {} if self.state == "edm" else LINEAR
        return getattr(module, self.kind + "Scheduler")(**base, **self.options)


@dataclass(frozen=True)
class Outcome:
    """What a run gave: x at level rho in normalised coordinates, or why there is none."""

    evaluations: int
    rho: float = math.nan
    x: Tensor | None = None
    failure: str | None = None


# ------------------------------------------------------------------ the list


def _spaced(name, kind, state, options, sigmas, ends=(None,), spacings=SPACINGS, crossed=False):
    """List a scheduler with its spacings, its sigmas (on every spacing if crossed) and ends."""
    plain = [(s, {"timestep_spacing": s}) for s in spacings] or [("linspace", {})]
    grids = list(plain)
    for sigma in sigmas:
        flag = {SIGMAS[sigma]: True}
        if crossed:
            grids += [(f"{sigma} of {s}", {**flag, **spacing}) for s, spacing in plain]
        else:
            grids.append((sigma, flag))
    for grid, extra in grids:
        for end in ends:
            last = {} if end is None else {"final_sigmas_type": ENDS[end]}
            label = ", ".join((name, grid, *(() if end is None else (f"to {end}",))))
            yield Config(label, kind, state, {**options, **extra, **last})


def _dpm():
    """List DPM-Solver and DPM-Solver++, multistep and single-step."""
    variants = {
        "": {},
        " no lower end": {"lower_order_final": False},
        " Euler end": {"euler_at_final": True},
    }
    four, three = tuple(SIGMAS), ("karras", "exponential", "beta")
    kind = "DPMSolverMultistep"
    for order, slope in ((2, "midpoint"), (2, "heun"), (3, "midpoint")):
        for variant, extra in variants.items():
            name = f"DPM++{order}M{' heun' if slope == 'heun' else ''}{variant}"
            options = dict(solver_order=order, solver_type=slope, **extra)
            yield from _spaced(name, kind, "scaled", options, four, ("zero", "min"))
    kind = "DPMSolverSinglestep"
    for order, slope in ((2, "midpoint"), (2, "heun"), (3, "midpoint")):
        name = f"DPM++{order}S{' heun' if slope == 'heun' else ''}"
        options = dict(solver_order=order, solver_type=slope)
        yield from _spaced(name, kind, "scaled", options, three, ("zero", "min"), spacings=())
    for order in (2, 3):
        options = dict(solver_order=order, algorithm_type="dpmsolver")
        kind, name = "DPMSolverMultistep", f"DPM{order}M (eps)"
        yield from _spaced(name, kind, "scaled", options, four, ("min",))
        kind, name = "DPMSolverSinglestep", f"DPM{order}S (eps)"
        yield from _spaced(name, kind, "scaled", options, three, ("min",), spacings=())


def _multistep():
    """List DEIS, UniPC and SA-Solver without noise."""
    three = ("karras", "exponential", "beta")
    for order in (1, 2, 3):
        for variant, extra in (("", {}), (" no lower end", {"lower_order_final": False})):
            options = dict(solver_order=order, **extra)
            yield from _spaced(f"DEIS{order}{variant}", "DEISMultistep", "scaled", options, three)
    for order in (2, 3):
        for form in ("bh1", "bh2"):
            for variant, extra in (("", {}), (" eps", {"predict_x0": False})):
                options = dict(solver_order=order, solver_type=form, **extra)
                name = f"UniPC{order} {form}{variant}"
                ends = ("zero", "min")
                yield from _spaced(name, "UniPCMultistep", "scaled", options, three, ends)
    for order in (2, 3):
        options = dict(predictor_order=order, corrector_order=order, tau_func=lambda t: 0)
        name = f"SA-Solver{order} tau=0"
        yield from _spaced(name, "SASolver", "scaled", options, three)


def _karras_form():
    """List the schedulers in the form of Karras et al., DDIM and PNDM."""
    three = ("karras", "exponential", "beta")
    for name, kind in (
        ("Heun", "HeunDiscrete"),
        ("KDPM2", "KDPM2Discrete"),
        ("LMS", "LMSDiscrete"),
    ):
        yield from _spaced(name, kind, "plain", {}, three, crossed=True)
    ends = ("zero", "min")
    yield from _spaced("Euler", "EulerDiscrete", "plain", {}, three, ends, crossed=True)
    for end, flag in (("zero", True), ("min", False)):
        options = dict(set_alpha_to_one=flag, clip_sample=False)
        for config in _spaced("DDIM", "DDIM", "table", options, ()):
            yield Config(f"{config.name}, to {end}", "DDIM", "table", config.options)
        for prk, skip in (("", True), (" with RK", False)):
            options = dict(set_alpha_to_one=flag, skip_prk_steps=skip)
            for config in _spaced(f"PNDM{prk}", "PNDM", "table", options, ()):
                yield Config(f"{config.name}, to {end}", "PNDM", "table", config.options)


def _edm(schedule: str):
    """List EDM's schedulers on the levels of a schedule."""
    low, high = EDM_LEVELS[schedule]
    for grid in ("karras", "exponential"):
        for end in ("zero", "min"):
            base = dict(sigma_min=low, sigma_max=high, sigma_schedule=grid)
            base.update(final_sigmas_type=ENDS[end])
            yield Config(f"EDM Euler, {grid}, to {end}", "EDMEuler", "edm", base)
            for order in (2, 3):
                for variant, extra in (("", {}), (" Euler end", {"euler_at_final": True})):
                    options = {**base, "solver_order": order, **extra}
                    name = f"EDM DPM++{order}M{variant}, {grid}, to {end}"
                    yield Config(name, "EDMDPMSolverMultistep", "edm", options)


STRONG = (
    *("DEIS3, exponential", "DEIS3, karras", "DEIS2, exponential", "DDIM, trailing, to min"),
    *("UniPC2 bh2, exponential, to min", "UniPC3 bh2, exponential, to min"),
    *("DPM++2M, lu, to min", "DPM++2M, linspace, to zero", "DPM++3M, exponential, to min"),
    *("DPM++3S, karras, to min", "DPM++2S, karras, to min", "Heun, karras of linspace"),
)


@functools.cache
def configs(schedule: str = "vp", quick: bool = False) -> tuple[Config, ...]:
    """List the configurations for a schedule, "vp" or "edm"; `quick` keeps the strongest few."""
    found = list(_edm(schedule))
    if schedule == "vp":
        found = [*_dpm(), *_multistep(), *_karras_form(), *found]
    if quick and schedule == "vp":
        found = [config for config in found if config.name in STRONG]
    return tuple(found)


# ------------------------------------------------------------------ running one


def alpha(rho: float) -> float:
    """Return the signal of the variance-preserving process at a noise level."""
    return 1 / math.sqrt(1 + rho**2)


def prepared(config: Config, budget: int) -> object:
    """Return a scheduler set to as many steps as the budget of evaluations allows.

    Raises:
        ValueError: if even one step takes more; whatever the scheduler itself raises.
    """
    scheduler, steps = config.make(), budget
    while steps:
        scheduler.set_timesteps(steps)
        spent = len(scheduler.timesteps)
        if spent <= budget:
            return scheduler
        steps = min(steps - 1, steps * budget // spent + 1)
    raise ValueError(f"no number of steps keeps to {budget} evaluations")


def drive(
    config: Config, denoise: Denoise, start: Callable[[float], Tensor], budget: int
) -> Outcome:
    """Run a scheduler within a budget of evaluations.

    Args:
        config: which.
        denoise: D(x, rho), float64.
        start: x at a level of the scheduler's choice.
        budget: most evaluations.
    """
    calls = 0

    def counted(x: Tensor, rho: float) -> Tensor:
        nonlocal calls
        calls += 1
        return denoise(x, rho)

    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        importlib.import_module("diffusers").utils.logging.set_verbosity_error()
        try:
            scheduler = prepared(config, budget)
            walk = _by_table if config.state == "table" else _by_sigma
            x, rho = walk(config.state, scheduler, counted, start)
        except Exception as error:  # whatever a peer raises is its result
            reason = str(error).split("\n")[0][:120]
            return Outcome(calls, failure=f"{type(error).__name__}: {reason}")
    if not bool(torch.isfinite(x).all()):
        return Outcome(calls, failure="not finite")
    return Outcome(calls, rho, x)


def _level(scheduler) -> float:
    """Return the noise level at which the scheduler asks now."""
    i = scheduler.step_index
    halfway = hasattr(scheduler, "sigmas_interpol") and not scheduler.state_in_first_order
    return float((scheduler.sigmas_interpol if halfway else scheduler.sigmas)[i])


def _by_sigma(state, scheduler, denoise, start):
    """Walk a scheduler that keeps a list of noise levels."""
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    rho = float(scheduler.sigmas[0])
    x = start(rho) * (alpha(rho) if state == "scaled" else 1)
    more = (
        {"generator": torch.Generator()} if type(scheduler).__name__ == "SASolverScheduler" else {}
    )
    for t in scheduler.timesteps:
        if scheduler.step_index is None:
            scheduler._init_step_index(t)
        rho = _level(scheduler)
        plain = x / alpha(rho) if state == "scaled" else x
        clean = denoise(plain, rho)
        output = (plain - clean) / rho
        if state == "edm":
            data = scheduler.config.sigma_data
            total = math.hypot(rho, data)
            output = (clean - (data / total) ** 2 * plain) * total / (rho * data)
        if state != "scaled":
            scheduler.scale_model_input(x, t)
        x = scheduler.step(output, t, x, **more).prev_sample.double()
    rho = float(scheduler.sigmas[scheduler.step_index])
    return (x / alpha(rho) if state == "scaled" else x), rho


def _by_table(state, scheduler, denoise, start):
    """Walk a scheduler that looks its levels up by timestep (DDIM, PNDM)."""
    table = scheduler.alphas_cumprod.double()
    levels = ((1 - table) / table).sqrt().tolist()
    rho = levels[int(scheduler.timesteps[0])]
    x = start(rho) * alpha(rho)
    for t in scheduler.timesteps:
        rho = levels[int(t)]
        plain = x / alpha(rho)
        output = (plain - denoise(plain, rho)) / rho
        x = scheduler.step(output, t, x).prev_sample.double()
    last = int(scheduler.timesteps[-1]) - 1000 // scheduler.num_inference_steps
    final = float(scheduler.final_alpha_cumprod)
    rho = levels[last] if last >= 0 else math.sqrt((1 - final) / final)
    return x / alpha(rho), rho


# ------------------------------------------------------------------ an earlier result

FIGURES = ("median", "p90")
EARLIER: dict[tuple[str, int], dict] = {}  # figures by problem and budget, from an earlier result


def recall(result: dict) -> None:
    """Take an earlier result's figures of diffusers as those of a problem that others are like."""
    for name, found in result["problems"].items():
        for i, budget in enumerate(result["budgets"]):
            rows = EARLIER[name, budget] = {}
            for config, cells in found["diffusers"].items():
                text = [cells[figure].split()[i].lstrip("~") for figure in FIGURES]
                end = 0.0 if config.endswith("to zero") else 1.0
                good = {"end": end, **{f: [float(v)] for f, v in zip(FIGURES, text) if v != "-"}}
                rows[config] = good if "-" not in text else {"failure": "failed"}
