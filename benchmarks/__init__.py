"""Timings and figures, apart from the tests: `python -m benchmarks NAME` writes JSON and a plot.

A benchmark is a module of this folder with `run(quick: bool) -> dict`, whose result is JSON, and
`plot(result, path)`, which draws it. Compare ratios within one run, never seconds across machines.
"""

SEED = 0
