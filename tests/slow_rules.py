"""Rules that other processes import by name."""

import os


def spread(sample):
    return float(sample.max() - sample.min())


def dies(sample):
    os._exit(3)
