"""Rules for pictures give what can be counted by hand; conditions follow each sample."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import redrift as rd
from problems import F64, generator
from redrift.guidance import SCG, FKSteering, TreeG, TreeGSD, rules
from redrift.pretrained import classifier
from tilted import selected

VP = rd.VP()


def picture(text):
    """Return a picture (1, 1, H, W) with 1 at each # and -1 elsewhere."""
    rows = [[1.0 if c == "#" else -1.0 for c in row] for row in text.split("/")]
    return torch.tensor(rows, dtype=F64)[None, None]


def test_symmetry_is_the_share_of_pixels_that_differ_from_the_mirror():
    assert rules.symmetry()(picture("#..#/.##.")) == 0
    assert rules.symmetry()(picture("#.../.##.")) == 2 / 8
    assert rules.symmetry()(picture("##../##..")) == 1
    assert rules.symmetry(threshold=2.0)(picture("##../##..")) == 0
    dark = 0.3 * picture("##../##..") - 0.6  # on one side of 0, but not of its own mean
    assert rules.symmetry(threshold=0.0)(dark) == 0
    assert rules.symmetry()(torch.cat((dark, -dark))).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("..../....", 0),
        ("#../.#./..#", 3),  # corners do not touch
        ("###/#.#/###", 1),
        ("#.#/#.#/###", 1),  # one region reached from two sides
        ("#####/#...#/#.#.#/#...#/#####", 2),
    ],
)
def test_components_are_four_connected_regions(text, count):
    assert rules.components(0)(picture(text)) == count
    assert rules.components(2)(0.3 * picture(text) - 0.6) == abs(count - 2)
    assert rules.components(2, threshold=0.0)(0.3 * picture(text) - 0.6) == 2


def test_a_file_is_as_large_as_the_one_written():
    x = torch.rand(2, 3, 16, 16, generator=generator(1), dtype=F64) * 2 - 1
    sizes = []
    for row in x:
        pixels = ((row + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=75)
        sizes.append(len(file.getvalue()))
    found = rules.jpeg_size()(x)
    assert torch.allclose(found, torch.tensor(sizes, dtype=F64) / 1000)
    assert torch.allclose(rules.jpeg_size(sizes[0])(x)[0], torch.zeros((), dtype=F64))
    flat = rules.jpeg_size()(torch.zeros_like(x))
    assert bool((flat < found).all())


def test_brightness_counts_levels():
    for value, steps in ((-1.0, 0), (1.0, 10), (0.0, 5), (0.09, 5), (0.11, 6)):
        x = torch.full((1, 1, 4, 4), value, dtype=F64)
        assert rules.brightness(-1.0, levels=11)(x) == steps


def test_a_decision_is_kept_or_not():
    class Darker:
        def predict(self, x):
            assert x.dtype == np.float64
            return np.where(x.mean(1) < 0, "dark", "light")

    x = torch.stack((torch.full((1, 2, 2), -0.5), torch.full((1, 2, 2), 0.5)))
    assert rules.decision(Darker(), "dark")(x).tolist() == [0, 1]


@pytest.mark.parametrize(
    "make",
    [
        lambda loss: SCG(loss, candidates=16, active=(1.0, 0.0)),
        lambda loss: TreeGSD(loss, candidates=16, active=(1.0, 0.0)),
        lambda loss: FKSteering(loss, particles=8, inverse_temperature=8.0),
    ],
    ids=["SCG", "TreeGSD", "FK"],
)
def test_the_decision_of_a_forest_is_guided_to(make):
    # a random forest has no gradient; another classifier, which no rule asked, agrees with it
    ensemble = pytest.importorskip("sklearn.ensemble")
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    forest = ensemble.RandomForestClassifier(60, random_state=0).fit(x / 8 - 1, y)
    loss = rules.decision(forest, 3)
    digits, judge = rd.pretrained("digits"), classifier("digits")
    n, plan = 40, rd.ddpm(digits.process, rd.timegrid(digits.process, 12))

    def draw(policy):
        fresh = [torch.Generator().manual_seed(i) for i in range(n)]
        found = rd.sample(digits, plan, shape=(n, 1, 8, 8), cond={"label": torch.full((n,), 10)},
                          policy=policy, generator=fresh)  # fmt: skip
        return float(loss(found).mean()), float((judge(found).argmax(1) == 3).double().mean())

    (before, alike), (after, as_meant) = draw(None), draw(make(loss))
    assert before > 0.8  # one class of ten
    assert after < 0.5 * before
    assert as_meant > alike + 0.3


def test_inverse_problems_measure_squared_distances():
    x = torch.arange(16, dtype=F64).reshape(1, 1, 4, 4)
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 0, :2] = True
    known = torch.tensor([1.0, 3.0, 0.0, 0.0], dtype=F64)
    assert rules.inpainting(known, mask)(x) == (1 + 4) / 2
    small = torch.tensor([[[2.5, 4.5], [10.5, 13.5]]], dtype=F64)
    assert rules.downsampled(small, 2)(x) == 1 / 4
    with pytest.raises(ValueError, match="nowhere True"):
        rules.inpainting(known, ~torch.ones_like(mask))


def test_known_pixels_give_the_posterior_of_a_gaussian():
    # two correlated pixels; the first is measured as 1 with variance s2, the second follows
    a, s2, runs = 0.8, 0.1, 300
    covariance = torch.tensor([[1.0, a], [a, 1.0]], dtype=F64)

    def eps(x, t):
        alpha, sigma = VP.alpha(t[0]), VP.sigma(t[0])
        noisy = alpha**2 * covariance + sigma**2 * torch.eye(2, dtype=F64)
        return sigma * torch.linalg.solve(noisy, x.mT).mT

    model = rd.Denoiser(eps, VP, "eps")
    mask = torch.tensor([True, False])
    loss = rules.inpainting(torch.ones(2, dtype=F64), mask)  # (x1 - 1)^2
    guide = FKSteering(loss, particles=32, inverse_temperature=1 / (2 * s2))
    plan = rd.ddpm(VP, rd.timegrid(VP, 40))
    x = rd.sample(model, plan, shape=(runs, 2), dtype=F64, policy=guide, generator=generator(2))
    gain = 1 / (1 + s2)
    for i, (mean, var) in enumerate(((gain, 1 - gain), (a * gain, 1 - a**2 * gain))):
        assert abs(float(x[:, i].mean()) - mean) < 4 * (var / runs) ** 0.5 + 0.02
        assert abs(float(x[:, i].var()) - var) < 4 * var * (2 / runs) ** 0.5 + 0.02


@pytest.mark.parametrize(
    "make",
    [
        lambda loss: SCG(loss, candidates=4),
        lambda loss: FKSteering(loss, particles=4, ess_threshold=0.9),
        lambda loss: TreeG(loss, beams=2, candidates=2),
        lambda loss: TreeGSD(loss, beams=2, candidates=2),
    ],
    ids=["SCG", "FK", "TreeG", "TreeGSD"],
)
def test_conditions_follow_their_samples(make):
    def net(x, t, label):
        return x - label[:, None].to(x)

    model = rd.Denoiser(net, VP, "eps")
    plan = rd.ddpm(VP, rd.timegrid(VP, 10))
    label = torch.tensor([-0.5, 0.1, 0.7], dtype=F64)

    def draw(rows):
        fresh = [torch.Generator().manual_seed(i) for i in rows]
        return rd.sample(model, plan, shape=(len(rows), 2), dtype=F64, cond={"label": label[rows]},
                         policy=make(lambda x: x[:, 0].abs()), generator=fresh)  # fmt: skip

    together = draw([0, 1, 2])
    for i in range(3):
        assert torch.allclose(together[i : i + 1], draw([i]), atol=1e-12)


def test_the_noise_scale_is_that_of_the_noise_that_is_chosen_from():
    seen = []

    def see(run, law, candidates, move):
        seen.append(candidates.x - law.mean[:, None])

    model = rd.denoise.Gaussian(torch.zeros(2, dtype=F64), 1.0, VP)
    plan = rd.ddpm(VP, rd.timegrid(VP, 5))
    for scale in (1.0, 1.5):
        guide = SCG(lambda x: x[:, 0], candidates=3, active=(1.0, 0.0), noise_scale=scale)
        selected(guide, see)
        rd.sample(model, plan, shape=(4, 2), dtype=F64, policy=guide, generator=generator(3))
    assert torch.allclose(1.5 * seen[0], seen[len(seen) // 2])
    # draws of another law have no weights under the plan's
    alone = SCG(lambda x: x[:, 0], candidates=1, noise_scale=1.5)
    rd.sample(model, plan, shape=(4, 2), dtype=F64, policy=alone, generator=generator(3))
    assert alone.results[-1].weights is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [rules.symmetry(0.0), rules.components(2, 0.0), rules.brightness(0.0, levels=32)],
    ids=["symmetry", "two regions", "brightness"],
)
def test_the_final_loss_falls_with_every_doubling_of_the_candidates(loss):
    # mean over 256 seeds of digits, each against the same seeds with half as many candidates
    digits = rd.pretrained("digits")
    plan = rd.ddpm(digits.process, rd.timegrid(digits.process, 10))
    labels = torch.arange(256) % 10
    means = []
    for n in (1, 2, 4, 8, 16):
        fresh = [torch.Generator().manual_seed(i) for i in range(256)]
        x = rd.sample(digits, plan, shape=(256, 1, 8, 8), cond={"label": labels}, generator=fresh,
                      policy=SCG(loss, candidates=n), batch_size=64)  # fmt: skip
        means.append(float(loss(x).mean()))
    assert all(a > b for a, b in zip(means, means[1:]))
    assert means[-1] < 0.75 * means[0]
