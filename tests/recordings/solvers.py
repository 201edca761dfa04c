"""Every plan's table and samples, entered in the middle, adaptive, likelihoods, calibration, scheduler."""

import tempfile
import warnings

import torch

import redrift as rd
from redrift.calibration import calibrate
from redrift.denoise import GaussianMixture
from redrift.likelihood import log_prob
from redrift.solvers import SOLVERS

MEANS = torch.tensor([[-1.0, 0.5], [1.0, 0.2], [0.0, -1.0]])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mixture(process):
    return GaussianMixture(torch.ones(3), MEANS, torch.full((3,), 0.2), process)


def plans():
    """Yield (name, plan) of every solver, option and process."""
    for process in (rd.VP(), rd.EDM(), rd.Flow(), rd.SubVP(), table()):
        kind = type(process).__name__
        for solver in SOLVERS:
            for n in (4, 10, 25):
                for end in ("min", "denoise"):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        try:
                            yield (
                                f"{kind} {solver} {n} {end}",
                                rd.plan_for(process, n, solver=solver, end=end),
                            )
                        except ValueError:
                            continue
    vp = rd.VP()
    grid = rd.timegrid(vp, 10)
    for order in (1, 2, 3, 4):
        for wants in ("eps", "x0", "v"):
            for starter in (True, False):
                for corrector in (False, True, 0.4):
                    if order == 4 and corrector:
                        continue
                    name = f"deis {order} {wants} {starter} {corrector}"
                    yield (
                        name,
                        rd.deis(
                            vp,
                            grid,
                            order=order,
                            wants=wants,
                            startup=starter,
                            corrector=corrector,
                        ),
                    )
    for variable in ("t", "rho", "logrho", "angle"):
        yield f"deis in {variable}", rd.deis(vp, grid, variable=variable)
    for corrector in (False, True, 0.4):
        yield (
            f"deis ahead {corrector}",
            rd.deis(vp, grid, wants="v", startup=False, first_sigma=22.0, corrector=corrector),
        )
    for multistep in (True, False):
        for order in (1, 2, 3):
            for end in ("min", "zero", "denoise"):
                yield (
                    f"res {order} {multistep} {end}",
                    rd.res(vp, grid, order=order, multistep=multistep, end=end),
                )
    for lower in (True, False):
        for corrector in (True, False):
            yield (
                f"res multistep {lower} {corrector}",
                rd.res(vp, grid, order=2, multistep=True, lower_final=lower, corrector=corrector),
            )
    yield "res first", rd.res(vp, grid, order=3, first_stages=2)
    yield "res churn", rd.res(vp, grid, order=2, churn=5.0)
    yield "heun churn", rd.heun(rd.EDM(), rd.timegrid(rd.EDM(), 10), churn=5.0)
    for order in (1, 2, 3):
        yield f"dpmpp single {order}", rd.dpmpp(vp, grid, order=order, single=True)
        yield f"dpmpp lower {order}", rd.dpmpp(vp, grid, order=order, lower_final=True)
    for eta in (0.0, 0.5, 1.0):
        yield f"ddpm {eta}", rd.ddpm(vp, grid, eta=eta)
        yield f"exponential {eta}", rd.exponential_sde(vp, grid, eta=eta)
    for order in (1, 2):
        yield f"gddim {order} .5", rd.gddim(vp, grid, order=order, stochasticity=0.5)
    for evaluations in range(1, 61):
        yield f"best {evaluations}", rd.best_plan(vp, evaluations)
    for base in (rd.deis(vp, grid, order=3, corrector=True), rd.best_plan(vp, 20)):
        yield f"Langevin on {base.name} {len(base.times)}", langevin(base, 2, churn=1.0, low=0.1)
        yield f"Langevin at {base.name} {len(base.times)}", langevin(base, 1)


def table():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    return rd.TableProcess((1 - betas).cumprod(0))


def langevin(plan, steps, **options):
    from redrift.solvers import langevin_corrected

    return langevin_corrected(plan, steps, **options)


def tables(plan):
    """Return all coefficients of a plan's rows, one after the other."""
    parts = []
    for row in plan.rows:
        for values in (row.A, *row.C, (row.B,), row.error or ()):
            parts += [value.flatten() for value in values if isinstance(value, torch.Tensor)]
        parts += [level.t.reshape(1) for level in (row.start, row.end, *row.asks)]
    return torch.cat(parts)


def outputs():
    for name, plan in plans():
        model = mixture(plan.process)
        yield f"{name}, table", tables(plan)
        yield f"{name}, sample", rd.sample(model, plan, shape=(8, 2), generator=generator())
        if plan.steps > 3 and plan.rule is not None:
            middle = plan.start(plan.steps // 2)
            yield f"{name}, from the middle", tables(middle)
    yield from matrices()
    yield from runs()
    yield from hosts()


def matrices():
    """Yield plans of processes with blocks and modes on networks of random weights."""
    for process, shape in ((rd.CLD(), (3,)), (rd.Blur((4, 4)), (1, 4, 4))):
        kind = type(process).__name__
        weight = torch.randn(process.channels(shape[0]), generator=generator())
        model = rd.Denoiser(
            lambda x, t, w=weight: x * torch.sigmoid(w).reshape(-1, *[1] * (x.ndim - 2)), process
        )
        grid = rd.timegrid(process, 8)
        for order in (1, 2, 3):
            yield (
                f"{kind} deis {order}",
                rd.sample(
                    model,
                    rd.deis(process, grid, order=order),
                    shape=(4, *shape),
                    generator=generator(),
                ),
            )
        for order in (1, 2):
            yield f"{kind} gddim {order}", rd.sample(
                model, rd.gddim(process, grid, order=order, stochasticity=1.0), shape=(4, *shape),
                generator=generator(),
            )  # fmt: skip
        yield (
            f"{kind} ddpm",
            rd.sample(model, rd.ddpm(process, grid), shape=(4, *shape), generator=generator()),
        )


def runs():
    """Yield adaptive runs, likelihoods, calibrations and saved plans."""
    vp = rd.VP()
    model = mixture(vp)
    plan = rd.res(vp, rd.timegrid(vp, 10), order=3)
    yield "adaptive", rd.sample(model, plan, shape=(8, 2), tol=1e-3, generator=generator())
    yield "log_prob", log_prob(model, torch.randn(6, 2, generator=generator()))
    for n, coefficients in ((5, False), (8, True), (20, False)):
        fitted = calibrate(
            model, rd.best_plan(vp, n), shape=(2,), samples=32, budget=20 * n + 20 * n + 100,
            coefficients=coefficients, generator=generator(),
        )  # fmt: skip
        yield f"calibrated {n}", tables(fitted.plan)
        with tempfile.TemporaryDirectory() as folder:
            fitted.plan.save(f"{folder}/plan.json")
            yield f"calibrated {n}, loaded", tables(rd.Plan.load(f"{folder}/plan.json"))


def hosts():
    """Yield what a host's loop gets from the scheduler, from the start and the middle."""
    from redrift.integrations.diffusers import PlanScheduler

    for solver in ("best", "deis", "res", "ddim", "dpmpp", "heun", "ipndm", "ddpm"):
        for n in (5, 10, 25):
            for begin in (0, 2, 3):
                scheduler = PlanScheduler.from_config(
                    {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear",
                     "num_train_timesteps": 1000, "prediction_type": "epsilon"},
                    solver=solver,
                )  # fmt: skip
                scheduler.set_timesteps(n)
                scheduler.set_begin_index(begin)
                x = torch.randn(2, 3, generator=generator(1))
                noise = generator(2)
                for t in scheduler.timesteps[begin:]:
                    x = scheduler.step(torch.tanh(x), t, x, generator=noise).prev_sample
                yield f"{solver} {n} from {begin}", x
