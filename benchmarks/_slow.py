"""A slow rule in pure Python, which other processes import by name."""

from redrift.guidance.rules import regions


def busy(sample):
    """Return how far the regions of a picture (C, H, W) are from one, over four thresholds."""
    bright = sample.mean(0)
    return sum(abs(regions(bright > level / 4 - 0.5) - 1) for level in range(4)) / 4
