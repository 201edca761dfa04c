"""Every layout, scheme of counting, condition, edit and corrector of collages, and seams."""

import torch

import redrift as rd
from redrift import collage as c
from redrift.denoise.edits import FILLS

VP = rd.VP()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def graphs():
    """Yield (name, graph) of every layout and scheme."""
    for counting in c.COUNTINGS:
        yield f"chain {counting}", c.chain((2, 8), 4, 3, counting=counting)
        yield f"ring {counting}", c.ring((1, 6), 5, 2, counting=counting)
        yield f"grid {counting}", c.grid((1, 4, 4), (3, 2), 2, counting=counting)
        yield f"torus {counting}", c.torus((1, 4, 4), (3, 4), 2, counting=counting)
        yield f"cubemap {counting}", c.cubemap((1, 4, 4), counting=counting)
    yield "uneven chain", c.chain((1, 8), 3, (2, 5))
    yield "chain along the first axis", c.chain((1, 4, 6), 3, 2, axis=1)
    yield "windows", c.windows((1, 4, 4), (6, 7), ((0, 0), (0, 3), (2, 0), (2, 3)))
    yield "tree", c.tree(((0, 1, 2), (2, 3), (2, 4, 5)))


def net(predicts="eps"):
    def call(x, t, label=None):
        out = torch.tanh(x.roll(1, -1) + t.reshape(-1, *[1] * (x.ndim - 1)))
        return out if label is None else out + label.reshape(-1, *[1] * (x.ndim - 1)) / 10

    return rd.Denoiser(call, VP, predicts)


def run(model, graph, plan=None, n=2, **options):
    plan = rd.deis(VP, rd.timegrid(VP, 6), order=2) if plan is None else plan
    return rd.sample(model, plan, shape=(n, *graph.shape), generator=generator(), **options)


def outputs():
    for name, graph in graphs():
        yield f"{name}, sites", torch.cat([r.index for r in graph.regions])
        yield (
            f"{name}, weights",
            torch.cat([torch.as_tensor(r.weight).double().reshape(-1) for r in graph.regions]),
        )
        facts = (graph.pieces, len(graph.overlaps), graph.is_tree, graph.is_exact_at_zero)
        yield f"{name}, facts", torch.tensor([float(value) for value in facts])
        yield f"{name}, sample", run(graph.denoiser(net()), graph)
    yield from conditions()
    yield from edits()
    yield from others()


def conditions():
    graph = c.chain((1, 8), 4, 3)
    label = torch.arange(4.0)
    for rule in ("mean", "first", "last", "null"):
        model = graph.denoiser(
            net(), cond={"label": label}, overlap_cond=rule, null={"label": -1.0}
        )
        yield f"conditions {rule}", run(model, graph)
    rows = torch.arange(float(len(graph.regions)))
    yield "conditions by region", run(graph.denoiser(net(), cond={"label": rows}), graph)
    yield "conditions by sample", run(
        graph.denoiser(net()), graph, cond={"label": torch.tensor([1.0, 2.0])}
    )  # fmt: skip
    yield "in small batches", run(graph.denoiser(net(), cond={"label": label}, max_batch=3), graph)
    other = net()
    yield "own net of overlaps", run(graph.denoiser(net(), other), graph)


def edits():
    graph = c.ring((1, 8), 4, 3)
    known = torch.linspace(-1, 1, 20).reshape(1, 20)
    mask = torch.arange(20) < 7
    ddpm = rd.ddpm(VP, rd.timegrid(VP, 6))
    for predicts in ("eps", "x0", "v"):
        for plan in (None, ddpm):
            kind = f"{predicts} {'deis' if plan is None else 'ddpm'}"
            yield f"{kind} clip", run(graph.denoiser(net(predicts), clip=0.4), graph, plan)
            for fill in FILLS:
                model = graph.denoiser(net(predicts), known=known, mask=mask, fill=fill)
                yield f"{kind} {fill}", run(model, graph, plan)
            model = graph.denoiser(net(predicts), known=known, mask=mask, clip=0.7)
            yield f"{kind} clip and replacement", run(model, graph, plan)
    model = rd.denoise.Inpaint(graph.denoiser(net()), fill="reconstruction", low=0.2)
    cond = {"known": torch.stack([known, -known]), "mask": mask.expand(2, 1, 20)}
    yield "known by sample", run(model, graph, cond=cond)
    yield "known by sample, selected", run(
        model, graph, ddpm, cond=cond,
        policy=rd.SCG(lambda x: x.flatten(1).mean(1), candidates=3),
    )  # fmt: skip
    for fill in FILLS:
        seen = []
        x = c.outpaint(
            graph, net(), ddpm, batch=2, fill=fill, generator=generator(),
            callback=lambda i, canvas, seen=seen: seen.append(canvas.clone()),
        )  # fmt: skip
        yield f"outpainting {fill}", x
        yield f"outpainting {fill}, on the way", torch.stack(seen)


def others():
    process = rd.CLD()
    piece = rd.Denoiser(lambda x, t: torch.tanh(x.roll(1, -1)), process)
    graph = c.ring((1, 6), 4, 3)
    plan = rd.gddim(process, rd.timegrid(process, 6), order=2)
    yield "CLD", run(graph.denoiser(piece), graph, plan)
    yield "CLD, clipped", run(graph.denoiser(piece, clip=0.3), graph, plan)
    known, mask = torch.zeros(1, 12), torch.arange(12) < 4
    yield "CLD, filled", run(graph.denoiser(piece, known=known, mask=mask), graph, plan)
    piece, lap = (
        rd.Denoiser(lambda x, t: torch.tanh(x.roll(1, -1)), rd.Blur(size))
        for size in ((4, 4), (4, 2))
    )
    graph = c.chain((1, 4, 4), 3, 2)
    whole = rd.Blur(graph.canvas)
    plan = rd.ddpm(whole, rd.timegrid(whole, 6))
    yield "Blur", run(graph.denoiser(piece, lap, process=whole), graph, plan)
    x = torch.randn(2, 1, 6, 8, 8, generator=generator())
    yield "equirectangular", c.to_equirectangular(x)
    graph = c.torus((1, 4, 4), (3, 4), 2)
    yield "seams", c.seam_ratio(torch.randn(2, *graph.shape, generator=generator()), graph)
