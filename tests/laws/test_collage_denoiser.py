"""A collage as a denoiser: reductions, readings, conditions, batches, state, given data, bad input."""

import contextlib
import dataclasses

import pytest
import torch

import redrift as rd
from collages import F64, ar1, collage
from redrift.collage import (
    chain,
    cubemap,
    grid,
    outpaint,
    ring,
    seam_ratio,
    tree,
    windows,
)  # fmt: skip
from redrift.denoise import Denoiser, Gaussian, Guided, Wrapper
from redrift.process import PROCESSES, VP, Blur, timegrid
from redrift.solvers import NextState


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(x, t):
    return torch.tanh(x.cumsum(-1) / 3) + 0.1 * x.flip(-1)


class Counted(Wrapper):
    """Counts the network calls and the largest batch."""

    def __init__(self, model):
        super().__init__(model)
        self.calls = []

    def predict(self, z, level):
        self.calls.append(len(z))
        return self.model.predict(z, level)


# --- reductions ---


@pytest.mark.parametrize("name", ["digits", "digits-cld", "digits-blur"])
def test_one_window_over_the_canvas_is_the_plain_model_bit_for_bit(name):
    model = rd.pretrained(name)
    whole = grid((1, 8, 8), (1, 1), 0).denoiser(model, process=model.process)
    cond = {"label": torch.tensor([3, 5])}
    for eta in (0.0, 1.0):
        plan = rd.gddim(model.process, timegrid(model.process, 6), order=1, stochasticity=eta)
        one, two = (
            rd.sample(m, plan, shape=(2, 1, 8, 8), cond=cond, generator=generator())
            for m in (model, whole)
        )
        if model.process.modes:  # to the network's basis and back once more
            assert torch.allclose(one, two, atol=1e-4)
        else:
            assert torch.equal(one, two)


def test_without_overlaps_a_collage_is_its_independent_pieces_bit_for_bit():
    model = rd.pretrained("digits")
    plan = rd.deis(model.process, timegrid(model.process, 5))
    cond = {"label": torch.tensor([3])}
    x = torch.randn(1, 1, 8, 24, generator=generator())
    rows = [
        rd.sample(chain((1, 8, 8), 3, 0, counting=c).denoiser(model), plan, x=x, cond=cond)
        for c in ("kikuchi", "bethe", "average", "gaussian", "independent")
    ]
    assert all(torch.equal(row, rows[0]) for row in rows)
    pieces = torch.cat(x.split(8, -1))
    apart = rd.sample(model, plan, x=pieces, cond={"label": torch.tensor([3, 3, 3])})
    assert torch.equal(rows[0], torch.cat(apart.split(1), -1))


# --- readings ---


class Read(Wrapper):
    """A model in another reading."""

    def __init__(self, model, predicts):
        super().__init__(model)
        self.predicts = predicts

    def predict(self, z, level):
        return self.model.ask(z, level, self.predicts)


def test_aggregates_of_every_reading_are_one_object():
    base, graph = Denoiser(smooth, VP(), "eps"), grid((1, 6, 6), (3, 2), (3, 2))
    x = torch.randn(2, *graph.shape, generator=generator(), dtype=F64)
    wanted = graph.denoiser(base).score(x, 0.4)
    for piece in ("eps", "x0", "v", "score", "flow"):
        for overlap in (piece, "eps"):
            model = graph.denoiser(Read(base, piece), Read(base, overlap))
            assert model.predicts == (piece if overlap == piece else "eps")
            for wants in ("eps", "x0", "v"):
                ours = getattr(model, wants)(x, 0.4)
                theirs = getattr(Denoiser(lambda z, t: wanted, VP(), "score"), wants)(x, 0.4)
                assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [n for n, p in PROCESSES.items() if p is not Blur])
def test_on_every_process_a_collage_of_white_pieces_is_the_white_canvas(name):
    made = PROCESSES[name]
    try:
        process = made()
    except TypeError:
        pytest.skip("needs arguments")
    graph = chain((2, 6), 4, 3)
    model = graph.denoiser(Gaussian(torch.zeros(2, 6, dtype=F64), 0.7, process),
                           Gaussian(torch.zeros(2, 3, dtype=F64), 0.7, process))  # fmt: skip
    exact = Gaussian(torch.zeros(*graph.shape, dtype=F64), 0.7, process)
    t = torch.tensor([0.3, 0.6], dtype=F64) * process.horizon
    blocks = () if process.k == 1 else (process.k,)
    z = torch.randn(2, *blocks, *graph.shape, generator=generator(), dtype=F64)
    for times in (t, t[0]):
        level = process.level(times)
        assert torch.allclose(model.ask(z, level, "eps"), exact.ask(z, level, "eps"), atol=1e-9)


def test_a_blurring_collage_sums_eps_and_converts_with_the_canvas():
    graph = chain((1, 4, 8), 3, 4)
    piece, half = (Denoiser(smooth, Blur((4, n)), "eps") for n in (8, 4))
    model = graph.denoiser(piece, half, process=Blur((4, 16)))
    x = torch.randn(2, 1, 4, 16, generator=generator(), dtype=F64)
    plain = graph.denoiser(Denoiser(smooth, VP(), "eps")).eps(x, 0.5)
    assert model.predicts == "eps"
    assert torch.allclose(model.eps(x, 0.5), plain, atol=1e-10)
    canvas = Denoiser(lambda z, t: plain, Blur((4, 16)), "eps")
    assert torch.allclose(model.x0(x, 0.5), canvas.x0(x, 0.5), rtol=1e-9)
    clean = graph.denoiser(Read(piece, "x0"), Read(half, "x0"), process=Blur((4, 16)))
    assert torch.allclose(clean.eps(x, 0.5), plain, atol=1e-8)


# --- batches ---


@pytest.mark.parametrize("most", [1, 3, 7])
def test_the_size_of_micro_batches_does_not_matter(most):
    graph = grid((2, 6, 6), (3, 3), 3)
    net = torch.nn.Conv2d(2, 2, 3, padding=1)
    counted = Counted(Denoiser(lambda x, t: net(x), VP(), "eps"))
    x = torch.randn(2, *graph.shape, generator=generator())
    with torch.no_grad():
        small = graph.denoiser(counted, max_batch=most).eps(x, 0.5)
        assert max(counted.calls) <= most
        large = graph.denoiser(counted).eps(x, 0.5)
    assert torch.allclose(small, large, atol=1e-6)


def test_a_step_is_one_call_for_each_shape_and_outpainting_one_for_each_window_and_step():
    graph, plan = chain((1, 16), 5, 8), rd.ddim(VP(), timegrid(VP(), 4))
    counted = Counted(Denoiser(smooth, VP(), "eps"))
    rd.sample(graph.denoiser(counted), plan, shape=(3, *graph.shape), generator=generator())
    assert counted.calls == [15, 12] * 4
    counted.calls.clear()
    outpaint(graph, counted, plan, batch=3, generator=generator())
    assert counted.calls == [3] * (5 * 4)


def test_memory_that_runs_out_halves_the_batch_for_good():
    seen = []

    def net(x, t):
        seen.append(len(x))
        if len(x) > 3:
            raise torch.OutOfMemoryError("no room")
        return smooth(x, t)

    graph = chain((1, 8), 7, 4)
    model = graph.denoiser(Denoiser(net, VP(), "eps"))
    x = torch.randn(2, *graph.shape, generator=generator(), dtype=F64)
    found = model.eps(x, 0.5)
    assert torch.allclose(
        found, graph.denoiser(Denoiser(smooth, VP(), "eps")).eps(x, 0.5), atol=1e-12
    )
    assert model.max_batch == 3
    seen.clear()
    model.eps(x, 0.5)
    assert max(seen) == 3
    with pytest.raises(torch.OutOfMemoryError):
        graph.denoiser(Denoiser(_never, VP(), "eps")).eps(x, 0.5)


def _never(x, t):
    raise torch.OutOfMemoryError("no room")


def test_noise_is_drawn_once_on_the_canvas():
    # one stochastic step of a collage whose pieces predict nothing: white noise, overlaps too
    graph, process = chain((1, 8), 4, 6), VP()
    model = graph.denoiser(Denoiser(lambda x, t: torch.zeros_like(x), process, "x0"))
    plan = rd.ddpm(process, [0.9, 0.6])
    x = rd.sample(model, plan, x=torch.zeros(20_000, *graph.shape), generator=generator())
    spread = x.var(0).flatten()
    assert spread.std() / spread.mean() < 0.03


# --- conditions ---


def marked(x, t, label):
    return label.to(x).reshape(-1, *[1] * (x.ndim - 1)).expand_as(x)


def test_an_overlap_is_told_what_its_rule_says():
    graph = chain((1, 8), 3, 4)
    model = Denoiser(marked, VP(), "eps")
    labels = {"label": torch.tensor([1, 5, 5])}

    def seams(**options):
        row = graph.denoiser(model, cond=labels, **options).eps(torch.zeros(1, 1, 16), 0.5)[0, 0]
        return [float(row[i]) for i in (0, 4, 8, 12)]

    # an overlap holds the sum of its pieces less what it is given
    assert seams() == [1, 3, 5, 5]
    assert seams(overlap_cond="first") == [1, 5, 5, 5]
    assert seams(overlap_cond="last") == [1, 1, 5, 5]
    assert seams(overlap_cond="null", null={"label": 0}) == [1, 6, 10, 5]
    every = {"label": torch.tensor([1, 5, 5, 2, 3])}  # a row for each region
    row = graph.denoiser(model, cond=every).eps(torch.zeros(1, 1, 16), 0.5)[0, 0]
    assert [float(row[i]) for i in (0, 4, 8, 12)] == [1, 4, 7, 5]


def test_guidance_is_not_doubled_on_a_seam():
    graph, model = chain((1, 8), 3, 4), Denoiser(marked, VP(), "eps")
    guided = Guided(model, 3.0, null={"label": 0})
    same = {"label": torch.tensor([2, 2, 2])}
    row = graph.denoiser(guided, cond=same).eps(torch.zeros(1, 1, 16), 0.5)
    assert torch.allclose(row, torch.full_like(row, 6.0))
    differ = {"label": torch.tensor([2, 4, 4])}
    row = graph.denoiser(guided, cond=differ).eps(torch.zeros(1, 1, 16), 0.5)[0, 0]
    assert [float(row[i]) for i in (0, 4, 8)] == [6, 9, 12]


def test_conditions_of_a_run_go_to_all_regions_of_their_sample():
    graph, model = chain((1, 8), 3, 4), Denoiser(marked, VP(), "eps")
    label = torch.tensor([3, 7])
    collaged = graph.denoiser(model, max_batch=2)
    row = collaged.eps(torch.zeros(2, 1, 16), 0.5, label=label)
    assert torch.allclose(row, label.float()[:, None, None].expand_as(row))
    with collaged.begin(label=label) as run:
        run.take(torch.tensor([1, 1, 0]))
        row = run.ask(torch.zeros(3, 1, 16), VP().level(torch.tensor(0.5, dtype=F64)), "eps")
    assert row[:, 0, 0].tolist() == [7, 7, 3]


# --- state ---


class Stale:
    """A network that answers with what it was asked before: state of a run, by sample."""

    def __init__(self, seen=None):
        self.seen = seen

    @contextlib.contextmanager
    def begin(self):
        yield Stale()

    def take(self, index):
        if self.seen is not None:
            self.seen = self.seen[index]

    def __call__(self, x, t):
        old = torch.zeros_like(x) if self.seen is None else self.seen
        self.seen = x
        return 0.5 * old + 0.1 * x


@dataclasses.dataclass
class Swap:
    """A policy of two rows a sample that keeps the other one."""

    width: int = 2
    coupled: bool = False

    @contextlib.contextmanager
    def begin(self):
        yield self

    def __call__(self, law, model, wants, *, generator):
        pairs = torch.arange(len(law.mean)).reshape(-1, 2).flip(1).reshape(-1)
        noise = rd.sampling.normal(law.mean.shape, generator, dtype=law.mean.dtype)
        x = law.mean + law.scale.to(noise).reshape(()) * noise
        return NextState(x[pairs], pairs)

    def finish(self, x):
        return x[::2]


def test_pieces_that_keep_state_follow_selection_and_batch_splits():
    graph, process = chain((1, 8), 4, 4), VP()
    model = graph.denoiser(Denoiser(Stale(), process, "eps"))
    plan = rd.ddpm(process, timegrid(process, 6))
    options = {"shape": (4, *graph.shape), "policy": Swap(), "dtype": F64}

    def run(**more):
        generators = [generator(i) for i in range(4)]
        return rd.sample(model, plan, **options, **more, generator=generators)

    whole = run()
    assert torch.equal(whole, run())  # a run leaves nothing behind
    assert torch.allclose(whole, run(batch_size=1), atol=1e-12)
    fresh = rd.sample(model, plan, **{**options, "policy": None},
                      generator=[generator(i) for i in range(4)])  # fmt: skip
    assert not torch.allclose(whole, fresh)
    # one row each, twice over: without selection the state of every row is its own
    split = graph.denoiser(Denoiser(Stale(), process, "eps"), max_batch=5)
    one, two = (
        rd.sample(m, plan, shape=options["shape"], dtype=F64, generator=generator())
        for m in (model, split)
    )
    assert torch.allclose(one, two, atol=1e-12)
    with pytest.raises(ValueError, match="leave max_batch out"):
        rd.sample(split, plan, **options, generator=generator())


def test_selection_equals_the_selected_rows_run_alone():
    # ancestors gathered at once: every row follows row 1, whose stale activations it must inherit
    graph, process = chain((1, 8), 3, 4), VP()
    model = graph.denoiser(Denoiser(Stale(), process, "eps"))
    level = process.level(torch.tensor(0.5, dtype=F64))
    x = torch.randn(3, *graph.shape, generator=generator(), dtype=F64)
    with model.begin() as run:
        run.ask(x, level, "eps")
        run.take(torch.tensor([1, 1, 1, 1]))
        found = run.ask(x[:1].expand(4, -1, -1), level, "eps")
    with model.begin() as run:
        run.ask(x[1:2], level, "eps")
        alone = run.ask(x[:1], level, "eps")
    assert torch.allclose(found, alone.expand_as(found), atol=1e-12)


# --- given data ---


def test_replacement_returns_the_known_part_and_moves_the_rest():
    cov, graph = ar1(40, 0.9), chain((1, 16), 4, 8)
    known = torch.linspace(-1, 1, 40, dtype=F64)[None]
    mask = (torch.arange(40) < 10)[None]
    plan = rd.deis(rd.EDM(), timegrid(rd.EDM(), 12), end="denoise")
    free = collage(graph, cov)
    given = collage(graph, cov, known=known, mask=mask)
    x, y = (
        rd.sample(m, plan, shape=(3, 1, 40), dtype=F64, generator=generator())
        for m in (free, given)
    )
    assert torch.allclose(y[..., :10], known[:, :10].expand(3, 1, 10), atol=1e-12)
    assert (y - x)[..., 10:13].abs().min() > 0
    # given by sample, as conditions of the run
    by_sample = rd.denoise.Inpaint(free)
    cond = {"known": known.expand(3, 1, 40) * torch.tensor([1, 2, 3])[:, None, None],
            "mask": mask.expand(3, 1, 40)}  # fmt: skip
    z = rd.sample(by_sample, plan, shape=(3, 1, 40), dtype=F64, cond=cond, batch_size=2,
                  generator=[generator(i) for i in range(3)])  # fmt: skip
    assert torch.allclose(z[..., :10], cond["known"][..., :10], atol=1e-12)


def test_reconstruction_meets_one_known_site_at_once_and_never_moves_away():
    cov, graph = ar1(40, 0.9), chain((1, 16), 4, 8)
    model = collage(graph, cov)
    x = 3 * torch.randn(2, 1, 40, generator=generator(), dtype=F64)
    known = torch.linspace(-1, 1, 40, dtype=F64)[None]
    one = (torch.arange(40) == 11)[None]
    given = rd.denoise.Inpaint(model, known, one, fill="reconstruction")
    before, after = model.x0(x, 3.0), given.x0(x, 3.0)
    assert torch.allclose(after[..., 11], known[..., 11].expand(2, 1), atol=1e-10)
    assert (after - before)[..., 8:15].abs().min() > 1e-3  # neighbours are drawn along
    assert torch.equal(given.x0(x, 0.5), model.x0(x, 0.5))  # below `low` nothing is done
    some = (torch.arange(40) % 3 == 0)[None]
    given = rd.denoise.Inpaint(model, known, some, fill="reconstruction")
    miss = [(some * (m.x0(x, 3.0) - known)).square().sum((1, 2)) for m in (model, given)]
    assert (miss[1] < miss[0]).all()


def test_clipping_acts_after_the_sum():
    # pieces predict 1, overlaps -1: the sum, 3, is clipped; clipping first would leave it
    graph = chain((1, 8), 2, 4)
    piece, half = (
        Denoiser(lambda x, t, v=v: torch.full_like(x, v), VP(), "x0") for v in (1.0, -1.0)
    )
    x = torch.zeros(1, 1, 12)
    assert graph.denoiser(piece, half).x0(x, 0.5)[0, 0, 4:8].tolist() == [3] * 4
    assert (
        graph.denoiser(piece, half, clip=2.0).x0(x, 0.5)[0, 0].tolist()
        == [1] * 4 + [2] * 4 + [1] * 4
    )


def test_outpainting_keeps_what_is_there():
    graph = chain((1, 16), 4, 8)
    model = Denoiser(lambda x, t: 0.3 * torch.tanh(x.cumsum(-1)), VP(), "eps")
    plan = rd.deis(VP(), timegrid(VP(), 8))
    seen = []
    row = outpaint(graph, model, plan, batch=2, generator=generator(),
                   callback=lambda i, canvas: seen.append(canvas.clone()))  # fmt: skip
    first = rd.sample(model, plan, shape=(2, 1, 16), generator=generator())
    assert torch.equal(seen[0][..., :16], first)
    for i, canvas in enumerate(seen):
        done = 16 + 8 * i
        assert torch.equal(canvas[..., :done], row[..., :done])
        assert (canvas[..., done:] == 0).all()
    other = outpaint(graph, model, plan, batch=2, fill="reconstruction", generator=generator())
    assert torch.equal(other[..., :16], first)
    assert not torch.equal(other, row)


def test_seams_are_counted_where_windows_end_also_around_the_corner():
    for graph in (chain((1, 8), 6, 4), ring((1, 8), 7, 4)):
        n = graph.canvas[0]
        white = torch.randn(4000, *graph.shape, generator=generator(), dtype=F64)
        assert abs(float(seam_ratio(white, graph).mean()) - 1) < 0.15
        # a step up at site 8, where window 0 ends, and down at the end of the row
        stepped = white + 5 * (torch.arange(n) >= 8)
        jumps = 2 + 25, 2.0
        ends, closing = (n // 4 - 2, 0) if graph.name == "chain" else (n // 4 - 1, 1)
        wanted = (jumps[0] * (1 + closing) + jumps[1] * (ends - 1 - closing)) / ends / 2
        assert float(seam_ratio(stepped, graph).median()) == pytest.approx(wanted, rel=0.25)


# --- bad input ---


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: chain((1, 8), 3, 8), "overlap=8 must be .* below the window of 8; the nearest is 7"),
        (lambda: chain((1, 8), 3, [2]), "expected one for each of the 2 meetings"),
        (lambda: chain((8,), 3, 2), "at least two numbers"),
        (lambda: chain((1, 8), 3, 2, axis=0), "channels at axis 0"),
        (lambda: chain((1, 8), 0, 2), "count must be at least 1"),
        (lambda: chain((1, 8), 2, 4, counting="kikuch"), "Did you mean 'kikuchi'"),
        (lambda: ring((1, 8), 1, 4), "use at least 3 windows"),
        (lambda: ring((1, 8), 2, 4), "use at least 3 windows"),
        (lambda: ring((1, 8), 2, 2), "use at least 3 windows"),
        (lambda: ring((1, 8), 6, 6), "use at least 7 windows"),
        (lambda: grid((1, 8, 8), (2,), 2), "one number for each of the 2 axes"),
        (lambda: windows((1, 8), (20,), [[0], [10]]),
         r"4 of 20 sites, the first at \(8,\), are covered by no window"),
        (lambda: windows((1, 8), (20,), [[0], [8], [13]]), "the nearest valid start is 12"),
        (lambda: windows((1, 8), (6,), [[0]]), "larger than the canvas"),
        (lambda: windows((1, 8), (12,), [[0], [4], [4]]), "windows 1 and 2 cover the same sites"),
        (lambda: windows((1, 4, 4), (8, 4), [[0, 0], [4, 0]], counting="avg"), "Options: kikuchi"),
        (lambda: tree([(0, 1), (1, 2), (2, 0)]), "close a loop"),
        (lambda: tree([(0, 1), (3, 1)]), "1 of 4 sites"),
        (lambda: tree([]), "at least one group"),
        (lambda: cubemap((3, 8, 6)), "the piece of a cubemap"),
        (lambda: cubemap((3, 8, 8), overlap=5), "the nearest overlap that does is"),
    ],
)  # fmt: skip
def test_a_layout_that_cannot_be_names_the_way_out(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_denoiser_that_does_not_fit_is_refused():
    graph, model = chain((1, 8), 3, 4), Denoiser(smooth, VP(), "eps")
    given, x = Denoiser(marked, VP(), "eps"), torch.zeros(1, 1, 16)
    cases = [
        (lambda: graph.denoiser(model, Denoiser(smooth, VP(0.2), "eps")), "overlap's process"),
        (lambda: graph.denoiser(model, process=rd.EDM()), "the canvas's process"),
        (lambda: graph.denoiser(Denoiser(smooth, Blur((8,)), "eps")), r"give the canvas's own as process="),
        (lambda: graph.denoiser(Denoiser(smooth, Blur((8,)), "eps"), process=Blur((16,))),
         r"modes \(8,\), but a region is \(4,\)"),
        (lambda: graph.denoiser(Denoiser(smooth, Blur((8,)), "eps"), process=Blur((15,))),
         r"expected the canvas's \(16,\)"),
        (lambda: graph.denoiser(given, cond={"label": torch.zeros(4)}),
         "expected one per piece, 3, or one per region, 5"),
        (lambda: graph.denoiser(given, cond={"label": torch.zeros(3)}, overlap_cond="null"),
         "needs the value of 'label'"),
        (lambda: graph.denoiser(given, cond={"label": torch.zeros(3)}, overlap_cond="nul"),
         "Did you mean 'null'"),
        (lambda: graph.denoiser(given, cond={"label": torch.zeros(3)}).eps(x, 0.5, label=torch.zeros(1)),
         "give it once"),
        (lambda: graph.denoiser(model).eps(torch.zeros(1, 1, 15), 0.5), r"expected \(B, 1, 16\)"),
        (lambda: graph.denoiser(model, max_batch=0), "max_batch must be at least 1"),
        (lambda: graph.denoiser(model, clip=-1.0), "clip must be positive"),
        (lambda: graph.denoiser(model, known=torch.zeros(1, 16)).eps(x, 0.5),
         "needs 'mask'"),
        (lambda: graph.denoiser(model, known=torch.zeros(9), mask=torch.ones(9)).eps(x, 0.5),
         "do not broadcast"),
        (lambda: graph.denoiser(model, known=torch.zeros(16), mask=torch.ones(16), fill="replace"),
         "Did you mean 'replacement'"),
    ]  # fmt: skip
    for make, message in cases:
        with pytest.raises(ValueError, match=message):
            make()
