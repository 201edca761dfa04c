"""`particles` beside ours: its bootstrap and guided filters, its throughput, and the series it ships.

It pins numpy below 2, so it runs in a Python of its own, named by REDRIFT_PARTICLES, in processes of one
thread; data go in and results come out as JSON.
"""

import json
import math
import os
import subprocess

import torch

from redrift.filters import GaussianPrior, StateSpace

SPEED = """
import sys, time, numpy as np, particles
from particles import state_space_models as ssm, distributions as dists
d, n, K = (int(v) for v in sys.argv[1:4])
class M(ssm.StateSpaceModel):
    def PX0(self): return dists.Normal() if d == 1 else dists.MvNormal(loc=np.zeros(d))
    def PX(self, t, xp):
        return dists.Normal(.9 * xp) if d == 1 else dists.MvNormal(loc=.9 * xp, cov=np.eye(d))
    def PY(self, t, xp, x):
        return dists.Normal(x) if d == 1 else dists.MvNormal(loc=x, cov=np.eye(d))
class I(ssm.StateSpaceModel):
    def PX0(self): return dists.IndepProd(*[dists.Normal() for _ in range(d)])
    def PX(self, t, xp):
        return dists.IndepProd(*[dists.Normal(.9 * xp[:, i]) for i in range(d)])
    def PY(self, t, xp, x):
        return dists.IndepProd(*[dists.Normal(x[:, i]) for i in range(d)])
model = I() if len(sys.argv) > 4 else M()
y = [np.zeros((1, d)) if len(sys.argv) > 4 else np.zeros(d) if d > 1 else 0. for _ in range(K)]
best = 9e9
for _ in range(3):
    pf = particles.SMC(fk=ssm.Bootstrap(ssm=model, data=y), N=n, resampling='systematic')
    s = time.process_time(); pf.run(); best = min(best, time.process_time() - s)
print(n * K / best / 1e6)
"""

FILTER = """
import json, sys, time, numpy as np, particles
from particles import state_space_models as ssm, distributions as dists
from particles.collectors import Moments
told = json.load(sys.stdin)
class Linear(ssm.StateSpaceModel):
    def start(self):
        F, Q, R, H = (np.array(told[k]) for k in ('F', 'Q', 'R', 'H'))
        self.F, self.Q, self.R, self.H = F, Q, R, H
        self.first = F @ F.T + Q
        self.pull = []
        for C in (self.first, Q):
            cov = np.linalg.inv(np.linalg.inv(C) + H.T @ np.linalg.inv(R) @ H)
            self.pull.append((cov, np.linalg.inv(C), H.T @ np.linalg.inv(R)))
        return self
    def PX0(self): return dists.MvNormal(loc=np.zeros(len(self.F)), cov=self.first)
    def PX(self, t, xp): return dists.MvNormal(loc=xp @ self.F.T, cov=self.Q)
    def PY(self, t, xp, x): return dists.MvNormal(loc=x @ self.H.T, cov=self.R)
    def near(self, which, mean, y):
        cov, back, gain = self.pull[which]
        return dists.MvNormal(loc=(mean @ back.T + gain @ np.ravel(y)) @ cov.T, cov=cov)
    def proposal0(self, data): return self.near(0, np.zeros(len(self.F)), data[0])
    def proposal(self, t, xp, data): return self.near(1, xp @ self.F.T, data[t])
class Counts(ssm.StateSpaceModel):
    def PX0(self): return dists.Normal(scale=told['sigma'] / np.sqrt(1 - told['rho'] ** 2))
    def PX(self, t, xp): return dists.Normal(loc=told['rho'] * xp, scale=told['sigma'])
    def PY(self, t, xp, x): return dists.Binomial(n=50, p=1 / (1 + np.exp(-x)))
kind = told['model']
model = {'linear': lambda: Linear().start(), 'counts': Counts,
         'volatility': lambda: ssm.StochVol(mu=told['mu'], rho=told['rho'], sigma=told['sigma'])}[kind]()
fk = getattr(ssm, told['filter'])
means, log_z, cost = [], [], 0.
for y in told['y']:
    y = np.array(y)
    data = [v for v in y] if kind == 'linear' else y[:, 0]
    pf = particles.SMC(fk=fk(ssm=model, data=data), N=told['N'], resampling='systematic',
                       collect=[Moments()])
    s = time.process_time(); pf.run(); cost += time.process_time() - s
    means.append([np.atleast_1d(m['mean']).tolist() for m in pf.summaries.moments])
    log_z.append(float(pf.logLt))
print(json.dumps({'mean': means, 'log_z': log_z, 'ms': 1e3 * cost / len(told['y']) / len(told['y'][0])}))
"""

SERIES = """
import json
from particles import datasets as dts
print(json.dumps({'volatility': dts.GBP_vs_USD_9798().data.tolist(), 'counts': dts.Neuro().data.tolist()}))
"""


def there():
    """Return the Python that has `particles`, or None."""
    return os.environ.get("REDRIFT_PARTICLES")


def _ask(code, *arguments, told=None):
    done = subprocess.run(
        [there(), "-c", code, *(str(a) for a in arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        input=None if told is None else json.dumps(told), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def speed(d, n, steps, independent=False):
    """Return million particle-steps a second of its bootstrap."""
    return _ask(SPEED, d, n, steps, *(["independent"] if independent else []))


def linear(model, y, n, kind):
    """Return means, log-evidence and ms per measurement of its filter `kind` on a linear model."""
    F, _, G = model.matrices(model.dt, y)
    sensor = model.parts[0]
    told = {
        "model": "linear", "filter": kind, "N": n, "y": y.tolist(), "F": F.tolist(),
        "Q": (G @ G.mT).tolist(), "H": sensor.h.tolist(), "R": sensor.R().tolist(),
    }  # fmt: skip
    return _ask(FILTER, told=told)


def series():
    """Return the two real series as (name, model, y (K, 1), what `particles` has to know)."""
    data = _ask(SERIES)

    def volatility(y, x, t):
        return -0.5 * (math.log(2 * math.pi) + x[..., 0] + y[..., 0] ** 2 * (-x[..., 0]).exp())

    def counts(y, x, t):
        k, p = y[..., 0], x[..., 0]
        chosen = math.lgamma(51) - torch.lgamma(k + 1) - torch.lgamma(51 - k)
        return chosen + k * p - 50 * torch.nn.functional.softplus(p)

    for name, law, mu, rho, sigma, count in (
        ("volatility", volatility, -1.02, 0.9702, 0.178, 750),
        ("counts", counts, 0.0, 0.99, 0.3, 500),
    ):
        one = torch.ones(1, 1).double()
        prior = GaussianPrior(mu * one[0], sigma**2 / (1 - rho**2) * one)
        model = StateSpace(
            prior, rho * one, sigma * one, 1.0, log_obs=law, offset=mu * (1 - rho) * one[0],
            time="discrete",
        )  # fmt: skip
        y = torch.tensor(data[name][:count]).double().unsqueeze(-1)
        yield name, model, y, {"model": name, "mu": mu, "rho": rho, "sigma": sigma}


def real(told, y, n, kind, repeats):
    """Return the log-evidences of `repeats` runs of its filter `kind`, and ms per measurement."""
    return _ask(FILTER, told={**told, "filter": kind, "N": n, "y": [y.tolist()] * repeats})
