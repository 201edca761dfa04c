"""DiffCollage: a long picture from a model of small ones, and what each scheme costs in quality."""

import torch

import redrift as rd
from redrift.collage import chain, cubemap, grid, ring, seam_ratio

torch.set_num_threads(1)

# A model of 32 x 32 textures that also knows 32 x 16 pieces: it serves pieces and overlaps.
model = rd.pretrained("textures")
names = model.card["labels"]
graph = chain((3, 32, 32), count=5, overlap=16)
print(graph)
print(ring((3, 32, 32), count=8, overlap=16))
print(grid((3, 32, 32), count=(2, 3), overlap=16))
print(cubemap((3, 32, 32)))

# One condition a piece. An overlap is given the mean of its pieces' predictions.
label = torch.full((graph.pieces,), names.index("gravel"))
plan = rd.plan_for(model.process, 12)
print(plan)
for counting in ("independent", "average", "kikuchi"):
    made = graph.recount(counting)
    collage = made.denoiser(model, cond={"label": label}, max_batch=8)
    x = rd.sample(
        collage, plan, shape=(1, *graph.shape), generator=torch.Generator().manual_seed(0)
    )
    print(
        f"{counting:12s} jumps across borders {float(seam_ratio(x, graph)):.2f} times the others"
    )

# Correctors repair what the flow froze in; each costs an evaluation a level.
better = rd.solvers.langevin_corrected(plan, 1)
print(better)

# The canvas is a denoiser like any other: given the left half, draw the right one.
known = torch.zeros(graph.shape)
known[..., :48] = x[0, ..., :48]
mask = torch.arange(graph.shape[-1]) < 48
given = graph.denoiser(model, cond={"label": label}, known=known, mask=mask)
y = rd.sample(
    given,
    rd.deis(model.process, rd.timegrid(model.process, 10), end="denoise"),
    shape=(1, *graph.shape),
    generator=torch.Generator().manual_seed(1),
)
print("largest change of the given half:", f"{float((y - x)[..., :48].abs().max()):.1e}")
