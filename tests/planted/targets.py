"""Planted bugs of `targets`."""

from planted import bug

BUGS = [
    bug(
        "a funnel of standard deviation nine",
        "targets.synthetic:Funnel.sample",
        "math.sqrt(self.variance)",
        "self.variance",
        "test_targets.py::test_samples_are_those_of_the_density[funnel]",
    ),
    bug(
        "the Cox process's spread without its half",
        "targets.cox:Cox.gaussian",
        "spread / 2",
        "spread",
        "test_targets.py::test_coordinates_of_the_cox_process_are_one_density",
    ),
]
