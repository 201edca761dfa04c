"""Collages of Gaussian Markov fields against closed forms: what is exact, and how inexact the rest is."""

import math

import pytest
import torch

import redrift as rd
from collages import (
    F64,
    ar1,
    ar2,
    bethe_precision,
    collage,
    grid_field,
    kl,
    matrix,
    recursion,
    ring_field,
)  # fmt: skip
from redrift.collage import (
    Graph,
    Region,
    chain,
    cubemap,
    grid,
    ring,
    torus,
    tree,
    windows,
)
from redrift.collage.cubemap import directions, strips, to_equirectangular
from redrift.collage.layouts import box
from redrift.denoise import Denoiser
from redrift.process import EDM
from redrift.solvers import langevin_corrected
from redrift.solvers.free import FreeCoefficients

SIGMAS = (0.05, 0.5, 1.0, 2.0, 20.0)


def bricks(piece, rows, count, overlap):
    """A layout as CONTRIBUTING's walk adds one: rows of a wall, each shifted by half a piece, closed."""
    channels, height, width = piece
    canvas = (rows * (height - overlap) + overlap, count * width)
    starts = [
        (row * (height - overlap), (i * width + row % 2 * width // 2) % canvas[1])
        for row in range(rows)
        for i in range(count)
    ]
    laid = [
        Region(box(canvas, start, (height, width)), (height, width), 1.0, (i,), i)
        for i, start in enumerate(starts)
    ]
    return Graph.build(channels, canvas, laid, name="bricks", closed=(False, True))


GRAPHS = {
    "bricks": lambda: bricks((1, 5, 6), 3, 3, 2),
    "chain": lambda: chain((1, 8), 4, 3),
    "chain, wide overlaps": lambda: chain((1, 8), 6, 6),
    "chain, each overlap its own": lambda: chain((1, 9), 4, [1, 4, 7]),
    "chain, no overlap": lambda: chain((1, 5), 3, 0),
    "rows of a picture": lambda: chain((2, 3, 8), 3, 3),
    "columns of a picture": lambda: chain((2, 8, 3), 3, 5, axis=-2),
    "ring": lambda: ring((1, 8), 5, 3),
    "ring, wide overlaps": lambda: ring((1, 8), 8, 6),
    "grid": lambda: grid((1, 7, 6), (3, 2), (3, 2)),
    "grid, wide overlaps": lambda: grid((1, 7, 7), (4, 4), (5, 4)),
    "grid of volumes": lambda: grid((1, 3, 4, 3), (2, 2, 2), (1, 2, 1)),
    "torus": lambda: torus((1, 6, 7), (4, 4), (2, 3)),
    "tree": lambda: tree([(0, 1), (1, 2), (1, 3), (3, 4), (3, 5), (3, 6)]),
    "cliques": lambda: tree([(0, 1, 2), (1, 2, 3, 4), (2, 4, 5)]),
    "by hand": lambda: windows((1, 6), (21,), [[0], [3], [7], [11], [15]]),
    "by hand, around": lambda: windows((1, 6), (20,), [[0], [4], [8], [12], [16]], wrap=True),
    "cubemap": lambda: cubemap((2, 6, 6)),
    "cubemap, odd overlap": lambda: cubemap((1, 9, 9), overlap=3),
}


def graph_of(name, counting="kikuchi"):
    graph = GRAPHS[name]()
    return graph if counting == "kikuchi" else graph.recount(counting)


def exact_score(cov, sigma):
    return -torch.linalg.inv(cov + sigma**2 * torch.eye(len(cov), dtype=F64))


def relative(a, b):
    return float((a - b).norm() / b.norm())


def cube(a, b, c):
    return torch.kron(torch.kron(a, b), c)


def random_tree(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    edges = [(int(torch.randint(i, (), generator=g)), i) for i in range(1, n)]
    q = torch.diag(torch.full((n,), 0.3, dtype=F64))
    for i, j in edges:
        w = float(torch.rand((), generator=g)) + 0.2
        q[i, i] += w
        q[j, j] += w
        q[i, j] -= w
        q[j, i] -= w
    return edges, torch.linalg.inv(q)


# --- graphs ---


@pytest.mark.parametrize("counting", ["kikuchi", "bethe", "average", "gaussian", "independent"])
@pytest.mark.parametrize("name", GRAPHS)
def test_every_site_counts_once_under_every_scheme(name, counting):
    graph = graph_of(name, counting)
    assert torch.allclose(graph.weights(), torch.ones(math.prod(graph.canvas), dtype=F64),
                          rtol=0, atol=1e-12)  # fmt: skip
    assert [r.window for r in graph.regions[: graph.pieces]] == list(range(graph.pieces))


def test_counting_numbers_are_those_of_the_junction_tree_and_of_the_lattice():
    def numbers(graph):
        return sorted((r.shape, r.weight) for r in graph.overlaps)

    assert numbers(chain((1, 8), 3, 6)) == [((6,), -1.0)] * 2
    assert numbers(chain((1, 8), 3, 6, counting="bethe")) == [
        ((2,), -1.0), ((2,), -1.0), ((4,), -2.0),
    ]  # fmt: skip
    assert numbers(grid((1, 4, 4), (2, 2), 2)) == [
        ((2, 2), 1.0), ((2, 4), -1.0), ((2, 4), -1.0), ((4, 2), -1.0), ((4, 2), -1.0),
    ]  # fmt: skip
    star = tree([(0, 1), (0, 2), (0, 3), (0, 4)])
    assert numbers(star) == [((1,), -3.0)]
    assert len(ring((1, 8), 5, 3).overlaps) == 5


def test_the_graph_knows_whether_it_is_a_tree():
    trees = {"chain", "chain, wide overlaps", "chain, each overlap its own", "chain, no overlap",
             "rows of a picture", "columns of a picture", "tree", "cliques", "by hand"}  # fmt: skip
    for name in GRAPHS:
        graph = graph_of(name)
        assert graph.is_tree == (name in trees), name
        assert graph.is_exact_at_zero == (name in trees), name
    assert chain((1, 8), 4, 3, counting="bethe").is_exact_at_zero
    assert not chain((1, 8), 4, 6, counting="bethe").is_exact_at_zero
    assert not chain((1, 8), 4, 3, counting="average").is_exact_at_zero
    assert "exact as the noise vanishes" in str(graph_of("chain"))
    assert "loops" in str(graph_of("ring"))


# --- the sum itself ---


@pytest.mark.parametrize("counting", ["kikuchi", "bethe", "average", "gaussian"])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_collage_of_linear_networks_is_the_matrix_of_its_regions(name, counting):
    # sum_r c_r G_r' W_r G_r, with reading and writing by index and nothing of the denoiser
    graph = graph_of(name, counting)
    g = torch.Generator().manual_seed(1)
    c, sites = graph.channels, math.prod(graph.canvas)
    mats = [
        torch.randn(c * len(r.index), c * len(r.index), generator=g, dtype=F64)
        for r in graph.regions
    ]

    def net(x, t, region):
        rows = [w @ row.flatten() for w, row in zip((mats[i] for i in region.tolist()), x)]
        return torch.stack(rows).reshape(x.shape)

    dense = torch.zeros(c, sites, c, sites, dtype=F64)
    for r, w in zip(graph.regions, mats):
        weight = torch.as_tensor(r.weight, dtype=F64).expand(len(r.index))
        block = w.reshape(c, len(r.index), c, len(r.index)) * weight[None, :, None, None]
        for i in range(c):
            for j in range(c):
                dense[i][r.index[:, None], j, r.index] += block[i, :, j]
    model = graph.denoiser(Denoiser(net, EDM(), "eps"),
                           cond={"region": torch.arange(len(graph.regions))}, max_batch=7)  # fmt: skip
    x = torch.randn(2, *graph.shape, generator=g, dtype=F64)
    wanted = x.flatten(1) @ dense.reshape(c * sites, -1).T
    assert relative(model.eps(x, 1.0).flatten(1), wanted) < 1e-12


# --- exact as the noise vanishes ---


@pytest.mark.parametrize(
    "case",
    [
        lambda: (chain((1, 16), 7, 8), ar1(64, 0.9)),
        lambda: (chain((1, 16), 4, 1), ar1(61, 0.99)),
        lambda: (chain((1, 16), 5, 12), ar1(32, 0.9)),
        lambda: (chain((1, 9), 4, [1, 4, 7]), ar1(24, 0.9)),
        lambda: (chain((1, 16), 4, 2), ar2(58, 1.2, -0.5)),
        lambda: (chain((1, 8), 3, 3), ar2(18, 0.4, 0.4)),
        lambda: (grid((1, 6, 6), (3, 3), 3), torch.kron(ar1(12, 0.9), ar1(12, 0.9))),
        lambda: (grid((1, 6, 6), (4, 3), (4, 1)), torch.kron(ar1(12, 0.8), ar1(16, 0.9))),
        lambda: (grid((1, 3, 3, 3), (2, 2, 2), 1), cube(ar1(5, 0.9), ar1(5, 0.7), ar1(5, 0.8))),
    ],
    ids=["AR1", "AR1, overlap 1", "AR1, overlap beyond half", "AR1, uneven", "AR2, overlap 2",
         "AR2, overlap 3", "separable grid", "separable grid, uneven", "separable volume"],
)  # fmt: skip
def test_without_noise_a_field_whose_overlaps_separate_is_exact(case):
    graph, cov = case()
    found = matrix(collage(graph, cov), 0.0, len(cov), graph.shape)
    assert relative(found, exact_score(cov, 0.0)) < 1e-10


def test_without_noise_the_field_of_any_tree_is_exact():
    for seed in range(3):
        edges, cov = random_tree(14, seed)
        graph = tree(edges)
        found = matrix(collage(graph, cov), 0.0, 14, graph.shape)
        assert relative(found, exact_score(cov, 0.0)) < 1e-10


def test_an_overlap_shorter_than_the_memory_is_not_exact():
    cov, graph = ar2(61, 1.2, -0.5), chain((1, 16), 4, 1)
    found = matrix(collage(graph, cov), 0.0, 61, graph.shape)
    assert relative(found, exact_score(cov, 0.0)) > 0.03


def test_one_minus_degree_is_no_density_beyond_half_a_window_and_kikuchi_is():
    cov = ar1(32, 0.9)
    literal = chain((1, 16), 5, 12, counting="bethe")
    q = bethe_precision(literal, cov, 0.0)
    assert relative(-q, exact_score(cov, 0.0)) > 0.5
    assert torch.linalg.eigvalsh(q).min() < -0.3
    assert torch.linalg.eigvalsh(bethe_precision(literal.recount("kikuchi"), cov, 0.0)).min() > 0


# --- at every noise level ---


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize(
    "case",
    [
        lambda: (chain((1, 16), 7, 8), ar1(64, 0.99)),
        lambda: (chain((1, 16), 5, 12), ar1(32, 0.9)),
        lambda: (chain((1, 16), 4, 2), ar2(58, 1.2, -0.5)),
        lambda: (tree(random_tree(14)[0]), random_tree(14)[1]),
    ],
    ids=["AR1", "AR1, overlap beyond half", "AR2", "tree"],
)
def test_on_trees_the_pieces_have_their_exact_laws_and_the_error_is_the_information_left(
    case, sigma
):
    graph, cov = case()
    n = len(cov)
    q = -matrix(collage(graph, cov), sigma, n, graph.shape)
    noisy = cov + sigma**2 * torch.eye(n, dtype=F64)
    law = torch.linalg.inv(q)
    for r in graph.regions:
        block = law[r.index[:, None], r.index]
        assert relative(block, noisy[r.index[:, None], r.index]) < 1e-10
    assert abs(float((q @ noisy).diagonal().sum()) / n - 1) < 1e-10
    # sum over overlaps of I(earlier; new | overlap), each from entropies
    told, seen = 0.0, set(graph.windows[0].index.tolist())
    order = list(graph.windows[1:])

    def entropy(sites):
        sites = torch.tensor(sorted(sites), dtype=torch.long)
        return float(torch.linalg.slogdet(noisy[sites[:, None], sites])[1]) / 2

    while order:
        window = next(w for w in order if seen & set(w.index.tolist()))
        order.remove(window)
        sites = set(window.index.tolist())
        told += entropy(seen) + entropy(sites) - entropy(seen & sites) - entropy(seen | sites)
        seen |= sites
    distance = -float(torch.linalg.slogdet(q @ noisy)[1]) / 2
    assert abs(distance - told) < 1e-9 * max(1, n)
    assert distance > -1e-9


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0])
def test_the_missing_covariance_is_what_the_noisy_overlap_leaves_open(sigma):
    cov, graph = ar1(24, 0.95), chain((1, 16), 2, 8)
    q = -matrix(collage(graph, cov), sigma, 24, graph.shape)
    noisy = cov + sigma**2 * torch.eye(24, dtype=F64)
    a, s, c = torch.arange(8), torch.arange(8, 16), torch.arange(16, 24)

    def cut(m, i, j):
        return m[i[:, None], j]

    missing = cut(noisy, a, c) - cut(torch.linalg.inv(q), a, c)
    inner = cut(cov, s, s)
    left = inner - inner @ torch.linalg.solve(cut(noisy, s, s), inner)  # Cov(S_0 | S_sigma)
    formula = (
        cut(cov, a, s)
        @ torch.linalg.solve(inner, left)
        @ torch.linalg.solve(inner, cut(cov, s, c))
    )
    assert relative(missing, formula) < 1e-9
    assert formula.norm() > 1e-4


@pytest.mark.parametrize(("a", "sigma"), [(0.9, 1.0), (0.9, 0.2), (0.99, 0.2)])
def test_the_error_falls_geometrically_with_the_overlap(a, sigma):
    total = (1 - a * a) + sigma**2 * (1 + a * a)
    b = total / (a * sigma**2)
    theta = (b - math.sqrt(b * b - 4)) / 2
    assert theta**16 < 1e-3
    logs = []
    laps = (2, 3, 4)
    for o in laps:
        n = 32 - o
        cov = ar1(n, a)
        noisy = cov + sigma**2 * torch.eye(n, dtype=F64)
        q = bethe_precision(chain((1, 16), 2, o), cov, sigma)
        # log1p of the eigenvalues: the distance is far below rounding of a determinant near 1
        values = torch.linalg.eigvals(q @ noisy - torch.eye(n, dtype=F64)).real
        logs.append(math.log(-float(torch.log1p(values).sum()) / 2))
    slope = (logs[-1] - logs[0]) / (laps[-1] - laps[0])
    assert abs(slope / (2 * math.log(theta)) - 1) < 0.02


def test_the_score_errors_of_the_published_chain():
    # a = .9, w = 16, o = 8, n = 64: relative squared error of collage and average
    cov, graph = ar1(64, 0.9), chain((1, 16), 7, 8)
    table = {
        0.5: (5e-8, 1.3e-2),
        1.0: (2.7e-5, 8.5e-3),
        2.0: (3.6e-4, 4.4e-3),
        5.0: (2.8e-4, 8.4e-4),
    }
    for sigma, wanted in table.items():
        for counting, value in zip(("kikuchi", "average"), wanted):
            assert squared_error(graph.recount(counting), cov, sigma) == pytest.approx(
                value, rel=0.1
            )


def squared_error(graph, cov, sigma):
    """E |s_agg - s|^2 / E |s|^2 under the noisy law."""
    noisy = cov + sigma**2 * torch.eye(len(cov), dtype=F64)
    exact = torch.linalg.inv(noisy)
    gap = bethe_precision(graph, cov, sigma) - exact
    return float((gap @ noisy * gap).sum() / exact.diagonal().sum())


@pytest.mark.parametrize("sigma", [1e-3, 1.0, 5.0])
@pytest.mark.parametrize("field", ["lattice", "separable"])
def test_on_grids_kikuchi_is_better_than_averaging_and_a_density(field, sigma):
    cov = grid_field(24, 0.05) if field == "lattice" else torch.kron(ar1(24, 0.9), ar1(24, 0.9))
    graph = grid((1, 8, 8), (5, 5), 4)
    ours = squared_error(graph, cov, sigma)
    assert ours < squared_error(graph.recount("average"), cov, sigma) / 2
    assert torch.linalg.eigvalsh(bethe_precision(graph, cov, sigma)).min() > 0
    literal = bethe_precision(graph.recount("bethe"), cov, sigma)
    if sigma <= 1 and field == "lattice":
        assert torch.linalg.eigvalsh(literal).min() < 0


@pytest.mark.parametrize(("a", "most"), [(0.7, 1e-8), (0.9, 4e-4), (0.99, 7e-3)])
def test_a_ring_errs_by_the_correlation_once_around(a, most):
    graph = ring((1, 16), 8, 8)
    cov = ring_field(64, a)
    q = bethe_precision(graph, cov, 0.0)
    gap = relative(-q, exact_score(cov, 0.0))
    assert gap < most
    assert gap > 1e-12
    assert torch.linalg.eigvalsh(q).min() > 0


def test_the_score_of_a_collage_is_conservative_and_an_average_is_not():
    cov = ar1(40, 0.9)
    for counting in ("kikuchi", "bethe"):
        for sigma in (0.0, 1.0):
            m = matrix(collage(chain((1, 16), 4, 8, counting=counting), cov), sigma, 40, (1, 40))
            assert relative(m, m.T) < 1e-12
    m = matrix(collage(chain((1, 16), 4, 8, counting="average"), cov), 0.0, 40, (1, 40))
    assert relative(m, m.T) > 0.05


# --- rings, tori, cubes ---


def test_a_ring_without_correlation_across_its_cut_is_the_chain():
    n, half = 40, 8
    i = torch.arange(n)
    cov = torch.eye(n, dtype=F64) + 0.4 * ((i[:, None] - i).abs() == 1)  # ends are independent
    closed, open_ = ring((1, 16), 5, half), chain((1, 16), 4, half)
    for sigma in (0.0, 0.7):
        one = matrix(collage(closed, cov), sigma, n, (1, n))
        two = matrix(collage(open_, cov), sigma, n, (1, n))
        assert relative(one, two) < 1e-12


def smooth(x, t):
    return torch.tanh(x.cumsum(-1) / 3) + 0.1 * x.flip(-1)


@pytest.mark.parametrize(
    ("layout", "shift", "axes"),
    [(lambda: ring((1, 8), 5, 3), 5, -1), (lambda: torus((1, 6, 6), (4, 5), (2, 3)), (4, 6), (-2, -1)),
     (lambda: ring((1, 8), 5, 3, counting="average"), 10, -1)],
    ids=["ring", "torus", "ring, averaged"],
)  # fmt: skip
def test_a_closed_collage_commutes_with_a_shift_by_its_stride(layout, shift, axes):
    graph = layout()
    model = graph.denoiser(Denoiser(smooth, EDM(), "eps"))
    x = torch.randn(2, *graph.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    assert torch.allclose(model.eps(x.roll(shift, axes), 1.0), model.eps(x, 1.0).roll(shift, axes),
                          atol=1e-12)  # fmt: skip


def test_the_order_of_the_windows_does_not_matter():
    starts = [[0], [3], [7], [11], [15]]
    x = torch.randn(2, 1, 21, generator=torch.Generator().manual_seed(0), dtype=F64)
    for counting in ("kikuchi", "average"):
        results = [
            windows((1, 6), (21,), order, counting=counting)
            .denoiser(Denoiser(smooth, EDM(), "eps")).eps(x, 1.0)
            for order in (starts, starts[::-1])
        ]  # fmt: skip
        assert torch.allclose(*results, atol=1e-12)


@pytest.mark.parametrize("n", [4, 9, 32])
def test_the_strips_of_a_cubemap_are_continuous_on_the_sphere(n):
    look = directions(n).reshape(-1, 3)
    look = look / look.norm(dim=-1, keepdim=True)
    for strip, axis in zip(strips(n), (1, 0, 1)):
        seen = look[strip.reshape(-1)].reshape(*strip.shape, 3)
        assert (seen - seen.roll(1, axis)).norm(dim=-1).max() < 2 / n
        assert (seen.diff(dim=1 - axis)).norm(dim=-1).max() < 2 / n
        assert len(set(strip.flatten().tolist())) == 4 * n * n


def test_a_cubemap_unrolls_to_what_each_direction_sees():
    n = 32
    look = directions(n)
    look = (look / look.norm(dim=-1, keepdim=True)).movedim(-1, 0)[None]
    flat = to_equirectangular(look, height=48)[0]
    latitude = (0.5 - (torch.arange(48, dtype=F64) + 0.5) / 48) * math.pi
    longitude = ((torch.arange(96, dtype=F64) + 0.5) / 48 - 1) * math.pi
    a, b = torch.meshgrid(latitude, longitude, indexing="ij")
    wanted = torch.stack((a.cos() * b.sin(), a.sin(), a.cos() * b.cos()))
    assert (flat - wanted).abs().max() < 1 / n
    # the ends of the row meet
    assert (flat[..., 0] - flat[..., -1]).abs().max() < 2 * math.pi / 96 + 1 / n


def test_every_face_of_a_cubemap_is_in_two_rings_and_taken_off_once():
    graph = cubemap((1, 8, 8))
    degree = torch.zeros(6 * 64, dtype=F64)
    for region in graph.regions:
        if region.shape == (8, 8) and region.window is None:
            assert region.weight == -1
            degree[region.index] += 1
    assert torch.equal(degree, torch.ones_like(degree))


# --- what a sampler makes of it: the covariance of the generated law in closed form ---


@pytest.fixture(scope="module")
def far():
    """AR(1), a = .99, w = 16, o = 8, n = 64."""
    return ar1(64, 0.99), rd.timegrid(EDM(), 60, start=80.0, stop=1e-3)


def chained(cov, overlap, counting="kikuchi"):
    count = (len(cov) - overlap) // (16 - overlap)
    return collage(chain((1, 16), count, overlap, counting=counting), cov)


def distance(model, plan, cov):
    return kl(recursion(model, plan, model.graph.shape), cov)


def test_the_generated_law_is_as_far_as_published_and_correctors_repair_it(far):
    cov, times = far
    model, ode = chained(cov, 8), rd.heun(EDM(), times)
    sde = rd.exponential_sde(EDM(), rd.timegrid(EDM(), 500, start=80.0, stop=1e-3), order=1)
    assert distance(model, ode, cov) < 3.36 * 1.1
    assert distance(model, sde, cov) < 0.88 * 1.1
    assert distance(model, langevin_corrected(ode, 0, churn=25), cov) < 0.605 * 1.1
    found = [distance(model, langevin_corrected(ode, k), cov) for k in (1, 4, 16)]
    assert found[0] < 0.55 * 1.1
    assert found[1] < 0.089 * 1.1
    assert found[2] < 0.01
    # averaging cannot be repaired
    assert distance(chained(cov, 8, "average"), langevin_corrected(ode, 16), cov) > 1


def test_collage_below_average_below_independent_and_below_a_shorter_overlap():
    times = rd.timegrid(EDM(), 60, start=80.0, stop=1e-3)
    ode = rd.heun(EDM(), times)
    sde = rd.exponential_sde(EDM(), rd.timegrid(EDM(), 1000, start=80.0, stop=1e-3), order=1)
    for a, most in ((0.9, (0.064, 0.0105)), (0.99, (3.36, 0.88))):
        cov = ar1(64, a)
        laws = [distance(chained(cov, 8, kind), ode, cov)
                for kind in ("kikuchi", "average", "independent")]  # fmt: skip
        assert laws == sorted(laws)
        assert laws[0] < most[0] * 1.1
        random = distance(chained(cov, 8), sde, cov)
        assert random < laws[0]
        assert random < most[1] * 1.1
        assert laws[0] < distance(chained(cov, 4), ode, cov)


def test_a_langevin_step_costs_one_evaluation_whatever_the_plan_corrects():
    short, long = rd.timegrid(rd.VP(), 6), rd.best_plan(rd.VP(), 24)
    calibrated = long.rebuilt(rule=FreeCoefficients(long.rule, (0.1,) * long.steps))
    for plan in (long, calibrated, rd.deis(rd.VP(), short, order=2, corrector=True)):
        assert langevin_corrected(plan, 3).evaluations == 4 * plan.steps
        assert langevin_corrected(plan, 0) == plan


def test_correctors_leave_a_right_law_right_on_every_process():
    # an exact model, started in its own law: the variance stays within the step's own bias
    for process in (rd.VP(), rd.EDM(), rd.Flow(), rd.CLD()):
        model = rd.denoise.Gaussian(torch.zeros(1, dtype=F64), 0.5, process)
        plan = rd.deis(process, rd.timegrid(process, 40), order=1)
        found = {}
        for name, made in (("plain", plan), ("corrected", langevin_corrected(plan, 3, size=0.1))):
            x = rd.sample(model, made, shape=(10_000, 1), dtype=F64,
                          generator=torch.Generator().manual_seed(0))  # fmt: skip
            found[name] = float(x.std())
            assert made.evaluations == 40 * (1 if name == "plain" else 4)
        assert found["plain"] == pytest.approx(0.5, rel=0.1)
        assert found["corrected"] == pytest.approx(0.5, rel=0.05), process


def test_regions_whose_weights_do_not_sum_to_one_are_refused():
    a, b = (Region(torch.arange(s, s + 4), (4,), 1.0, (i,), i) for i, s in enumerate((0, 2)))
    with pytest.raises(ValueError, match=r"sum to 2 at site \(2,\).*expected 1"):
        Graph(1, (6,), (a, b), (a, b), "kikuchi")
