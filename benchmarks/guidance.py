"""Guidance by rules that have no gradient: what each method gains, and what it costs.

On shipped models, three rules and equal evaluations: the loss, the diversity (root mean square
distance of pixels to their class's mean, over that of unguided samples) and the fidelity (Frechet
distance over the shipped classifier's features to real pictures), each with its standard error (the
last two by a jackknife over groups). On digits also the tilted law that the weighted methods aim at,
from a large pool of plain samples resampled by their weights within each class. Labels are given in
turn, so no method can please a rule by its choice of class. The colour network needs REDRIFT_CIFAR10
for real pictures; its fidelity is left out otherwise. Also: a tilted mixture with known answer; the
mean final loss against the candidates; and the share of a run spent waiting for a slow rule, here or
in other processes.
"""

import time

import torch

import redrift as rd
from benchmarks import _slow, _tilted
from benchmarks.frechet import real_pictures
from redrift.guidance import (
    SCG,
    SVDD,
    BestOfN,
    FKSteering,
    Pooled,
    TreeG,
    TreeGSD,
    as_loss,
    rules,
)
from redrift.measure import Weights, resample
from redrift.metrics import frechet
from redrift.metrics.frechet import halves
from redrift.pretrained import classifier

RULES = {
    "digits": {
        "symmetry": rules.symmetry(0.0),
        "two regions": rules.components(2, 0.0),
        "brightness 0": rules.brightness(0.0, levels=32),
    },
    "cifar10": {
        "symmetry": rules.symmetry(),
        "two regions": rules.components(2),
        "JPEG of 950 bytes": rules.jpeg_size(950),
    },
}
SIZES = {"digits": (160, 16), "cifar10": (24, 10)}  # samples, steps
CLASSES = {"digits": 10, "cifar10": 4}  # given in turn
POOL, GROUPS = 8_000, 8
COLOUR = ("none", "best of n", "SCG", "TreeG-SD, one beam", "FK")  # the colour network is slow
DRAWS, SEED = 8, 21
COUNTS = (1, 2, 4, 8, 16)


def generators(n, seed=SEED):
    return [torch.Generator().manual_seed(1000 * seed + i) for i in range(n)]


def active(plan, first):
    """Return how many steps but the last begin below a fraction of the horizon, and how many not."""
    shares = plan.times[:-2] / plan.process.horizon
    below = int((shares <= first).sum())
    return below, len(shares) - below


def presets(plan, inverse_temperature):
    """Return every preset at the evaluations of DRAWS plain runs, or just below; one beam costs one."""
    N = len(plan.rows)
    A, rest = active(plan, 0.75)
    scg = (DRAWS * N - 1 - rest) // A
    beams = (DRAWS * N // 2 - 1 - rest) // A
    weigh = {"inverse_temperature": inverse_temperature}
    return {
        "none": lambda loss: BestOfN(loss, 1),
        "best of n": lambda loss: BestOfN(loss, DRAWS),
        "SCG": lambda loss: SCG(loss, candidates=scg),
        "TreeG": lambda loss: TreeG(loss, beams=2, candidates=beams),
        "TreeG-SD": lambda loss: TreeGSD(loss, beams=DRAWS, candidates=4),
        "TreeG-SD, one beam": lambda loss: TreeGSD(loss, candidates=16),
        "SVDD": lambda loss: SVDD(loss, candidates=DRAWS, **weigh),
        "weighted SVDD": lambda loss: SVDD(
            loss, candidates=2, particles=DRAWS // 2, weighted=True, **weigh
        ),
        "FK": lambda loss: FKSteering(loss, particles=DRAWS, **weigh),
        "FK, not tempered": lambda loss: FKSteering(loss, particles=DRAWS, tempering=0.0, **weigh),
    }


def draw(model, plan, labels, policy, seed=SEED):
    """Return samples, one class after the other, and the evaluations of one."""
    n = len(labels)
    x = rd.sample(model, plan, shape=(n, *model.card["shape"]), cond={"label": labels},
                  policy=policy, batch_size=40, generator=generators(n, seed))  # fmt: skip
    return x, policy.results[-1].evaluations


def scattered(x, labels):
    """Return the root mean square distance of pixels to the mean of their class."""
    kinds = [x[labels == c].double() for c in labels.unique()]
    total = sum(float((own - own.mean(0)).square().sum()) for own in kinds)
    return (total / x.numel()) ** 0.5


def judged(x, labels, J, distance):
    """Return loss, diversity (unscaled) and fidelity of samples, each with its standard error."""
    n, classes = len(x), len(labels.unique())
    groups = min(GROUPS, n // classes)
    group = torch.arange(n) // classes % groups  # classes come in turn

    def jackknife(statistic):
        without = torch.tensor([statistic(group != g) for g in range(groups)], dtype=torch.float64)
        return float((without - without.mean()).square().sum().mul((groups - 1) / groups).sqrt())

    every = torch.ones(n, dtype=torch.bool)
    row = {"loss": float(J.mean()), "loss_se": float(J.std()) / n**0.5}
    for title, statistic in (
        ("diversity", lambda kept: scattered(x[kept], labels[kept])),
        ("frechet", None if distance is None else lambda kept: distance(x[kept].clamp(-1, 1))),
    ):
        row[title] = row[f"{title}_se"] = None
        if statistic is not None:
            row |= {title: statistic(every), f"{title}_se": jackknife(statistic)}
    return row


def nearness(name, n):
    """Return the Frechet distance to a half of the real pictures, and that of n real ones to the rest."""
    real = real_pictures(name)
    if real is None:
        return None, None
    images, kinds = real
    images, kinds = images[kinds < CLASSES[name]], kinds[kinds < CLASSES[name]]
    g, features = torch.Generator().manual_seed(SEED), classifier(name).features
    floor = 0.0
    for _ in range(8):
        here, there = halves(len(images), strata=kinds, generator=g)
        alike = [there[kinds[there] == c][: n // CLASSES[name]] for c in range(CLASSES[name])]
        floor += frechet(images[torch.cat(alike)], images[here], features) / 8
    held = images[halves(len(images), strata=kinds, generator=g)[0]]
    return lambda x: frechet(x, held, features), floor


def pool(model, plan, size):
    """Return plain samples, one class after the other in turn."""
    labels = torch.arange(size) % CLASSES["digits"]
    return rd.sample(model, plan, shape=(size, *model.card["shape"]), cond={"label": labels},
                     batch_size=1000, generator=torch.Generator().manual_seed(SEED))  # fmt: skip


def tilted(plain, loss, inverse_temperature, n):
    """Return n samples of the tilted law of each class, in turn, and the least ESS of a class."""
    kinds = CLASSES["digits"]
    log_w = -inverse_temperature * loss(plain).reshape(-1, kinds).T
    pick = resample(log_w, n // kinds, generator=torch.Generator().manual_seed(SEED))
    index = (pick * kinds + torch.arange(kinds)[:, None]).T.reshape(-1)
    return plain[index], float(Weights(log_w).ess.min()) * log_w.shape[1]


def compare(name, quick):
    """Return the table of one model: for each rule and method loss, diversity and fidelity."""
    model = rd.pretrained(name)
    n, steps = (40, 10) if quick else SIZES[name]
    plan = rd.ddpm(model.process, rd.timegrid(model.process, steps))
    labels = torch.arange(n) % CLASSES[name]
    distance, floor = nearness(name, n)
    found = {"samples": n, "steps": steps, "floor": floor, "rules": {}}
    many = pool(model, plan, 400 if quick else POOL) if name == "digits" else None
    for title, loss in RULES[name].items():
        rows = found["rules"][title] = {}
        plain, _ = draw(model, plan, labels, BestOfN(loss, 1))
        scatter = scattered(plain, labels)
        tilt = 4.0 / max(float(loss(plain).std()), 1e-9)
        methods = presets(plan, tilt)
        if many is not None:
            methods = {"tilted law": None} | methods
        for method, preset in methods.items():
            if method not in COLOUR and name == "cifar10":
                continue
            began, row = time.process_time(), {}
            if preset is None:
                x, row["least ESS"] = tilted(many, loss, tilt, n)
            else:
                x, row["evaluations"] = draw(model, plan, labels, preset(loss))
            row |= judged(x, labels, loss(x), distance)
            row["diversity"], row["diversity_se"] = (
                row["diversity"] / scatter, row["diversity_se"] / scatter,
            )  # fmt: skip
            row["seconds"] = time.process_time() - began
            rows[method] = row
            text = "".join(f" {k} {v:.4g}" for k, v in row.items() if v is not None)
            print(f"{name:8s} {title:18s} {method:18s}{text}", flush=True)
    return found


def against_candidates(quick):
    """Return the mean final loss of SCG on digits over many seeds, against n."""
    model = rd.pretrained("digits")
    seeds, steps = (32, 8) if quick else (256, 10)
    plan = rd.ddpm(model.process, rd.timegrid(model.process, steps))
    labels = torch.arange(seeds) % 10
    found = {"seeds": seeds, "steps": steps, "candidates": list(COUNTS), "rules": {}}
    for title, loss in RULES["digits"].items():
        values = [
            loss(draw(model, plan, labels, SCG(loss, candidates=n), seed=5)[0]) for n in COUNTS
        ]
        found["rules"][title] = {
            "loss": [float(v.mean()) for v in values],
            "se": [float(v.std()) / seeds**0.5 for v in values],
        }
        print(title, found["rules"][title], flush=True)
    return found


def noise_scale(quick):
    """Return loss and fidelity of SCG on digits against the scale of the noise it chooses among."""
    model, (n, steps) = rd.pretrained("digits"), (40, 10) if quick else SIZES["digits"]
    plan = rd.ddpm(model.process, rd.timegrid(model.process, steps))
    labels = torch.arange(n) % CLASSES["digits"]
    distance, _ = nearness("digits", n)
    found = {}
    for title, loss in RULES["digits"].items():
        rows = found[title] = {}
        for scale in (1.0, 1.25, 1.5, 2.0):
            x, _ = draw(model, plan, labels, SCG(loss, candidates=10, noise_scale=scale))
            rows[scale] = judged(x, labels, loss(x), distance)
            print(title, scale, rows[scale], flush=True)
    return found


def waiting(quick):
    """Return the share of a run's wall time that the network stands still for a slow rule."""
    model = rd.pretrained("cifar10")
    plan = rd.ddpm(model.process, rd.timegrid(model.process, 4 if quick else 8))
    labels = torch.arange(4)

    def here(x):
        return torch.tensor([_slow.busy(row) for row in x.numpy()], dtype=torch.float64)

    pooled = Pooled(_slow.busy, workers=1)
    pooled(torch.zeros(1, 3, 32, 32))  # starts the worker
    found, samples = {}, {}
    for name, loss, chunk in (
        ("in this process", as_loss(here), None),
        ("one worker, at once", pooled, None),
        ("one worker, in chunks", pooled, 8),
    ):
        guide = SCG(loss, candidates=16, active=(1.0, 0.0), max_batch=chunk)
        began = time.perf_counter()
        samples[name], _ = draw(model, plan, labels, guide)
        wall = time.perf_counter() - began
        waited = sum(result.waited for result in guide.results)
        found[name] = {"seconds": wall, "waited": waited, "share": waited / wall}
        print(name, found[name], flush=True)
    pooled.close()
    first, *others = samples.values()
    found["same samples"] = all(bool(torch.allclose(first, x, atol=1e-4)) for x in others)
    return found


def factors(quick):
    """Return the losses of SCG, of best of n and without guidance over four times the digits."""
    model, (n, steps) = rd.pretrained("digits"), (40, 10) if quick else (640, SIZES["digits"][1])
    plan = rd.ddpm(model.process, rd.timegrid(model.process, steps))
    labels = torch.arange(n) % CLASSES["digits"]
    found = {"samples": n, "steps": steps, "rules": {}}
    for title, loss in RULES["digits"].items():
        rows = found["rules"][title] = {}
        for name, policy in {"none": BestOfN(loss, 1), "best of n": BestOfN(loss, DRAWS),
                             "SCG": SCG(loss, candidates=10)}.items():  # fmt: skip
            x, evaluations = draw(model, plan, labels, policy, seed=1000)
            values = loss(x).double()
            row = {"loss": float(values.mean()), "se": float(values.std()) / n**0.5}
            rows[name] = row | {"evaluations": evaluations}
            print(title, name, rows[name], flush=True)
    return found


PARTS = {
    "tilted": lambda quick: _tilted.table(100 if quick else 500),
    "waiting": waiting,
    "digits": lambda quick: compare("digits", quick),
    "cifar10": lambda quick: compare("cifar10", quick),
    "candidates": against_candidates,
    "noise scale": noise_scale,
    "factors": factors,
}


def run(quick):
    return {name: part(quick) for name, part in PARTS.items() if not (quick and name == "cifar10")}


def run_parts(parts, before, facts):
    """Return the result with these parts measured again; each says when and on what."""
    for name in parts:
        if name not in PARTS:
            raise ValueError(f"no part {name!r} of guidance; there are {', '.join(PARTS)}")
    return before | {name: {**PARTS[name](False), "measured": facts} for name in parts}


def plot(result, target):
    import matplotlib.pyplot as plt

    models = {name: result[name] for name in SIZES if name in result}
    rows = 2 * max(1, len(models))
    figure, axes = plt.subplots(rows, 4, figsize=(19, 4 * rows), squeeze=False)
    for top, (name, found) in zip(range(0, rows, 2), models.items()):
        for column, (title, methods) in enumerate(found["rules"].items()):
            for axis, measure in (
                (axes[top, column], "diversity"),
                (axes[top + 1, column], "frechet"),
            ):
                points(axis, methods, measure)
                axis.set(title=f"{name}, {title}", ylabel="loss")
                axis.set_xlabel(
                    "diversity / unguided" if measure == "diversity" else "Frechet distance"
                )
            if found.get("floor"):
                axes[top + 1, column].axvline(found["floor"], color="grey", lw=0.8)
                axes[top + 1, column].set_xscale("log")
    for axis in axes[:, 3]:
        axis.axis("off")
    if "candidates" in result:
        axis = axes[0, 3]
        axis.axis("on")
        for title, values in result["candidates"]["rules"].items():
            share = [v / values["loss"][0] for v in values["loss"]]
            axis.plot(result["candidates"]["candidates"], share, "o-", label=title)
        axis.set(title="SCG, digits", xlabel="candidates", ylabel="loss / unguided", xscale="log")
        axis.legend()
    figure.tight_layout()
    figure.savefig(target, format="png", dpi=90)
    plt.close(figure)


def points(axis, rows, measure):
    """Draw each method's loss against a measure, with a standard error of each."""
    for method, row in rows.items():
        copies = "least ESS" in row and (row["least ESS"] < 3 or measure == "frechet")
        if row[measure] is None or copies:  # of few plain samples, which distort the spread
            continue
        axis.errorbar(
            row[measure], row["loss"], row["loss_se"], row[f"{measure}_se"], fmt="o", ms=4
        )
        axis.annotate(method, (row[measure], row["loss"]), fontsize=7)
