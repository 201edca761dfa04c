"""Every policy and wrapper of guidance: presets, choices, weights, segments, gradients, constraints."""

import torch

import redrift as rd
from redrift import guidance as g
from redrift.denoise import GaussianMixture

VP = rd.VP()
F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def toy(process=VP, dtype=F64):
    means = torch.tensor([[-1.0, 0.4], [1.0, -0.3]], dtype=dtype)
    return GaussianMixture(
        torch.tensor([0.7, 0.3], dtype=dtype), means, torch.full((2, 2), 0.3, dtype=dtype), process
    )


def rule(x):
    return 3 * (x - 0.6).square().flatten(1).sum(1)


def counted(x):
    return (x > 0).flatten(1).sum(1).double()


def policies():
    """Yield (name, policy) of every preset and option."""
    for n in (1, 4):
        yield f"SCG {n}", g.SCG(rule, candidates=n)
        yield f"SCG of ties {n}", g.SCG(counted, candidates=n, active=(1.0, 0.0), every=2)
    yield "SCG in chunks", g.SCG(rule, candidates=5, max_batch=8)
    yield "SCG with authority", g.SCG(rule, candidates=4, noise_scale=1.5)
    yield "SCG decoded", g.SCG(rule, candidates=4, decode=lambda x: x.flip(1) / 2)
    yield "SCG in segments", g.SCG(rule, candidates=4, segments=g.split((2,), 2))
    yield "SCG in masks", g.SCG(rule, candidates=4, segments=g.Masks(torch.eye(2).bool()))
    for particles in (1, 3):
        for weighted in (False, True):
            yield (
                f"SVDD {particles} {weighted}",
                g.SVDD(
                    rule,
                    candidates=3,
                    inverse_temperature=2.0,
                    particles=particles,
                    weighted=weighted,
                ),
            )
    yield "SVDD tempered", g.SVDD(rule, candidates=3, tempering=1.0)
    for potential in ("difference", "max", "sum"):
        for threshold in (0.0, 0.5, 0.9, 2.0):
            yield (
                f"FK {potential} {threshold}",
                g.FKSteering(
                    rule, particles=4, potential=potential, ess_threshold=min(threshold, 1.0)
                ),
            )
    yield "FK early", g.FKSteering(rule, particles=4, active=(0.9, 0.3), every=3, tempering=0.0)
    yield "FK best", g.FKSteering(rule, particles=4, final="best")
    yield "FK with candidates", g.Particles(
        rule, particles=3, proposal=g.Draws(2), selection=g.Categorical(),
        resampling=g.Resampling(0.9),
    )  # fmt: skip
    yield (
        "FK greedy",
        g.Particles(rule, particles=3, proposal=g.Draws(2), resampling=g.Resampling()),
    )
    yield "best of n", g.BestOfN(rule, 4)
    for beams, candidates in ((1, 4), (3, 2), (3, 1)):
        yield f"TreeG {beams} {candidates}", g.TreeG(rule, beams=beams, candidates=candidates)
        for rounds, mixing in ((1, 1.0), (2, 0.5)):
            yield (
                f"TreeGSD {beams} {candidates} {rounds} {mixing}",
                g.TreeGSD(
                    rule,
                    beams=beams,
                    candidates=candidates,
                    rounds=rounds,
                    mixing=mixing,
                    spread=0.7,
                ),
            )
    yield "TreeGSD in chunks", g.TreeGSD(rule, beams=2, candidates=3, max_batch=4)
    yield "Particles, top and draw", g.Particles(
        rule, particles=3, proposal=g.Draws(2), selection=g.Beam()
    )  # fmt: skip


def outcome(name, policy, x):
    """Yield samples and all that the run's result says."""
    yield f"{name}, sample", x
    result = policy.results[-1]
    yield f"{name}, loss", result.loss
    yield f"{name}, particles", result.particles
    yield f"{name}, roots", result.roots
    yield f"{name}, evaluations", torch.tensor(result.evaluations)
    if result.weights is not None:
        yield f"{name}, weights", result.weights.log_w
    yield f"{name}, ess", torch.tensor(result.ess, dtype=F64).reshape(-1, 2)
    yield f"{name}, resampled", torch.tensor(result.resampled).reshape(-1, 2)


def outputs():
    grid = rd.timegrid(VP, 12)
    plans = {
        "ddpm": rd.ddpm(VP, grid),
        "clean": rd.ddpm(VP, grid, end="denoise"),
        "gddim": rd.gddim(VP, grid, order=2, stochasticity=1.0),
    }
    for kind, plan in plans.items():
        for name, policy in policies():
            if kind != "ddpm" and name.startswith("TreeGSD") and kind == "gddim":
                continue
            seen = []
            policy.watch = lambda step, loss, seen=seen: seen.append(loss.clone())
            try:
                x = rd.sample(
                    toy(), plan, shape=(5, 2), dtype=F64, policy=policy, generator=generator()
                )
            except ValueError as error:
                yield f"{kind} {name}, refused", torch.tensor(len(str(error)) > 0)
                continue
            yield from outcome(f"{kind} {name}", policy, x)
            if seen:
                yield f"{kind} {name}, watched", torch.stack(seen)
    lists = [generator(i) for i in range(4)]
    policy = g.FKSteering(rule, particles=3, ess_threshold=0.8)
    x = rd.sample(
        toy(), plans["ddpm"], shape=(4, 2), dtype=F64, policy=policy, generator=lists, batch_size=2
    )
    yield from outcome("one generator a sample", policy, x)
    yield from bent(plans["ddpm"])
    yield from others()
    yield from losses()


def bent(plan):
    """Yield samples of wrapped models, plain and under policies."""
    for predicts in ("eps", "x0", "v"):
        base = toy()
        net = rd.Denoiser(lambda x, t, p=predicts, b=base: getattr(b, p)(x, t[0]), VP, predicts)
        mask = torch.tensor([True, False])
        models = {
            "DPS": g.DPS(net, rule, 0.3),
            "DPS, plain loss": g.DPS(net, rule, 0.3, root=False),
            "classifier": g.ClassifierGuidance(net, lambda x, t: -(x - 1).square().sum(1), 0.7),
            "clamp": rd.denoise.Edited(net, rd.denoise.clip(0.5)),
            "mask": g.MaskRule(mask, 0.25).hard(net),
            "mask of values": g.MaskRule(mask, torch.tensor([0.5, 1.0], dtype=F64)).hard(net),
        }
        for name, model in models.items():
            for solver in (plan, rd.deis(VP, rd.timegrid(VP, 8), order=2)):
                yield (
                    f"{predicts} {name} {solver.name}",
                    rd.sample(model, solver, shape=(4, 2), dtype=F64, generator=generator(3)),
                )
        for name in ("DPS", "classifier"):
            policy = g.TwistedSMC(rule, particles=4, ess_threshold=0.7)
            x = rd.sample(
                models[name], plan, shape=(3, 2), dtype=F64, policy=policy, generator=generator(1)
            )
            yield from outcome(f"{predicts} twisted {name}", policy, x)
    yield "mask rule", g.MaskRule(mask, 0.25)(torch.randn(4, 2, generator=generator()))


def others():
    """Yield policies on processes with blocks and modes, and on a collage in segments."""
    for process, shape in ((rd.CLD(), (3,)), (rd.Blur((4, 4)), (1, 4, 4))):
        model = rd.Denoiser(lambda x, t: torch.tanh(x), process)
        plan = rd.ddpm(process, rd.timegrid(process, 8))
        for policy in (
            g.SCG(rule, candidates=3), g.FKSteering(rule, particles=3), g.TreeG(rule, beams=2),
        ):  # fmt: skip
            x = rd.sample(model, plan, shape=(3, *shape), policy=policy, generator=generator())
            name = f"{type(process).__name__} {type(policy).__name__}"
            yield from outcome(name, policy, x)
        clamp = rd.denoise.Edited(model, rd.denoise.clip(0.2))
        yield (
            f"{type(process).__name__} clamp",
            rd.sample(clamp, plan, shape=(3, *shape), generator=generator()),
        )
    graph = rd.collage.ring((1, 6), 4, 3)
    piece = rd.Denoiser(lambda x, t: torch.tanh(x), VP)
    policy = g.SCG(rule, candidates=4, segments=g.split(graph.shape, 3))
    x = rd.sample(
        graph.denoiser(piece), rd.ddpm(VP, rd.timegrid(VP, 8)), shape=(2, *graph.shape),
        policy=policy, generator=generator(),
    )  # fmt: skip
    yield from outcome("collage in segments", policy, x)


def losses():
    """Yield the shipped rules on fixed pictures."""
    rules = g.rules
    x = torch.randn(3, 1, 8, 8, generator=generator()).clamp(-1, 1)
    yield "symmetry", rules.symmetry()(x)
    yield "components", rules.components(3)(x)
    yield "jpeg", rules.jpeg_size()(x) + rules.jpeg_size(300)(x)
    yield "brightness", rules.brightness(0.3)(x)
    yield "inpainting", rules.inpainting(torch.zeros(1, 8, 8), torch.ones(1, 8, 8).bool())(x)
    yield "downsampled", rules.downsampled(torch.zeros(1, 4, 4), 2)(x)
    yield "sum", (2 * rules.symmetry() + rules.brightness(0.3))(x)
