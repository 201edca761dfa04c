"""Collages of the textures model beside independent pieces, averaging and outpainting.

Quality: FFD+, the Frechet distance of random training-size crops to crops of the training pictures
over the features of a classifier that tells quarters of those pictures apart, for canvases of one
length, with a standard error by leaving out groups of canvases; and its mean over the six pictures,
each against its own crops. Seams: the energy distance between windows where pieces end and windows centred
inside, over the jumps between their middle columns and over the same features, with the p-value of
swapping the two within each canvas. Cost: processor time a step, the batched cost of its windows and
overlaps alone, and peak memory, against the number of pieces; time of a whole run beside both
outpaintings.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import torch

import redrift as rd
from benchmarks._problems import shipped
from redrift.collage import chain, outpaint, seam_ratio
from redrift.metrics import energy_distance, frechet, frechet_floor
from redrift.pretrained import classifier

CANVASES, GROUPS = 960, 16
SEED, WIDTH, LAP, STEPS = 11, 32, 16, 20
LENGTH = 96  # five pieces that share half, or three side by side


def generators(n):
    return [torch.Generator().manual_seed(SEED + i) for i in range(n)]


def canvases(model, n, method):
    """Return n canvases (n, 3, 32, 96), classes in turn, their graph and the processor seconds."""
    plan = rd.plan_for(model.process, STEPS)
    label = (torch.arange(n) % model.card["classes"]).to(model.device)
    piece = (3, WIDTH, WIDTH)
    graph = chain(piece, 5, LAP) if method != "independent" else chain(piece, 3, 0)
    options = dict(cond={"label": label}, generator=generators(n))
    started = time.process_time()
    if method in ("replacement", "reconstruction"):
        x = outpaint(graph, model, plan, batch=n, fill=method, **options)
    else:
        made = graph if method == "independent" else graph.recount(SCHEMES[method])
        x = rd.sample(
            made.denoiser(model), plan, shape=(n, *graph.shape), device=model.device,
            batch_size=240 if model.device.type == "cuda" else 24, **options,
        )  # fmt: skip
    return x.cpu(), graph, time.process_time() - started


SCHEMES = {"average": "average", "collage": "kikuchi"}
METHODS = ("independent", "average", "collage", "replacement", "reconstruction")


def cut(x, starts):
    """Return the windows (n, 3, 32, 32) of canvases that begin at `starts`."""
    return torch.stack([row[..., s : s + WIDTH] for row, s in zip(x, starts)])


def seams(x, method, features, permutations):
    """Return the energy distance of windows on and off seams, and its p-value.

    Each canvas gives two windows of a kind; a permutation swaps the kinds of whole canvases.
    """
    starts = ((16, 48), (0, 64)) if method == "independent" else ((16, 48), (24, 40))
    a, b = (
        torch.cat([features(x[..., s : s + WIDTH].clamp(-1, 1)).double() for s in kind])
        for kind in starts
    )
    both = torch.cat((a, b))
    far = torch.cdist(both, both)
    sign = torch.cat((torch.ones(len(a)), -torch.ones(len(b)))).double()
    g = torch.Generator().manual_seed(SEED)
    turn = (torch.rand(permutations, len(x), generator=g) < 0.5).double() * -2 + 1
    signs = torch.cat((sign[None], turn.repeat(1, 4) * sign))
    values = -((signs @ far) * signs).sum(1) / len(a) ** 2  # the energy distance of each
    p = float((values[1:] >= values[0] - 1e-12).sum() + 1) / (permutations + 1)
    return float(energy_distance(a, b)), p


def jumps(x):
    """Return the log mean squared jumps between the eight middle columns of windows, (B, 7)."""
    middle = x[..., WIDTH // 2 - 4 : WIDTH // 2 + 4].double()
    return middle.diff(dim=-1).square().mean((1, 2)).add(1e-4).log()


def real(n):
    """Return crops of the training pictures, classes in turn, and their labels."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
    from common import to_floats
    from textures import SIDE, Crops

    crops = Crops()
    classes = len(crops.pictures)
    g = torch.Generator().manual_seed(SEED)
    label = torch.arange(n) % classes
    return to_floats(
        crops.cut(label * SIDE**2 + torch.randint(SIDE**2, (n,), generator=g), 32, 32)
    ), label


@torch.no_grad()
def quality(model, quick):
    n, kinds = 12 if quick else CANVASES, model.card["classes"]
    features = classifier("textures").features
    truth, label = real(600 if quick else 2400)
    g = torch.Generator().manual_seed(SEED)
    size = min(n, len(truth) // 2)
    floor = frechet_floor(truth, features, size=size, strata=label, generator=g)
    found = {"canvases": n, "floor": floor}
    seen = features(truth).double()
    for method in METHODS:
        x, graph, seconds = canvases(model, n, method)
        starts = torch.randint(
            LENGTH - WIDTH + 1, (n,), generator=torch.Generator().manual_seed(1)
        )
        mine = features(cut(x, starts.tolist()).clamp(-1, 1)).double()  # one crop a canvas
        group = torch.arange(n) // kinds % GROUPS  # the pictures come in turn
        without = torch.tensor(
            [frechet(mine[group != k], seen) for k in range(min(GROUPS, n // kinds))]
        )
        own = [frechet(mine[torch.arange(n) % kinds == k], seen[label == k]) for k in range(kinds)]
        distance, p = seams(x[:48], method, jumps, 99 if quick else 1999)
        wide, wide_p = seams(x[:48], method, features, 99 if quick else 1999)
        found[method] = dict(
            ffd=frechet(mine, seen),
            ffd_se=float((without - without.mean()).square().mean().mul(len(without) - 1).sqrt()),
            ffd_by_picture=sum(own) / kinds,
            seam_energy=distance,
            seam_p=p,
            seam_energy_features=wide,
            seam_p_features=wide_p,
            seam_jump=float(seam_ratio(x, graph).mean()),
            seconds=seconds,
        )
        print(method, found[method], flush=True)
    return found


def clocked(call, repeats):
    """Return the least processor seconds of some calls; on a GPU the wall's, until it is done."""
    gpu = torch.cuda.is_available()
    now = time.perf_counter if gpu else time.process_time
    best = float("inf")
    for _ in range(repeats):
        started = now()
        call()
        if gpu:
            torch.cuda.synchronize()
        best = min(best, now() - started)
    return best


@torch.no_grad()
def step_costs(model, pieces, repeats=5):
    """Return the seconds of one step, and of its windows and overlaps as plain batches, in turns."""
    graph = chain((3, WIDTH, WIDTH), pieces, LAP)
    collaged = graph.denoiser(model, max_batch=16)
    x = torch.randn(1, *graph.shape)
    level = model.process.level(torch.tensor(0.5, dtype=torch.float64))
    parts = [
        (torch.randn(min(16, k), 3, WIDTH, w), k)
        for w, count in ((WIDTH, pieces), (LAP, pieces - 1))
        for k in [16] * (count // 16) + [count % 16] * bool(count % 16)
    ]

    def plain():
        for batch, k in parts:
            model.predict(batch[:k], level)

    def step():
        collaged.predict(x, level)

    turns = [(clocked(step, 1), clocked(plain, 1)) for _ in range(repeats)]
    return tuple(map(min, zip(*turns, strict=True)))


def memory(pieces):
    """Return the megabytes a process takes for two steps, above what it held before them."""
    code = f"import benchmarks.collage as b; b.peak({pieces})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parents[1])  # fmt: skip
    return json.loads(done.stdout)


@torch.no_grad()
def peak(pieces):
    torch.set_num_threads(1)
    model = rd.pretrained("textures")
    graph = chain((3, WIDTH, WIDTH), pieces, LAP)
    collaged = graph.denoiser(model, max_batch=8)
    plan = rd.ddim(model.process, rd.timegrid(model.process, 2))
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before = status("VmRSS")
    x = rd.sample(collaged, plan, shape=(1, *graph.shape))
    after = status("VmHWM")
    canvas = x.numel() * 4 / 2**20
    print(json.dumps({"before": before, "above": after - before, "canvas": canvas}))


def status(key):
    """Return a figure of this process's memory in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def runs(model, pieces, steps=4):
    """Return the seconds of a run of each method on one canvas, over a few steps."""
    graph, plan = (
        chain((3, WIDTH, WIDTH), pieces, LAP),
        rd.ddim(model.process, rd.timegrid(model.process, steps)),
    )
    shape, g = (1, *graph.shape), torch.Generator().manual_seed(0)
    gpu = model.device.type == "cuda"
    size, times = (pieces, 2) if gpu else (16, 1)  # windows at once; the first call warms a GPU up
    collaged = graph.denoiser(model, max_batch=size)
    calls = {"collage": lambda: rd.sample(collaged, plan, shape=shape, generator=g)}
    for fill in ("replacement", "reconstruction"):
        calls[fill] = lambda fill=fill: outpaint(graph, model, plan, fill=fill, generator=g)
    alone = (pieces, 3, WIDTH, WIDTH)
    calls["independent"] = lambda: rd.sample(model, plan, shape=alone, batch_size=size)
    row = {name: clocked(call, times) for name, call in calls.items()}
    return row | {"calls in series": {"collage": steps, "outpainting": steps * pieces}}


def costs(model, lengths):
    """Return the seconds of a step, and its ratio to the plain batches, by the number of pieces."""
    steps = {}
    for n in lengths:
        ours, plain = step_costs(model, n)
        steps[n] = {"step": ours, "windows and overlaps alone": plain, "ratio": ours / plain}
        print(n, steps[n], flush=True)
    return steps


LENGTHS, HELD = (4, 8, 32, 128, 256), (4, 64, 256)  # pieces: of the times, and of the memory


def run_parts(parts, before, facts):
    """Measure parts again: "costs" (steps and memory), "gpu" (its times) and "quality"."""
    unknown = sorted(set(parts) - {"costs", "gpu", "quality"})
    if unknown:
        raise SystemExit(f"no part {', '.join(unknown)}; there are costs, gpu, quality")
    done = dict(before)
    if "costs" in parts:
        done["steps"] = costs(rd.pretrained("textures"), LENGTHS)
        done["memory"] = {n: memory(n) for n in HELD}
    if "gpu" in parts:
        model = shipped("textures")
        done["gpu"] = {"runs": {n: runs(model, n) for n in (8, 32, 128)}, "measured": facts}
        print(json.dumps(done["gpu"], indent=1))
    if "quality" in parts:
        done["quality"] = {**quality(shipped("textures"), False), "measured": facts}
    return done


def run(quick):
    model = rd.pretrained("textures")
    steps = costs(model, (4, 16) if quick else LENGTHS)
    return {
        "steps": steps,
        "runs": {n: runs(model, n) for n in ((8,) if quick else (8, 32, 128))},
        "memory": {n: memory(n) for n in ((4, 16) if quick else HELD)},
        "quality": quality(model, quick),
        "model": {k: model.card[k] for k in ("images", "seconds")},
    }


def plot(result, target):
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4))
    quality = {k: result["quality"][k] for k in METHODS}
    left.barh(list(quality), [v["ffd"] for v in quality.values()], color="tab:blue",
              xerr=[v["ffd_se"] for v in quality.values()])  # fmt: skip
    left.axvline(result["quality"]["floor"], color="k", ls=":", label="real against real")
    left.set_xlabel("FFD+ of 32 x 32 crops")
    left.invert_yaxis()
    left.legend()
    n = [int(k) for k in result["steps"]]
    for name in ("step", "windows and overlaps alone"):
        middle.loglog(n, [v[name] for v in result["steps"].values()], "o-", label=name)
    middle.set_xlabel("pieces")
    middle.set_ylabel("processor seconds a step")
    middle.legend()
    for name in ("independent", "collage", "replacement", "reconstruction"):
        rows = result["runs"]
        right.loglog([int(k) for k in rows], [v[name] for v in rows.values()], "o-", label=name)
    right.set_xlabel("pieces")
    right.set_ylabel("processor seconds, 4 steps")
    right.legend()
    figure.tight_layout()
    figure.savefig(target, format="png", dpi=120)
