"""What the library costs beside the network: time per step outside it.

against_a_loop: a second-order plan on a network that costs nothing, against a hand-written loop of
the same linear combinations. The target is 25 us a step and 20 % above the loop.

against_diffusers: the same plan on latents, against the step of a second-order scheduler of
diffusers. The target is a quarter of its time.

outside_a_network: the time a run spends outside the smallest shipped network, at the batch of the
demo: under a plan in the network's own reading, under one for which every prediction is converted,
and in a hand-written loop, which is the least that Python can do. The target is 1 % of the run.

Runs to be compared take turns in one process, and medians are compared. What is timed is the
processor's time of the one thread that there is: other work on the machine does not count, except
that it empties the caches. A step costs what a long run has above a short one, per step; the rest
of the short run is its start.
"""

import statistics
from time import thread_time as now

import torch

import redrift as rd
from benchmarks import SEED

SHORT, LONG = 20, 60
IMAGES, LATENTS, DIGITS = (64, 3, 32, 32), (4, 4, 64, 64), (100, 1, 8, 8)


def run(quick):
    repetitions = 5 if quick else 200
    return {
        "steps": [SHORT, LONG],
        "repetitions": repetitions,
        "against_a_loop": against_a_loop(repetitions),
        "against_diffusers": against_diffusers(repetitions),
        "outside_a_network": outside_a_network(max(3, repetitions // 10)),
    }


def against_a_loop(repetitions):
    x, prediction = noise(IMAGES), noise(IMAGES, SEED + 1)
    assert torch.allclose(
        sampled(x, prediction, SHORT)(), looped(x, prediction, SHORT)(), rtol=1e-4, atol=1e-4
    )
    mine, theirs = taking_turns(
        repetitions,
        lambda steps: sampled(x, prediction, steps),
        lambda steps: looped(x, prediction, steps),
    )
    return {
        "shape": list(IMAGES),
        "redrift": mine,
        "loop": theirs,
        "overhead_us": mine["step_us"] - theirs["step_us"],
        "target_us": 25 + 0.2 * theirs["step_us"],
    }


def against_diffusers(repetitions):
    try:
        from diffusers import DPMSolverMultistepScheduler
    except ImportError:
        return None
    x, prediction = noise(LATENTS), noise(LATENTS, SEED + 1)

    def scheduled(steps):
        scheduler = DPMSolverMultistepScheduler(solver_order=2)

        def run():
            state = x
            scheduler.set_timesteps(steps)  # part of the start, as building rows is not of ours
            for t in scheduler.timesteps:
                state = scheduler.step(prediction, t, state).prev_sample
            return state

        return run

    mine, theirs = taking_turns(
        repetitions, lambda steps: sampled(x, prediction, steps), scheduled
    )
    return {
        "shape": list(LATENTS),
        "redrift": mine,
        "diffusers": theirs,
        "ratio": mine["step_us"] / theirs["step_us"],
        "target_ratio": 0.25,
    }


def outside_a_network(repetitions):
    model = rd.pretrained("digits")
    process, label, x = model.process, torch.arange(DIGITS[0]) % 10, noise(DIGITS)
    inside = 0.0

    def timed(*args, **cond):
        nonlocal inside
        begun = now()
        out = model.net(*args, **cond)
        inside += now() - begun
        return out

    counted = rd.Denoiser(timed, process, model.predicts, dtype=torch.float32)

    def plan(wants):
        grid = rd.timegrid(process, SHORT)
        return rd.deis(process, grid, order=2, startup=False, wants=wants)

    def drawn(wants):
        rows = plan(wants)
        return lambda: rd.sample(counted, rows, x=x, cond={"label": label})

    runs = {
        "loop": looped(x, lambda z, t: timed(z, t.expand(len(z)), label=label), SHORT),
        "own_reading": drawn(model.predicts),
        "converted": drawn("eps" if model.predicts != "eps" else "v"),
    }
    times = {name: ([], []) for name in runs}
    for repetition in range(repetitions + 1):
        for name, run in runs.items():
            inside, begun = 0.0, now()
            run()
            spent = now() - begun
            if repetition:  # the first ones fill caches
                times[name][0].append(1e6 * (spent - inside) / SHORT)
                times[name][1].append(1e6 * inside / SHORT)
    result = {"shape": list(DIGITS), "target_share": 0.01}
    for name, pair in times.items():
        outside, network = map(statistics.median, pair)
        share = outside / (outside + network)
        result[name] = {"outside_us": outside, "network_us": network, "share": share}
    return result


def second_order(steps):
    process = rd.VP()
    return rd.deis(process, rd.timegrid(process, steps), order=2, startup=False)


def sampled(x, prediction, steps):
    """Return a run of the library from x whose network returns the prediction."""
    plan = second_order(steps)
    model = rd.Denoiser(lambda x, t: prediction, plan.process, "eps")
    return lambda: rd.sample(model, plan, x=x)


def looped(x, prediction, steps):
    """Return the same run written by hand; the prediction is a tensor, or a function of (z, t)."""
    table = [
        (float(row.A[-1]), [float(c) for c in row.C[-1]], row.start.t.float())
        for row in second_order(steps).rows
    ]
    predict = prediction if callable(prediction) else lambda z, t: prediction

    @torch.no_grad()
    def run():
        z, past = x, []
        for a, weights, t in table:
            past = [predict(z, t), *past][:2]
            z = torch.mul(z, a)
            for weight, e in zip(weights, past, strict=True):
                z.add_(e, alpha=weight)
        return z

    return run


def taking_turns(repetitions, *makers):
    """Return the median microseconds of a step and of the start of what each maker makes."""
    runs = [(maker(SHORT), maker(LONG)) for maker in makers]
    times = [([], []) for _ in makers]
    for repetition in range(repetitions + 2):
        for pair, own in zip(runs, times, strict=True):
            for run, spent in zip(pair, own, strict=True):
                begun = now()
                run()
                if repetition >= 2:  # the first ones fill caches
                    spent.append(1e6 * (now() - begun))
    found = []
    for own in times:
        short, long = map(statistics.median, own)
        step = (long - short) / (LONG - SHORT)
        found.append({"step_us": step, "start_us": short - SHORT * step})
    return found


def noise(shape, seed=SEED):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plot(result, path):
    from matplotlib import pyplot

    images, latents = result["against_a_loop"], result["against_diffusers"]
    bars = {name: images[name]["step_us"] for name in ("redrift", "loop")}
    limit = images["target_us"] + bars["loop"]
    panels = [(f"images {images['shape']}", bars, limit)]
    if latents:
        bars = {name: latents[name]["step_us"] for name in ("redrift", "diffusers")}
        limit = latents["target_ratio"] * bars["diffusers"]
        panels.append((f"latents {latents['shape']}", bars, limit))
    digits = result["outside_a_network"]
    bars = {n: digits[n]["outside_us"] for n in ("loop", "own_reading", "converted")}
    limit = digits["target_share"] * digits["own_reading"]["network_us"]
    panels.append((f"outside the network, digits {digits['shape']}", bars, limit))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4 * len(panels), 3.4))
    for axis, (title, bars, limit) in zip(axes, panels, strict=True):
        drawn = axis.bar([name.replace("_", " ") for name in bars], bars.values(), color="0.45")
        axis.bar_label(drawn, fmt="%.0f")
        axis.axhline(limit, color="C3", linestyle="--", label="target")
        axis.legend(fontsize=8)
        axis.set_title(title, fontsize=9)
        axis.set_ylabel("microseconds a step")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
