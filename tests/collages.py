"""Gaussian fields, their exact pieces, and the closed forms a collage of them is held to."""

import torch

from redrift.denoise import Denoiser
from redrift.process import EDM
from redrift.solvers import Ask, NextState, walk

F64 = torch.float64


def ar1(n, a):
    """Covariance of a stationary AR(1) of unit variance."""
    i = torch.arange(n, dtype=F64)
    return a ** (i[:, None] - i).abs()


def ar2(n, a, b):
    """Covariance of a stationary AR(2), x_i = a x_{i-1} + b x_{i-2} + noise, of unit variance."""
    r = torch.ones(n, dtype=F64)
    r[1] = a / (1 - b)
    for k in range(2, n):
        r[k] = a * r[k - 1] + b * r[k - 2]
    i = torch.arange(n)
    return r[(i[:, None] - i).abs()]


def ring_field(n, a):
    """Covariance of the ring whose precision is (1 + a^2) on the diagonal and -a beside it."""
    eye = torch.eye(n, dtype=F64)
    shift = eye.roll(1, 0)
    return torch.linalg.inv((1 + a * a) * eye - a * (shift + shift.T))


def grid_field(n, kappa):
    """Covariance of the lattice field with precision kappa + graph Laplacian, unit mean variance."""
    line = torch.diag(torch.full((n,), 2.0, dtype=F64))
    line[0, 0] = line[-1, -1] = 1
    off = torch.diag(torch.ones(n - 1, dtype=F64), 1)
    line = line - off - off.T
    eye = torch.eye(n, dtype=F64)
    cov = torch.linalg.inv(kappa * torch.eye(n * n, dtype=F64) + torch.kron(line, eye)
                           + torch.kron(eye, line))  # fmt: skip
    return cov / cov.diagonal().mean()


class Pieces:
    """The exact network of every region of a graph: row r is told which region it is."""

    def __init__(self, graph, cov):
        kinds = {}
        for r, region in enumerate(graph.regions):
            kinds.setdefault(len(region.index), []).append(r)
        self.row = torch.zeros(len(graph.regions), dtype=torch.long)
        self.eigen = {}
        for size, members in kinds.items():
            index = torch.stack([graph.regions[r].index for r in members])
            self.eigen[size] = torch.linalg.eigh(cov[index[:, :, None], index[:, None, :]])
            self.row[members] = torch.arange(len(members))

    def __call__(self, x, t, region):
        """Return the score at noise level t."""
        flat = x.reshape(len(x), -1, 1)
        row = self.row[region]
        values, vectors = (part[row].to(x) for part in self.eigen[flat.shape[1]])
        turned = vectors.mT @ flat / (values + t.reshape(-1, 1) ** 2)[..., None]
        return -(vectors @ turned).reshape(x.shape)


def collage(graph, cov, **options):
    """The collage of the exact regions of N(0, cov), under EDM's noise."""
    net = Denoiser(Pieces(graph, cov), EDM(), "score")
    region = torch.arange(len(graph.regions))
    return graph.denoiser(net, cond={"region": region}, **options)


def matrix(model, t, n, shape):
    """Return the linear map of a model's score at time t, (n, n): score = M u."""
    eye = torch.eye(n, dtype=F64).reshape(n, *shape)
    return model.score(eye, t).reshape(n, n).T


def bethe_precision(graph, cov, sigma):
    """Return Q_B = sum_r c_r (cov_rr + sigma^2)^-1, built densely and independently."""
    n = len(cov)
    q = torch.zeros(n, n, dtype=F64)
    for r in graph.regions:
        block = cov[r.index][:, r.index] + sigma**2 * torch.eye(len(r.index), dtype=F64)
        weight = torch.as_tensor(r.weight, dtype=F64)
        weight = weight[:, None] if weight.ndim else weight
        q[r.index[:, None], r.index] += weight * torch.linalg.inv(block)
    return q


def kl(p, q):
    """KL of N(0, p) from N(0, q)."""
    solved = torch.linalg.solve(q, p)
    return float(solved.diagonal().sum() - len(p) - torch.linalg.slogdet(solved)[1]) / 2


@torch.no_grad()
def recursion(model, plan, shape):
    """Return the covariance that a plan without history generates, in closed form."""
    n = 1
    for size in shape:
        n *= size
    cov = plan.process.cov(plan.times[0]).reshape(()) * torch.eye(n, dtype=F64)
    eye = torch.eye(n, dtype=F64).reshape(n, *shape)
    with model.begin() as run:
        for row in plan.rows:
            steps, answer, noise = walk([row], eye, history=0), None, 0.0
            while True:
                try:
                    request = steps.send(answer)
                except StopIteration as stop:
                    move = stop.value.reshape(n, n)  # row i is the image of e_i
                    break
                if isinstance(request, Ask):
                    answer = run.ask(request.z, request.level, plan.wants)
                else:
                    answer, noise = NextState(request.mean), float(request.scale.reshape(()))
            cov = move.T @ cov @ move + noise**2 * torch.eye(n, dtype=F64)
    return cov
