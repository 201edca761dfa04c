"""Planted bugs of `sampling`."""

from planted import bug

BUGS = [
    bug(
        "the first generators for every part of a split batch",
        "sampling:sample",
        "rows.start, rows.stop",
        "0, rows.stop - rows.start",
        "test_sampling.py::test_a_sample_does_not_depend_on_the_batch_split[ddpm]",
    ),
    bug(
        "a state of half precision",
        "sampling:_first",
        "torch.promote_types(x.dtype, torch.float32)",
        "x.dtype",
        "test_sampling.py::test_the_state_is_never_below_single_precision",
    ),
    bug(
        "no check that the state is finite",
        "sampling:_run",
        "not math.isfinite(float(state.sum()))",
        "False",
        "test_sampling.py::test_a_network_that_returns_nan_is_stopped_at_its_step_and_time",
    ),
]
