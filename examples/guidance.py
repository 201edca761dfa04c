"""Guidance by rules that have no gradient: optimise with SCG, sample the tilted law with weights."""

import torch

import redrift as rd
from redrift.guidance import DPS, SCG, SVDD, BestOfN, FKSteering, MaskRule, equal_segments, rules

torch.set_num_threads(1)
digits = rd.pretrained("digits")
plan = rd.ddpm(digits.process, rd.timegrid(digits.process, 20))  # any plan with noise


def generators(n):
    return [torch.Generator().manual_seed(i) for i in range(n)]


def draw(policy, model=digits, n=8):
    """Sample digits of any class."""
    options = dict(shape=(n, 1, 8, 8), cond={"label": torch.full((n,), 10)})
    return rd.sample(model, plan, policy=policy, generator=generators(n), **options)


# A rule is any function of predicted clean samples (rows, 1, 8, 8) to (rows,). This one counts.
def uneven(x):
    bright = x[:, 0] > 0
    return (bright != bright.flip(-1)).double().mean((1, 2))


for name, policy in (
    ("no guidance", BestOfN(uneven, 1)),
    ("best of 8", BestOfN(uneven, 8)),
    ("SCG, 8 candidates", SCG(uneven, candidates=8)),
    ("SVDD, 8 candidates", SVDD(uneven, candidates=8, inverse_temperature=30.0)),
    ("FK, 8 particles", FKSteering(uneven, particles=8, inverse_temperature=30.0)),
):
    x = draw(policy)
    found = policy.results[-1]
    spread = float((x - x.mean(0)).square().mean().sqrt())
    print(
        f"{name:20s} {found.evaluations:4d} evaluations   loss {float(found.loss.mean()):.4f}   "
        f"spread {spread:.3f}"
    )

# Weights: an unbiased estimate of E exp(-30 J) under the model, and how even the particles are.
print(f"log Z {float(found.weights.log_z.mean()):.2f}, ESS {float(found.weights.ess.mean()):.0%}")

# Rules add; a rule may hold exactly, by a constraint on the predictions; halves choose on their own.
dark = MaskRule(torch.arange(8) == 0, -1.0)  # nothing in the left column
both = 30 * rules.symmetry() + rules.components(1)
x = draw(SCG(both, candidates=8), model=dark.hard(digits))
print("left column, from -1:", f"{float((x[..., 0] + 1).abs().max()):.3f}")
halves = SCG(
    lambda x: x.flatten(1).mean(1).abs(), candidates=4, segments=equal_segments((1, 8, 8), 2)
)
draw(halves)
print("halves apart, loss", f"{float(halves.results[-1].loss.mean()):.4f}")

# Where the rule has a gradient, DPS bends the model for any plan, deterministic ones too.
bent = DPS(digits, lambda x: x.flatten(1).mean(1).add(0.2).square(), scale=200.0, root=False)
y = draw(None, model=bent)
print("mean brightness", f"{float(draw(None).mean()):.2f} -> {float(y.mean()):.2f}, wanted -0.2")
