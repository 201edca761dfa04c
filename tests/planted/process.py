"""Planted bugs of `process`."""

from planted import Bug, bug

BUGS = [
    bug(
        "the Cholesky factor in place of gDDIM's root",
        "process.base:Process.root",
        'lower if kind == "L" else lower @ rotation(self, t)',
        "lower",
        "test_process.py::test_the_root_squares_to_the_covariance_and_keeps_the_noise_constant[Spring]",
    ),
    bug(
        "the sign of the score as a source",
        "process.convert:_scalars",
        "else -root",
        "else root",
        "test_conversions.py::test_every_reading_of_an_oracle_is_consistent[VP]",
    ),
    Bug(
        "the sign of the score both ways, which round trips hide",
        (
            ("process.convert:_scalars", "else -root", "else root"),
            ("process.convert:_scalars", "-1 / root if", "1 / root if"),
        ),
        ("test_conversions.py::test_v_and_flow_are_defined_where_the_signal_is_zero",),
    ),
    bug(
        "the angle of v without the scale of the data, in steps",
        "process.base:Process.reading",
        "signal * self.sigma_data",
        "signal",
        "test_process.py::test_increments_are_the_derivative_of_the_reading[v-EDM]",
    ),
    bug(
        "the angle of v without the scale of the data, in conversions",
        "process.convert:_scalars",
        "(data * signal) ** 2",
        "signal**2",
        "test_conversions.py::test_preconditioning_is_the_angle_reading_of_the_raw_network",
    ),
    bug(
        "1 - exp in place of expm1",
        "process.vp:VP.sigma",
        "-torch.expm1",
        "1 - torch.exp",
        "test_process.py::test_small_times_keep_their_digits",
    ),
    bug(
        "log(1 + x) in place of log1p in the inverse of VP's clock",
        "process.vp:VP.unclock",
        "nn.functional.softplus(-2 * w, threshold=60)",
        "log(1 + torch.exp(-2 * w))",
        "test_process.py::test_small_times_keep_their_digits",
    ),
    bug(
        "slopes of a table's cubic not limited",
        "process.table:_slopes",
        "2 * d[1:] * d[:-1] / (d[1:] + d[:-1])",
        "(d[1:] + d[:-1]) / 2",
        "test_process.py::test_a_table_with_jumps_stays_monotone_between_its_entries",
    ),
    bug(
        "the power of the quadratic grid",
        "process.grids",
        '"quadratic": 2.0',
        '"quadratic": 2.1',
        "test_process.py::test_quadratic_means_the_same_noise_levels_on_every_process",
    ),
]
