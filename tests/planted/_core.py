"""Planted bugs of `_core`."""

from planted import bug

BUGS = [
    bug(
        "a column of a table taken for a number",
        "_core.linalg:product",
        "_plain(result) and _plain(table)",
        "table.shape[-1] == 1",
        "test_oracles.py::test_the_score_is_the_gradient_of_the_density[0.5-Spring]",
    ),
    bug(
        "a cosine transform that is not orthonormal",
        "_core.dct:matrix",
        "math.sqrt(2)",
        "2",
        "test_conversions.py::test_every_reading_of_an_oracle_is_consistent[Melt]",
    ),
    bug(
        "one stream for a list of generators",
        "_core.rng:normal",
        "=g, dtype=",
        "=generator[0], dtype=",
        "test_sampling.py::test_a_sample_does_not_depend_on_the_batch_split[ddpm]",
    ),
    bug(
        "the incoming state changed in place",
        "_core.linalg:combine",
        "state * weight",
        "state.mul_(weight)",
        "test_sampling.py::test_inputs_stay_and_the_global_generator_is_untouched",
    ),
    bug(
        "the incoming state changed in place where its table is one",
        "_core.linalg:combine",
        "* weight if",
        "if weight == 1.0 else state * weight if",
        "test_sampling.py::test_a_step_whose_table_is_one_leaves_the_state_it_started_from",
    ),
]
