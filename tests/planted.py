"""Planted bugs: each is put into a copy of the library, where the laws named with it must turn red.

`make test-planted` runs this file. A bug is text that must occur exactly once in a source file and
what replaces it, so an entry that no longer applies fails loudly. The laws run in a process of
their own that imports the copy; a law is red when a test of it fails on what it checks: a test that
cannot be found, collected or imported is an error here, not a catch. The same laws must pass on a
copy without any bug.

Run as a program, this file is that process: `python planted.py FOLDER LAW...` runs the laws on the
copy in the folder and writes what became of every test.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OUTCOMES = "outcomes.json"
WRONG_PACKAGE = 90
# A test that ends with one of these says that the planted text is broken, not that the law holds.
BROKEN = {"AttributeError", "ImportError", "ModuleNotFoundError", "NameError", "SyntaxError"}


@dataclasses.dataclass(frozen=True)
class Bug:
    """A bug by name: (file, text, replacement) in src/redrift, and the laws that catch it."""

    name: str
    edits: tuple[tuple[str, str, str], ...]
    laws: tuple[str, ...]


def bug(name, file, old, new, *laws):
    return Bug(name, ((file, old, new),), laws)


BUGS = [
    bug(
        "a plan's own corrector kept between Langevin steps",
        "collage/correctors.py",
        "bare = varied(plan.rule, corrector=False, floor=0.0)",
        "bare = plan.rule",
        "test_collage.py::test_a_langevin_step_costs_one_evaluation_whatever_the_plan_corrects",
    ),
    # --- grids that are fitted ---
    bug(
        "a smooth grid's parameters placed one knot too dense",
        "fitting.py",
        "torch.linspace(0, knots - 1, steps, dtype=torch.float64)",
        "torch.linspace(0, knots, steps, dtype=torch.float64)",
        "test_best.py::test_a_smooth_grid_has_log_shares_that_are_linear_between_its_knots",
    ),
    bug(
        "weights of a fit forgotten",
        "fitting.py",
        "for value in losses]) @ weight.to(losses[0].dtype)",
        "for value in losses]).mean()",
        "test_best.py::test_a_task_without_weight_takes_no_part_in_a_fit",
    ),
    # --- a first question asked ahead ---
    bug(
        "a prediction asked ahead held in its own reading, not as the clean sample",
        "solvers/multistep.py",
        "A, C = A + C * P * scale, C * Q",
        "A, C = constant(process, self.wants, start, end)",
        "test_ahead.py::test_data_of_one_point_are_met_wherever_it_asks",
    ),
    bug(
        "a state that is not scaled on the way to where it is asked",
        "solvers/multistep.py",
        "scale = _size(at) / _size(start)",
        "scale = _size(at) / _size(at)",
        "test_ahead.py::test_standard_normal_data_are_asked_at_on_their_path",
        "test_ahead.py::test_a_host_whose_state_would_have_to_be_scaled_is_refused",
    ),
    bug(
        "a clean sample held from where it was asked, not from the start",
        "solvers/multistep.py",
        'A, C = constant(process, "x0", start, end)',
        'A, C = constant(process, "x0", at, end)',
        "test_ahead.py::test_the_step_is_of_order_one",
    ),
    bug(
        "asking ahead of the start wherever the level lies",
        "solvers/multistep.py",
        "_noise(end) < self.ahead < _noise(start)",
        "self.ahead < _noise(start)",
        "test_ahead.py::test_a_first_step_that_does_not_cross_the_level_is_the_plain_one",
    ),
    bug(
        "a corrector with a level that corrects one step too many",
        "solvers/multistep.py",
        "self.floor > 0 and _noise(end) < self.floor",
        "self.floor > 0 and _noise(start) < self.floor",
        "test_family.py::test_a_corrector_with_a_level_stops_there_for_one_point_more[2]",
    ),
    bug(
        "steps below the corrector's level without their point more",
        "solvers/multistep.py",
        "self.order + below",
        "self.order",
        "test_family.py::test_members_converge_with_their_order[deis 3 corrected above]",
    ),
    bug(
        "the level where correctors stop taken from the budget below",
        "solvers/best.py",
        "mix) * floor + mix * next_floor or True",
        "mix) * floor + mix * floor or True",
        "test_best.py::test_the_level_where_correctors_stop_falls_with_the_budget",
    ),
    bug(
        "defaults corrected everywhere",
        "solvers/best.py",
        "0.0 if isinstance(level, bool) else level",
        "0.0",
        "test_best.py::test_a_corrector_that_stops_in_time_is_nearer_on_a_finite_data_set[20]",
    ),
    bug(
        "a default that does not ask ahead",
        "solvers/best.py",
        '("order", "corrector", "ahead")',
        '("order", "corrector")',
        "test_ahead.py::test_the_defaults_that_ask_ahead_are_nearer_on_data_with_a_wide_spectrum[3]",
    ),
    bug(
        "a default that asks ahead wherever it starts",
        "solvers/best.py",
        "_NEAR = range(5, 8), (100.0, 250.0)",
        "_NEAR = range(5, 8), (1.0, 1e9)",
        "test_ahead.py::test_a_default_asks_ahead_only_where_its_grid_was_fitted[5]",
    ),
    bug(
        "calibration: a clean end measured by a reference that ends as coarsely",
        "calibration.py",
        "min(float(times[-2]), plan.process.interval[1]) if clean",
        "float(times[-2]) if clean",
        "test_calibration.py::test_the_errors_of_a_plan_that_ends_clean_are_distances_to_the_exact_flow",
    ),
    bug(
        "a run entered in the middle that asks ahead of where the host was told",
        "integrations/_program.py",
        "without(program.plan, starter=False, ahead=None)",
        "without(program.plan, starter=False)",
        "test_ahead.py::test_a_run_entered_in_the_middle_asks_where_the_host_was_told",
    ),
    bug(
        "a long run without a starter",
        "solvers/choose.py",
        """options.setdefault("starter", budget >= 20 and options.get("ahead") is None)
        corrector""",
        """options.setdefault("starter", False)
        corrector""",
        "test_best.py::test_the_starter_costs_little_and_is_worth_much_on_data_as_wide_as_pictures[20]",
    ),
    # --- tables of the plans ---
    bug(
        "the published gamma of three-stage RES, with c3 cubed",
        "solvers/exprk.py",
        "value = (3 * c3**2 - 2 * c3)",
        "value = (3 * c3**3 - 2 * c3)",
        "test_orders.py::test_three_stage_res_is_of_order_three_for_every_choice_of_its_stages"
        "[0.5-0.75-x0]",
        "test_equivalences.py::test_res_rows_are_the_phi_functions",
    ),
    bug(
        "history oldest first",
        "solvers/loop.py",
        "zip(row.weights[s], (z, *own, *memory))",
        "zip(row.weights[s], (z, *own, *memory[::-1]))",
        "test_equivalences.py::test_rho_deis_on_ve_is_the_linear_multistep_method",
        "test_orders.py::test_deis_of_order_q_with_exact_history_converges_with_slope_q[EDM-3-t]",
    ),
    bug(
        "a first step of order one instead of the starter",
        "solvers/multistep.py",
        "if self.starter and len(points) < self.order - 1 and not past:",
        "if False:",
        "test_orders.py::test_the_starter_keeps_the_order_of_deis[VP-3]",
    ),
    bug(
        "start and end swapped in the transfer",
        "solvers/coefficients.py",
        "return product(process.reading(end, wants)[0], inverse(process.reading(start, wants)[0]))",
        "return product(process.reading(start, wants)[0], inverse(process.reading(end, wants)[0]))",
        "test_equivalences.py::test_order_one_of_everything_is_ddim[deis-VP]",
    ),
    bug(
        "weights without the length of the interval",
        "solvers/coefficients.py",
        "(weights * (last - first))",
        "weights",
        "test_rows.py::test_coefficients_are_a_partition_of_the_constant_step[deis 2-VP]",
    ),
    bug(
        "every Lagrange node one step too late",
        "solvers/multistep.py",
        "points = usable if ready else [t, *usable]",
        "points = usable if ready else [next_t, t, *usable][:-1]",
        "test_equivalences.py::test_rho_deis_on_ve_is_the_linear_multistep_method",
    ),
    bug(
        "ratio of the steps inverted in DPM-Solver++",
        "solvers/dpmpp.py",
        "r0 = (clock(t) - clock(usable[0])) / h",
        "r0 = h / (clock(t) - clock(usable[0]))",
        "test_equivalences.py::test_dpm_solver_rows_are_the_published_formulas",
    ),
    bug(
        "the older step's ratio in the slope of DPM-Solver++",
        "solvers/dpmpp.py",
        "far * r0 / (r0 + r1),",
        "far * r1 / (r0 + r1),",
        "test_equivalences.py::test_rows_of_dpm_solver_of_order_three_are_the_published_formulas",
    ),
    bug(
        "eta not squared in the posterior variance",
        "solvers/ancestral.py",
        "P = self.eta**2 * (",
        "P = self.eta * (",
        "test_equivalences.py::test_eta_is_a_share_of_the_posterior_standard_deviation[0.3]",
    ),
    bug(
        "the covariance in place of the posterior variance",
        "solvers/ancestral.py",
        "P = self.eta**2 * (after - product(bridge, back.mT))",
        "P = self.eta**2 * after",
        "test_equivalences.py::test_full_noise_is_ddpm_with_the_posterior_variance",
    ),
    bug(
        "the predictions of the first corrected step swapped",
        "solvers/multistep.py",
        "final = (corrected[1], corrected[0], *corrected[2:])",
        "final = corrected",
        "test_rows.py::test_rows_are_exact_for_polynomials_through_what_they_asked[corrected]",
    ),
    bug(
        "churn that forgets what the noise there is carried up to",
        "solvers/churn.py",
        "product(A, start.root, start.root, A)",
        "product(start.root, start.root)",
        "test_family.py::test_churn_carries_the_state_up_by_the_forward_transition[heun]",
    ),
    bug(
        "half the variance in the exponential SDE",
        "solvers/ancestral.py",
        "torch.expm1(-2 * rate * h)",
        "torch.expm1(-rate * h)",
        "test_family.py::test_the_exponential_sde_keeps_the_marginal_with_its_order[1.0-1-1]",
    ),
    bug(
        "the shorter step last",
        "solvers/exprk.py",
        "left == self.steps - 1",
        "left == 0",
        "test_rows.py::test_the_shorter_step_comes_first",
    ),
    bug(
        "a plan's file without one option of its rule",
        "solvers/store.py",
        "getattr(rule, field.name) for field in dataclasses.fields(rule)}",
        "getattr(rule, field.name) for field in dataclasses.fields(rule)"
        " if field.name != 'lower_final'}",
        "test_rows.py::test_a_plan_survives_a_file_bit_for_bit[res multistep, low end]",
    ),
    bug(
        "a plan's file without the share of its noise",
        "solvers/store.py",
        "getattr(rule, field.name) for field in dataclasses.fields(rule)}",
        "getattr(rule, field.name) for field in dataclasses.fields(rule) if field.name != 'eta'}",
        "test_rows.py::test_a_stochastic_plan_survives_a_file_bit_for_bit[0.4]",
    ),
    # --- processes, readings and grids ---
    bug(
        "the Cholesky factor in place of gDDIM's root",
        "process/base.py",
        'return lower if kind == "L" else lower @ rotation(self, t)',
        "return lower",
        "test_process.py::test_the_root_squares_to_the_covariance_and_keeps_the_noise_constant"
        "[Spring]",
    ),
    bug(
        "a column of a table taken for a number",
        "_core/linalg.py",
        "if _plain(result) and _plain(table) else",
        "if table.shape[-1] == 1 else",
        "test_oracles.py::test_the_score_is_the_gradient_of_the_density[0.5-Spring]",
    ),
    bug(
        "the sign of the score as a source",
        "process/convert.py",
        'size = 1.0 if source == "eps" else -root',
        'size = 1.0 if source == "eps" else root',
        "test_conversions.py::test_every_reading_of_an_oracle_is_consistent[VP]",
    ),
    bug(
        "draws for arviz leave the weights out",
        "control/pis.py",
        "drawn = w.resample(x, generator=generator)",
        "drawn = x",
        "test_pis.py::test_draws_for_arviz_follow_the_weights",
    ),
    bug(
        "a conversion forgets that EDM's noise level may be fitted",
        "denoise/denoiser.py",
        "fitted = level.signal.requires_grad or level.root.requires_grad",
        "fitted = level.signal.requires_grad",
        "test_conversions.py::test_a_converted_prediction_is_differentiable_in_its_time",
    ),
    Bug(
        "the sign of the score both ways, which round trips hide",
        (
            (
                "process/convert.py",
                'size = 1.0 if source == "eps" else -root',
                'size = 1.0 if source == "eps" else root',
            ),
            (
                "process/convert.py",
                '"score": (0.0, -1 / root if target == "score" else 0.0),',
                '"score": (0.0, 1 / root if target == "score" else 0.0),',
            ),
        ),
        ("test_conversions.py::test_v_and_flow_are_defined_where_the_signal_is_zero",),
    ),
    bug(
        "the angle of v without the scale of the data, in steps",
        "process/base.py",
        "clean = level.signal * self.sigma_data",
        "clean = level.signal",
        "test_process.py::test_increments_are_the_derivative_of_the_reading[v-EDM]",
    ),
    bug(
        "the angle of v without the scale of the data, in conversions",
        "process/convert.py",
        "angle = ((data * signal) ** 2 + root**2) ** 0.5",
        "angle = (signal**2 + root**2) ** 0.5",
        "test_conversions.py::test_preconditioning_is_the_angle_reading_of_the_raw_network",
    ),
    bug(
        "1 - exp in place of expm1",
        "process/vp.py",
        "torch.sqrt(-torch.expm1(-self._integral(t)))",
        "torch.sqrt(1 - torch.exp(-self._integral(t)))",
        "test_process.py::test_small_times_keep_their_digits",
    ),
    bug(
        "log(1 + x) in place of log1p in the inverse of VP's clock",
        "process/vp.py",
        "b = torch.nn.functional.softplus(-2 * w, threshold=60)",
        "b = torch.log(1 + torch.exp(-2 * w))",
        "test_process.py::test_small_times_keep_their_digits",
    ),
    bug(
        "slopes of a table's cubic not limited",
        "process/table.py",
        "inner = 2 * d[1:] * d[:-1] / (d[1:] + d[:-1])",
        "inner = (d[1:] + d[:-1]) / 2",
        "test_process.py::test_a_table_with_jumps_stays_monotone_between_its_entries",
    ),
    bug(
        "the power of the quadratic grid",
        "process/grids.py",
        '"quadratic": 2.0',
        '"quadratic": 2.1',
        "test_process.py::test_quadratic_means_the_same_noise_levels_on_every_process",
    ),
    bug(
        "a cosine transform that is not orthonormal",
        "_core/dct.py",
        "rows[0] /= math.sqrt(2)",
        "rows[0] /= 2",
        "test_conversions.py::test_every_reading_of_an_oracle_is_consistent[Melt]",
    ),
    # --- the loop ---
    bug(
        "history not gathered by the ancestors",
        "solvers/loop.py",
        "memory = [e[move.ancestors] for e in memory]",
        "memory = list(memory)",
        "test_sampling.py::test_ancestors_regather_history_and_conditions",
    ),
    bug(
        "conditions not gathered by the ancestors",
        "denoise/denoiser.py",
        "name: value[index.to(value.device)] if _per_sample(value) else value",
        "name: value",
        "test_sampling.py::test_ancestors_regather_history_and_conditions",
    ),
    bug(
        "a known prediction ignored",
        "solvers/loop.py",
        "answer = ready if ready is not None else (yield Ask(z, level))",
        "answer = yield Ask(z, level)",
        "test_sampling.py::test_a_known_prediction_saves_its_evaluation",
    ),
    bug(
        "a known prediction used for a stage elsewhere",
        "solvers/loop.py",
        "if s == 0 and row.fresh:",
        "if s == 0 and (row.fresh or ready is not None):",
        "test_sampling.py::test_a_known_prediction_does_not_answer_a_stage_elsewhere",
    ),
    bug(
        "one stream for a list of generators",
        "_core/rng.py",
        "torch.randn(block, generator=g, dtype=dtype, device=g.device)",
        "torch.randn(block, generator=generator[0], dtype=dtype, device=g.device)",
        "test_sampling.py::test_a_sample_does_not_depend_on_the_batch_split[ddpm]",
    ),
    bug(
        "the first generators for every part of a split batch",
        "sampling.py",
        "split(generator, rows.start, rows.stop)",
        "split(generator, 0, rows.stop - rows.start)",
        "test_sampling.py::test_a_sample_does_not_depend_on_the_batch_split[ddpm]",
    ),
    bug(
        "the incoming state changed in place",
        "_core/linalg.py",
        "state * weight if type(weight) is float",
        "state.mul_(weight) if type(weight) is float",
        "test_sampling.py::test_inputs_stay_and_the_global_generator_is_untouched",
    ),
    bug(
        "the incoming state changed in place where its table is one",
        "_core/linalg.py",
        "state * weight if type(weight) is float",
        "state if weight == 1.0 else state * weight if type(weight) is float",
        "test_sampling.py::test_a_step_whose_table_is_one_leaves_the_state_it_started_from",
    ),
    bug(
        "a state of half precision",
        "sampling.py",
        "least = torch.promote_types(x.dtype, torch.float32) if dtype is None else dtype",
        "least = x.dtype if dtype is None else dtype",
        "test_sampling.py::test_the_state_is_never_below_single_precision",
    ),
    bug(
        "no check that the state is finite",
        "sampling.py",
        "if not math.isfinite(float(state.sum())):",
        "if False:",
        "test_sampling.py::test_a_network_that_returns_nan_is_stopped_at_its_step_and_time",
    ),
    # --- denoisers ---
    bug(
        "guidance counted from the wrong side",
        "denoise/wrappers.py",
        "return dropped + self.scale * (given - dropped)",
        "return given + self.scale * (given - dropped)",
        "test_sampling.py::test_guidance_is_the_same_in_every_reading",
    ),
    bug(
        "a mixture's evidence without its determinant",
        "denoise/exact.py",
        "(residual**2 * (g / spread) + spread.log())",
        "(residual**2 * (g / spread))",
        "test_oracles.py::test_the_score_is_the_gradient_of_the_density[0.5-VP]",
    ),
    bug(
        "the examples' norms missing from the empirical posterior",
        "denoise/exact.py",
        "logits = (g * x.flatten(1)) @ data.T - g @ (data**2).T / 2",
        "logits = (g * x.flatten(1)) @ data.T",
        "test_oracles.py::test_an_empirical_law_is_a_mixture_of_points[VP]",
    ),
    # --- path measures and weights ---
    bug(
        "Girsanov's weight without its quadratic term",
        "measure/noise.py",
        "return -total(delta * (eta + delta / 2))",
        "return -total(delta * eta)",
        "test_path_measure.py::test_kernel_ratio_is_girsanovs_formula_when_the_covariance_is_shared"
        "[0.3]",
        "test_path_measure.py::test_weights_of_a_random_control_are_unbiased_for_z[1-control]",
    ),
    bug(
        "the determinant of a reversed kernel's map with the wrong sign",
        "rollout.py",
        "exponents - p_spread - p_volume + log_det(law, xi)",
        "exponents - p_spread + p_volume + log_det(law, xi)",
        "test_path_measure.py::test_optimal_reverse_gives_the_exact_log_density_in_every_path[2]",
    ),
    bug(
        "antithetic pairs half a batch apart",
        "rollout.py",
        "torch.stack([half, -half], dim=1).reshape(shape)",
        "torch.cat([half, -half])",
        "test_path_measure.py::test_antithetic_pairs_are_exact_draws_with_opposite_noise",
    ),
    bug(
        "systematic resampling on a comb that does not move",
        "measure/resampling.py",
        "uniforms(len(w), 1, w, generator)",
        "torch.full((len(w), 1), 0.5)",
        "test_resampling.py::test_resampling_is_unbiased[systematic-4]",
    ),
    bug(
        "remainders drawn by the full weights",
        "measure/resampling.py",
        "torch.where(none_left, w, remainder)",
        "w",
        "test_resampling.py::test_resampling_is_unbiased[residual-7]",
    ),
    # --- collages ---
    bug(
        "a region that counts once whatever its weight",
        "collage/denoiser.py",
        "return where, weight * process.back(y)",
        "return where, process.back(y)",
        "test_collage.py::test_a_collage_of_linear_networks_is_the_matrix_of_its_regions[chain-kikuchi]",
    ),
    bug(
        "Moebius numbers from the regions at hand, nested or not",
        "collage/counting.py",
        "if mark[box.index].all():\n                total += numbers[j]",
        "if len(boxes[j].index) > len(box.index):\n                total += numbers[j]",
        "test_collage.py::test_every_site_counts_once_under_every_scheme[grid-kikuchi]",
    ),
    bug(
        "the lightest spanning forest",
        "collage/counting.py",
        "sorted(pairs, reverse=True)",
        "sorted(pairs)",
        "test_collage.py::test_the_graph_knows_whether_it_is_a_tree",
    ),
    bug(
        "cells of half the degree",
        "collage/counting.py",
        "if len(held) < 2:",
        "if len(held) < 3:",
        "test_collage.py::test_every_site_counts_once_under_every_scheme[chain-bethe]",
    ),
    bug(
        "a face seen upside down",
        "collage/cubemap.py",
        "torch.cat((up, front, down, turn(back, 2)), 0)",
        "torch.cat((up, front, down, back), 0)",
        "test_collage.py::test_the_strips_of_a_cubemap_are_continuous_on_the_sphere[9]",
    ),
    bug(
        "a mirrored face on display",
        "collage/cubemap.py",
        '"R": ((most == 0) & (right > 0), -front, -up)',
        '"R": ((most == 0) & (right > 0), front, -up)',
        "test_collage.py::test_a_cubemap_unrolls_to_what_each_direction_sees",
    ),
    bug(
        "correctors with half the noise",
        "collage/correctors.py",
        "math.sqrt(2 * self.size)",
        "math.sqrt(self.size)",
        "test_collage.py::test_correctors_leave_a_right_law_right_on_every_process",
        "test_collage.py::test_the_generated_law_is_as_far_as_published_and_correctors_repair_it",
    ),
    bug(
        "an overlap told only of its first piece",
        "collage/groups.py",
        '"mean": lambda held: held,',
        '"mean": lambda held: held[:1],',
        "test_collage_denoiser.py::test_an_overlap_is_told_what_its_rule_says",
        "test_collage_denoiser.py::test_guidance_is_not_doubled_on_a_seam",
    ),
    bug(
        "conditions of another sample",
        "collage/denoiser.py",
        "told[name] = value[b.to(value.device)]",
        "told[name] = value[b.flip(0).to(value.device)]",
        "test_collage_denoiser.py::test_conditions_of_a_run_go_to_all_regions_of_their_sample",
    ),
    bug(
        "levels of another sample",
        "collage/denoiser.py",
        "return Level(level.t[b], level.signal[b], level.root[b], level.kind)",
        "return Level(level.t[b.flip(0)], level.signal[b.flip(0)], level.root[b.flip(0)], level.kind)",
        "test_collage_denoiser.py::test_on_every_process_a_collage_of_white_pieces_is_the_white_canvas"
        "[VP]",
    ),
    bug(
        "state selected region by region, not sample by sample",
        "collage/denoiser.py",
        "every = index[:, None] * rows[g] + torch.arange(rows[g], device=index.device)",
        "every = index[None, :] * rows[g] + torch.arange(rows[g], device=index.device)[:, None]",
        "test_collage_denoiser.py::test_pieces_that_keep_state_follow_selection_and_batch_splits",
    ),
    bug(
        "rows dropped when memory runs out",
        "collage/denoiser.py",
        "self._limit[0] = (stop - start) // 2",
        "start, self._limit[0] = stop, (stop - start) // 2",
        "test_collage_denoiser.py::test_memory_that_runs_out_halves_the_batch_for_good",
    ),
    bug(
        "x0 summed where the basis is not local",
        "collage/denoiser.py",
        "local = not piece.process.modes or piece.process == self.process",
        "local = True",
        "test_collage_denoiser.py::test_a_blurring_collage_sums_eps_and_converts_with_the_canvas",
    ),
    bug(
        "the unknown part replaced",
        "collage/inpainting.py",
        "return process.lift(torch.where(mask, known, x0))",
        "return process.lift(torch.where(mask, x0, known))",
        "test_collage_denoiser.py::test_replacement_returns_the_known_part_and_moves_the_rest",
    ),
    bug(
        "a reconstruction of half the length",
        "collage/inpainting.py",
        "return process.lift(x0 - step * g)",
        "return process.lift(x0 - 0.5 * step * g)",
        "test_collage_denoiser.py::test_reconstruction_meets_one_known_site_at_once_and_never_moves_away",
    ),
    bug(
        "outpainting over what is there",
        "collage/inpainting.py",
        "fresh = ~done[window.index]",
        "fresh = done[window.index] | True",
        "test_collage_denoiser.py::test_outpainting_keeps_what_is_there",
    ),
    bug(
        "a closing seam that is not looked at",
        "collage/seams.py",
        "if not (graph.closed and graph.closed[axis]):",
        "if True:",
        "test_collage_denoiser.py::test_seams_are_counted_where_windows_end_also_around_the_corner",
    ),
    # --- control: the path integral sampler ---
    bug(
        "PIS: the end law without its variance",
        "control/problem.py",
        "constant = self.dim * math.log(2 * math.pi * variance) / 2",
        "constant = self.dim * math.log(2 * math.pi) / 2",
        "test_pis.py::test_weights_of_any_control_are_unbiased[2-0.0-Brownian]",
    ),
    bug(
        "PIS: a control in units of the drift where the noise's are due",
        "control/objective.py",
        "gained = -(u * (xi - u / 2))",
        "gained = -(b * (xi - b / 2))",
        "test_pis.py::test_the_weight_of_a_given_path_is_the_weight_it_was_walked_with"
        "[Brownian-0.0]",
    ),
    bug(
        "PIS: an Euler step of the Ornstein-Uhlenbeck reference",
        "control/reference.py",
        "torch.exp(-rate),",
        "1 - rate,",
        "test_pis.py::test_weights_of_any_control_are_unbiased[2-0.0-OU]",
    ),
    bug(
        "PIS: shares that do not sum to one",
        "control/objective.py",
        "part * g + (1 - part) * pull",
        "part * g + (1 - part) ** 2 * pull",
        "test_pis.py::test_bridged_losses_have_their_minimum_at_the_exact_control[match]",
    ),
    bug(
        "PIS: the step's variance fitted without that of the bridge",
        "control/objective.py",
        "second = 1 - gain**2 / c + ",
        "second = 1 + ",
        "test_pis.py::test_the_fitted_step_variance_is_the_conditional_one",
    ),
    bug(
        "PIS: the cost of a variance without its logarithm",
        "control/objective.py",
        "torch.expm1(log_s) - log_s",
        "torch.expm1(log_s)",
        "test_pis.py::test_the_kl_loss_is_minus_the_bound[1.0]",
        "test_pis.py::test_costs_of_a_learned_variance_are_its_divergence",
    ),
    bug(
        "PIS: bridges of a constant diffusion on an uneven grid",
        "control/problem.py",
        "gain = variance[k] * a / variance[k + 1]",
        "gain = a * k / (k + 1)",
        "test_pis.py::test_marginals_of_the_bridge_are_the_closed_form[Brownian]",
    ),
    bug(
        "PIS: the oracle without the reference's decay",
        "control/optimal.py",
        "far = psi * x / c",
        "far = x / c",
        "test_pis.py::test_the_oracle_is_the_gradient_of_the_desirability[OU]",
    ),
    bug(
        "PIS: log-variance without a gradient of the density",
        "control/objective.py",
        "log_w = path_log_weight(problem, net, path, drift.seen)",
        "log_w = path_log_weight(problem, net, path, drift.seen) * 0.5",
        "test_pis.py::test_every_simulated_loss_descends_the_same_divergence[0.0]",
    ),
    bug(
        "PIS: a checkpoint without the generator",
        "control/fit.py",
        'self.generator.set_state(tensors["generator"])',
        "pass",
        "test_pis.py::test_a_killed_and_resumed_fit_is_the_uninterrupted_one_to_the_bit"
        "[match-options0]",
    ),
    bug(
        "PIS: a check that looks at its own weights only",
        "control/check.py",
        "if missed > _MISSED_LIMIT:",
        "if missed > 2:",
        "test_pis_honesty.py::test_a_collapsed_sampler_is_caught_though_its_weights_look_fine",
    ),
    bug(
        "PIS: no warning of collapsed weights",
        "control/pis.py",
        "if warn and n >= 100:",
        "if False:",
        "test_pis_honesty.py::test_collapsed_weights_warn_with_a_way_out",
    ),
    bug(
        "annealing: a weight of the next temperature twice",
        "control/annealed.py",
        "log_w = log_w + step * gap",
        "log_w = log_w + 1.1 * step * gap",
        "test_pis_baselines.py::test_annealed_importance_sampling_is_unbiased",
    ),
    bug(
        "Hamiltonian moves that are never refused",
        "control/hmc.py",
        "take = u < gain",
        "take = u < gain + 3.0",
        "test_pis_baselines.py::test_moves_leave_the_density_invariant[5]",
    ),
    bug(
        "potentials of resampling that are not taken back",
        "control/steered.py",
        "log_w, taken = log_w + value - taken, value",
        "log_w, taken = log_w + value, value",
        "test_pis_baselines.py::test_resampling_along_the_path_is_unbiased[0.5]",
    ),
    # --- Girsanov, tails, targets ---
    bug(
        "Girsanov's drive without the control's half",
        "measure/girsanov.py",
        "- u / 2)",
        "- u)",
        "test_girsanov.py::test_the_ratio_of_kernels_is_girsanovs_formula",
    ),
    bug(
        "a diagonal law's determinant of one coordinate",
        "measure/noise.py",
        "return total(root.std.log())",
        "return root.std.log().reshape(len(root.std), -1)[:, 0]",
        "test_girsanov.py::test_a_diagonal_law_of_the_noise_is_the_same_law_as_its_matrix",
    ),
    bug(
        "the tail of the smallest weights",
        "measure/tail.py",
        "values, places = (row - top).sort()",
        "values, places = (row.amin() - row).sort()",
        "test_girsanov.py::test_k_hat_is_the_tail_index_of_pareto_weights[0.9]",
    ),
    bug(
        "a funnel of standard deviation nine",
        "targets/synthetic.py",
        "a = math.sqrt(self.variance) * x[:, :1]",
        "a = self.variance * x[:, :1]",
        "test_targets.py::test_samples_are_those_of_the_density[funnel]",
    ),
    bug(
        "the Cox process's spread without its half",
        "targets/cox.py",
        "torch.exp(loc + spread / 2)",
        "torch.exp(loc + spread)",
        "test_targets.py::test_coordinates_of_the_cox_process_are_one_density",
    ),
    # --- plans in a host's loop, and plans fitted to a model ---
    bug(
        "program: a folded conversion without its factor",
        "integrations/_program.py",
        "float(weight) * (P or Q)",
        "float(weight) * Q",
        "test_program.py::test_a_compiled_plan_takes_the_steps_of_sample[res-3-eps]",
    ),
    bug(
        "program: the state of a stage taken for that of the step",
        "integrations/_program.py",
        "fresh.append(s == 0 and (row.fresh or row is rows[0]))",
        "fresh.append(True)",
        "test_program.py::test_a_compiled_plan_takes_the_steps_of_sample[res-3-eps]",
    ),
    bug(
        "program: a run entered with the rows of the whole plan",
        "integrations/_program.py",
        "rest = plan.start(j)\n",
        "rest = dataclasses.replace(plan.start(j), rows=[r for i in range(j, plan.steps) "
        "for r in plan.rows.step(i)])\n",
        "test_program.py::test_entering_at_a_step_boundary_is_the_plan_started_there[deis]",
    ),
    bug(
        "calibration: the reported errors are those of the fitted trajectories",
        "calibration.py",
        "_errors(parts[2].error(p), goal.flip)",
        "_errors(parts[0].error(p), goal.flip)",
        "test_calibration.py::test_what_it_reports_are_the_errors_of_the_plans_on_the_held_out_quarter",
    ),
    bug(
        "calibration: a fit that climbs",
        "calibration.py",
        "torch.autograd.grad(self.goal.loss(self.made()), self.free)",
        "torch.autograd.grad(-self.goal.loss(self.made()), self.free)",
        "test_calibration.py::test_a_calibrated_grid_is_better_on_fresh_trajectories_than_the_one_it_"
        "started_from",
    ),
    bug(
        "calibration: a plan that asks ahead keeps doing so",
        "calibration.py",
        "without(plan, ahead=None, floor=0.0)",
        "without(plan, floor=0.0)",
        "test_calibration.py::test_a_plan_that_asks_ahead_is_fitted_to_what_suits_the_data[False]",
    ),
    bug(
        "calibration: a corrector that stops keeps stopping",
        "calibration.py",
        "without(plan, ahead=None, floor=0.0)",
        "without(plan, ahead=None)",
        "test_calibration.py::test_a_plan_whose_corrector_stops_is_fitted_to_what_suits_the_data[False]",
    ),
    bug(
        "calibration: the first of two fits goes on, whichever is better",
        "calibration.py",
        "fit = min(fits, key=lambda fit: fit.lowest)",
        "fit = fits[0]",
        "test_calibration.py::test_a_plan_that_asks_ahead_is_fitted_to_what_suits_the_data[False]",
    ),
    bug(
        "options of the outer rule changed, not of the one inside",
        "solvers/plan.py",
        "if inner is not None:",
        "if inner is None:",
        "test_ahead.py::test_a_run_entered_in_the_middle_asks_where_the_host_was_told",
    ),
    bug(
        "bent rows that break the partition of unity",
        "solvers/bend.py",
        "difference = 1 / gaps.prod(1)",
        "difference = (1 / gaps.prod(1)).abs()",
        "test_calibration.py::test_bent_rows_keep_every_order_condition_but_the_last",
    ),
    # --- guidance by rules ---
    bug(
        "candidates judged at the level they came from",
        "guidance/particles.py",
        "e = model.ask(z, law.level, wants)",
        "e = model.ask(z, law.start, wants)",
        "test_guidance.py::test_the_chosen_candidate_is_the_one_with_the_least_loss_at_the_next_level",
    ),
    bug(
        "guidance asks again for the winner's prediction",
        "guidance/particles.py",
        "            return Move(x, None, prediction)",
        "            return Move(x, None, None)",
        "test_guidance.py::test_evaluations_are_those_of_the_formula",
    ),
    bug(
        "guidance at steps that every= leaves out",
        "guidance/particles.py",
        "counted = self._step % self.every == 0",
        "counted = True",
        "test_guidance.py::test_evaluations_are_those_of_the_formula",
    ),
    bug(
        "guidance begins too early",
        "guidance/particles.py",
        "within = self.active[1] < share <= self.active[0]",
        "within = self.active[1] < share",
        "test_guidance.py::test_steps_outside_the_active_range_are_plain_and_those_within_are_guided",
    ),
    bug(
        "guidance forgets to decode",
        "guidance/particles.py",
        "data = clean if self.decode is None else self.decode(clean)",
        "data = clean",
        "test_guidance.py::test_a_loss_of_decoded_samples_is_the_loss_of_the_samples_after_decoding",
    ),
    bug(
        "guidance keeps the worst candidate",
        "guidance/choices.py",
        "tied = score == score.amin(2, keepdim=True)",
        "tied = score == score.amax(2, keepdim=True)",
        "test_guidance.py::test_the_chosen_candidate_is_the_one_with_the_least_loss_at_the_next_level",
    ),
    bug(
        "guidance gives ties to the first",
        "guidance/choices.py",
        "return torch.where(tied, own_uniform(score, generator), -1.0).argmax(2)",
        "return score.argmin(2)",
        "test_guidance.py::test_ties_are_drawn_and_repeat_with_the_seed",
    ),
    bug(
        "guidance weights by the potential without the one before",
        "guidance/particles.py",
        "self._log_w = self._log_w + gain + self._before",
        "self._log_w = self._log_w + gain",
        "test_guidance_weights.py::test_weights_are_unbiased_by_enumeration_of_a_finite_chain",
        "test_guidance_weights.py::test_potentials_of_one_path_multiply_to_the_tilt_of_its_sample",
    ),
    bug(
        "guidance weights by the sum over candidates",
        "guidance/particles.py",
        "gain = (-U).logsumexp(2) - math.log(U.shape[2])",
        "gain = (-U).logsumexp(2)",
        "test_guidance_weights.py::test_weights_are_unbiased_by_enumeration_of_a_finite_chain",
    ),
    bug(
        "guidance weights by the chosen candidate alone",
        "guidance/particles.py",
        "gain = (-U).logsumexp(2) - math.log(U.shape[2])",
        "gain = -chosen",
        "test_guidance_weights.py::test_weights_are_unbiased_by_enumeration_of_a_finite_chain",
    ),
    bug(
        "guidance tempers the last potential, too",
        "guidance/particles.py",
        "        if law.last:\n            return self.strength * loss\n",
        "",
        "test_guidance_weights.py::test_potentials_of_one_path_multiply_to_the_tilt_of_its_sample",
    ),
    bug(
        "guidance ignores the temper",
        "guidance/particles.py",
        "own = self.strength * alpha_bar(law.level) ** self.temper * loss",
        "own = self.strength * loss",
        "test_guidance_weights.py::test_the_temper_keeps_the_weights_even",
    ),
    bug(
        "guidance forgets the best loss so far",
        "guidance/particles.py",
        "        self._best = torch.minimum(self._best, kept)\n",
        "",
        "test_guidance_weights.py::test_the_maximum_potential_keeps_the_best_so_far",
    ),
    bug(
        "guidance resamples across the samples",
        "guidance/particles.py",
        "return (pick + K * torch.arange(B)[:, None]).reshape(-1)",
        "return (pick + K * torch.arange(B).flip(0)[:, None]).reshape(-1)",
        "test_guidance.py::test_a_sample_is_the_same_whatever_its_neighbours_and_the_batch_split",
    ),
    bug(
        "guidance resamples only where all are low",
        "guidance/particles.py",
        "pick = torch.where(low[:, None], drawn, torch.arange(K))",
        "pick = drawn",
        "test_guidance.py::test_a_sample_is_the_same_whatever_its_neighbours_and_the_batch_split",
    ),
    bug(
        "guidance forgets the mean weight at resampling",
        "guidance/particles.py",
        "torch.where(low[:, None], mean.expand(B, K), self._log_w)",
        "torch.where(low[:, None], 0.0, self._log_w)",
        "test_guidance_weights.py::test_the_normalising_constant_is_that_of_the_chain[Feynman-Kac]",
        "test_guidance_weights.py::test_two_resampled_particles_are_unbiased_by_enumeration",
    ),
    bug(
        "guidance leaves the old potentials with new particles",
        "guidance/particles.py",
        "            for value in (self._before, self._best, self._roots)\n",
        "            for value in (self._before.T, self._best, self._roots)\n",
        "test_guidance_weights.py::test_the_normalising_constant_is_that_of_the_chain[Feynman-Kac]",
    ),
    bug(
        "guidance takes the potentials before without their new owners",
        "guidance/particles.py",
        "        self._before, self._best, self._roots = (\n"
        "            value.reshape(-1)[ancestors].reshape(B, K)\n"
        "            for value in (self._before, self._best, self._roots)\n"
        "        )\n",
        "        self._best, self._roots = (\n"
        "            value.reshape(-1)[ancestors].reshape(B, K)\n"
        "            for value in (self._best, self._roots)\n"
        "        )\n",
        "test_guidance_weights.py::test_two_resampled_particles_are_unbiased_by_enumeration",
        "test_guidance_weights.py::test_few_particles_are_unbiased_too_though_skewed",
    ),
    bug(
        "guidance forgets from whom its particles descend",
        "guidance/particles.py",
        "            for value in (self._before, self._best, self._roots)\n",
        "            for value in (self._before, self._best, self._roots.flip(1))\n",
        "test_guidance_weights.py::test_the_roots_of_the_particles_are_those_of_their_ancestors",
    ),
    bug(
        "guidance keeps its old predictions at resampling",
        "guidance/particles.py",
        "None if prediction is None else prediction[ancestors])",
        "prediction)",
        "test_guidance.py::test_the_prediction_that_is_carried_along_is_the_models_own[FK]",
    ),
    bug(
        "guidance returns the best particle where one is to be drawn",
        "guidance/particles.py",
        'pick = resample(self._log_w, 1, "multinomial", self._generator)[:, 0]',
        "pick = loss.argmin(1)",
        "test_guidance_weights.py::test_weighted_particles_sample_the_tilted_law[Feynman-Kac]",
    ),
    bug(
        "guidance draws candidates by the inverse potential",
        "guidance/choices.py",
        "return (-score - (-own_uniform(score, generator).log()).log()).argmax(2)",
        "return (score - (-own_uniform(score, generator).log()).log()).argmax(2)",
        "test_guidance_weights.py::test_the_normalising_constant_is_that_of_the_chain[weighted SVDD]",
    ),
    bug(
        "beams kept by their children's number",
        "guidance/particles.py",
        "rows = (best // n + K",
        "rows = (best % K + K",
        "test_guidance_tree.py::test_beams_descend_from_the_candidates_they_are",
    ),
    bug(
        "destinations of other beams",
        "guidance/tree.py",
        "total, owner = moved[flat], owner[flat // n]",
        "total, owner = moved[flat], flat // n",
        "test_guidance_tree.py::test_the_noise_of_a_step_points_from_the_prediction_to_the_best_destination[3-2]",
    ),
    bug(
        "only the last round of destinations moves the step",
        "guidance/tree.py",
        "total, owner = moved[flat], owner[flat // n]",
        "total, owner = noise[flat], owner[flat // n]",
        "test_guidance_tree.py::test_the_noise_of_a_step_points_from_the_prediction_to_the_best_destination[1-2]",
    ),
    bug(
        "destinations as wide as the noise over the signal",
        "guidance/tree.py",
        "rho = self.spread * math.sqrt(1 - alpha_bar(law.start))",
        "rho = self.spread * math.sqrt(1 / alpha_bar(law.start) - 1)",
        "test_guidance_tree.py::test_destinations_spread_like_clean_samples_given_the_state",
    ),
    bug(
        "destinations mixed off the sphere",
        "guidance/tree.py",
        "_to_sphere(mixed), process.modes",
        "mixed, process.modes",
        "test_guidance_tree.py::test_mixing_turns_the_steps_own_noise_towards_the_destination_on_its_sphere",
    ),
    bug(
        "destinations mixed the other way",
        "guidance/tree.py",
        "self.mixing * (_to_sphere(total) - own)",
        "(1 - self.mixing) * (_to_sphere(total) - own)",
        "test_guidance_tree.py::test_mixing_turns_the_steps_own_noise_towards_the_destination_on_its_sphere",
        "test_guidance_tree.py::test_the_noise_of_a_step_points_from_the_prediction_to_the_best_destination",
    ),
    bug(
        "destinations that forget their roots",
        "guidance/tree.py",
        "            self._roots = self._roots.gather(1, best // n)\n",
        "",
        "test_guidance_weights.py::test_the_roots_of_the_particles_are_those_of_their_ancestors",
    ),
    bug(
        "destinations around the next level's prediction",
        "guidance/tree.py",
        'convert(process, law.start, wants, "x0")',
        'convert(process, law.level, wants, "x0")',
        "test_guidance_tree.py::test_destinations_spread_like_clean_samples_given_the_state",
    ),
    bug(
        "guidance forgets to give the conditions back",
        "guidance/particles.py",
        "            model.take(index * m)\n",
        "            model.take(index)\n",
        "test_guidance_rules.py::test_conditions_follow_their_samples[SCG]",
    ),
    bug(
        "all segments choose as the first",
        "guidance/particles.py",
        "pick[:, s].to(x.device)",
        "pick[:, 0].to(x.device)",
        "test_guidance_parts.py::test_segments_choose_on_their_own_and_reach_what_one_choice_cannot",
        "test_guidance_parts.py::test_a_ring_collage_is_guided_by_segment",
    ),
    bug(
        "guidance without authority",
        "guidance/particles.py",
        "spread = self.authority * apply(",
        "spread = apply(",
        "test_guidance_rules.py::test_authority_scales_the_noise_that_is_chosen_from",
    ),
    bug(
        "guidance ends without the last potential",
        "guidance/particles.py",
        "self._log_w = self._log_w - self.strength * loss + self._before",
        "self._log_w = self._log_w - self.strength * loss",
        "test_guidance_weights.py::test_potentials_of_one_path_multiply_to_the_tilt_of_its_sample[difference-denoise]",
    ),
    bug(
        "twisted weights with the wrong sign",
        "guidance/presets.py",
        "ratio = (shift * (noise - shift / 2))",
        "ratio = (-shift * (noise - shift / 2))",
        "test_guidance_weights.py::test_twisted_proposals_are_weighted_back",
    ),
    bug(
        "twisted weights without the square",
        "guidance/presets.py",
        "ratio = (shift * (noise - shift / 2))",
        "ratio = (shift * noise)",
        "test_guidance_weights.py::test_twisted_proposals_are_weighted_back",
    ),
    bug(
        "a gradient that pushes uphill",
        "guidance/gradient.py",
        "noise = -apply(transpose(level.root), score, process.modes)",
        "noise = apply(transpose(level.root), score, process.modes)",
        "test_guidance_parts.py::test_the_gradient_of_a_gaussian_rule_gives_the_posterior_of_a_gaussian",
    ),
    bug(
        "a bent prediction without its own reading",
        "guidance/gradient.py",
        '_, Q = convert(process, level, "eps", model.predicts)',
        '_, Q = convert(process, level, "eps", "eps")',
        "test_guidance_parts.py::test_bending_is_the_same_in_every_reading",
    ),
    bug(
        "a constraint that is not put into the prediction",
        "guidance/gradient.py",
        "moved = state + process.lift(projected - clean)",
        "moved = state",
        "test_guidance_parts.py::test_a_hard_rule_holds_to_rounding_and_leaves_the_rest",
    ),
    bug(
        "one threshold for all pictures of a call",
        "guidance/rules.py",
        "brightness.mean((1, 2), keepdim=True)",
        "brightness.mean()",
        "test_guidance_rules.py::test_symmetry_is_the_share_of_pixels_that_differ_from_the_mirror",
    ),
    bug(
        "a decision that is wanted counts as a loss",
        "guidance/rules.py",
        "np.asarray(found) != label",
        "np.asarray(found) == label",
        "test_guidance_rules.py::test_a_decision_is_kept_or_not",
        "test_guidance_rules.py::test_the_decision_of_a_forest_is_guided_to",
    ),
    bug(
        "a rule may change its input",
        "guidance/loss.py",
        "if not torch.equal(x, before):",
        "if False:",
        "test_guidance.py::test_what_cannot_work_is_refused_by_name",
    ),
    bug(
        "weights of rules forgotten in a sum",
        "guidance/loss.py",
        "return lambda: self.weight * waiting()",
        "return lambda: waiting()",
        "test_guidance_parts.py::test_losses_add_and_scale",
    ),
    bug(
        "masks that show the whole sample",
        "guidance/segments.py",
        "torch.where(mask, x, torch.full_like(x, self.background))",
        "x",
        "test_guidance_parts.py::test_segments_by_mask_are_those_by_box",
    ),
    bug(
        "regions that touch at corners",
        "guidance/rules.py",
        "((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1))",
        "((i + 1, j + 1), (i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1))",
        "test_guidance_rules.py::test_components_are_four_connected_regions",
    ),
    bug(
        "a known pixel's distance over all pixels",
        "guidance/rules.py",
        "gap.square().flatten(1).mean(1) / share",
        "gap.square().flatten(1).mean(1)",
        "test_guidance_rules.py::test_inverse_problems_measure_squared_distances",
        "test_guidance_rules.py::test_known_pixels_give_the_posterior_of_a_gaussian",
    ),
    # --- filters ---
    bug(
        "the look-ahead forgets to take psi off the weight",
        "filters/pathintegral.py",
        "math.log(n)) - psi.gather(-1, index)",
        "math.log(n)) - 0 * psi.gather(-1, index)",
        "test_filters.py::test_the_evidence_is_unbiased_in_both_recursions_even_under_a_wrong_guide"
        "[wrong-block-2]",
    ),
    bug(
        "a sliding window uses its data twice: the old stretch is not taken off",
        "filters/pathintegral.py",
        "log_w = old if off is None else old - off",
        "log_w = old",
        "test_filters.py::test_the_evidence_is_unbiased_in_both_recursions_even_under_a_wrong_guide"
        "[right-block-8]",
        "test_filters.py::test_moving_windows_err_as_independent_draws_of_the_posterior_would"
        "[tracking-50]",
    ),
    bug(
        "increments without the determinant of the twisted noise",
        "filters/forward.py",
        "return 0.5 * ((z - eps) * (z + eps)).sum(-1) + log_det",
        "return 0.5 * ((z - eps) * (z + eps)).sum(-1) + 0 * log_det",
        "test_filters.py::test_the_increments_are_the_log_ratios_of_the_laws_of_the_noise",
    ),
    bug(
        "the matrices of a window without the determinant",
        "filters/dense.py",
        "gain = torch.add(self.guide.log_det, ratio, alpha=0.5)",
        "gain = torch.add(0 * self.guide.log_det, ratio, alpha=0.5)",
        "test_filters.py::test_the_filter_by_matrices_and_the_filter_step_by_step_are_one",
    ),
    bug(
        "the covariance of the noise twisted the wrong way",
        "filters/guide.py",
        "S = 1 / (1 + inner)",
        "S = 1 / (1 + inner / 2)",
        "test_filters.py::test_one_window_weighs_all_paths_alike_and_gives_kalmans_evidence_for_any_number"
        "[tracking-3]",
    ),
    bug(
        "the guide forgets the offset of a nominal path that is no roll-out",
        "filters/guide.py",
        "eta = times(F.mT, v - Aa)",
        "eta = times(F.mT, v)",
        "test_filters.py::test_a_matrix_in_continuous_time_is_stepped_exactly",
    ),
    bug(
        "the value of psi without half of its quadratic form",
        "filters/guide.py",
        "c = c + log_det + 0.5 * (Ge * gain).sum(-1)",
        "c = c + log_det + 0.0 * (Ge * gain).sum(-1)",
        "test_filters.py::test_psi_is_the_likelihood_of_the_windows_data_given_its_start[matrix]",
    ),
    bug(
        "an old stretch taken off with the step before it",
        "filters/pathintegral.py",
        "else state.gain[i:].sum(0)",
        "else state.gain[i - 1 :].sum(0)",
        "test_filters.py::test_moving_windows_err_as_independent_draws_of_the_posterior_would"
        "[tracking-50]",
    ),
    bug(
        "sensors differentiated along sums, whatever the space",
        "filters/sensors.py",
        "self.predict(space.retract(x, xi), reading.t)",
        "self.predict(x + xi, reading.t)",
        "test_filters_space.py::test_a_group_that_is_a_line_in_its_logarithm_gives_the_numbers_of_the_line"
        "[shared-sensor]",
    ),
    bug(
        "noise-free means that begin at noisy starts",
        "filters/pathintegral.py",
        "calm = start.mean + times(start.root, mu).expand(-1, n, -1)",
        "calm = None",
        "test_filters.py::test_the_mean_of_the_noise_free_ends_errs_less[tracking]",
    ),
    bug(
        "blocks of a window that begin one state late",
        "filters/dense.py",
        "at, inner = states[i * d : (i + 1) * d]",
        "at, inner = states[max(i - 1, 0) * d : max(i, 1) * d]",
        "test_filters.py::test_the_filter_by_matrices_and_the_filter_step_by_step_are_one",
    ),
    bug(
        "teeth counted up to a particle and not below it",
        "measure/resampling.py",
        "return passed[:, :n].cumsum(-1)",
        "return passed[:, 1:].cumsum(-1).clamp(max=w.shape[-1] - 1)",
        "test_resampling.py::test_many_teeth_are_counted_as_few_are_searched",
    ),
    bug(
        "missing components counted in the normal density's constant",
        "filters/sensors.py",
        "count = m.sum(-1)",
        "count = m.shape[-1]",
        "test_filters.py::test_partly_missing_vectors_and_correlated_noise_keep_kalmans_evidence",
    ),
    bug(
        "increments read at the middle of the quadratic term",
        "filters/sensors.py",
        "return (pulled * (y - 0.5 * reading.gap * at)).sum(-1)",
        "return (pulled * (y - reading.gap * at)).sum(-1)",
        "test_filters.py::test_increments_are_rates_with_covariance_r_over_dt_up_to_a_known_constant"
        "[particles]",
    ),
    bug(
        "Stratonovich's correction with the wrong sign",
        "filters/statespace.py",
        "total = total + (slope",
        "total = total - (slope",
        "test_filters_nonlinear.py::test_stratonovichs_reading_adds_the_drift_of_itos",
    ),
    bug(
        "noise of a continuous step that grows with the step, not its root",
        "filters/statespace.py",
        'unit = 1.0 if self.time == "discrete" else h**0.5',
        "unit = h",
        "test_filters_nonlinear.py::test_benes_formula_is_that_of_a_grid",
    ),
    bug(
        "RTS with the filtered covariance in place of the predicted one",
        "filters/posterior.py",
        "P = spread[..., k + 1, :, :]",
        "P = self.cov[..., k + 1, :, :]",
        "test_filters.py::test_full_smoothing_is_rauch_tung_and_striebels",
    ),
    bug(
        "Benes' mean without its tanh",
        "filters/exact.py",
        "means.append(m + P * m.tanh())",
        "means.append(m)",
        "test_filters_nonlinear.py::test_benes_formula_is_that_of_a_grid",
    ),
    bug(
        "noise added as it is, whatever its scale, where matrices are diagonal",
        "filters/sensors.py",
        "torch.addcmul(z if G is None else z * G, x, F)",
        "torch.addcmul(z, x, F)",
        "test_filters.py::test_diagonals_are_the_matrices_that_they_stand_for[0.3-0.7]",
    ),
    bug(
        "measurements that are not whitened where matrices are diagonal",
        "filters/sensors.py",
        "torch.addcmul(y * white, by_coordinate(x), pull, value=-1)",
        "torch.addcmul(y, by_coordinate(x), pull, value=-1)",
        "test_filters.py::test_diagonals_are_the_matrices_that_they_stand_for[0.3-1.0]",
    ),
    bug(
        "sums over coordinates that round by how states lie in memory",
        "filters/sensors.py",
        "if x.shape[-1] == 1 or x.stride(-2) == 1:",
        "if x.shape[-1] >= 1:",
        "test_filters.py::test_without_a_guide_and_with_a_window_of_one_measurement_it_is_the_bootstrap"
        "_bit_for_bit[ar10]",
    ),
    bug(
        "a record whose gaps are not seen",
        "filters/record.py",
        "return (~self.y.isnan()).all(-1).all(0).tolist()",
        "return [True] * self.y.shape[1]",
        "test_filters.py::test_a_stream_that_is_pickled_on_the_way_gives_the_record_s_laws"
        "[one-bootstrap]",
    ),
    bug(
        "EM that forgets to centre its residuals by F",
        "filters/parameters.py",
        "rest = after - before @ F.mT",
        "rest = after - before",
        "test_filters_nonlinear.py::test_em_climbs_kalmans_evidence",
    ),
]


@pytest.mark.planted
def test_the_laws_pass_without_a_bug(tmp_path):
    copy = copied(tmp_path)
    laws = sorted({law for bug in BUGS for law in bug.laws})
    code, outcomes, output = run_laws(copy, laws)
    assert code == 0, output
    for law in laws:
        assert {o for test, o, _ in outcomes if belongs(test, law)} == {"passed"}, (law, output)


@pytest.mark.planted
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_turns_its_laws_red(bug, tmp_path):
    copy = copied(tmp_path)
    for file, old, new in bug.edits:
        plant(copy / "src" / "redrift" / file, old, new)
    code, outcomes, output = run_laws(copy, bug.laws)
    assert code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), output
    for law in bug.laws:
        found = [(o, error) for test, o, error in outcomes if belongs(test, law)]
        assert found, f"{law} did not run:\n{output}"
        assert all(error not in BROKEN for _, error in found), output
        assert any(o == "failed" for o, _ in found), f"{law} did not see the bug"


def copied(folder):
    """Copy what the laws need into a folder."""
    clean = shutil.ignore_patterns("__pycache__", ".hypothesis")
    for part in ("src", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=clean)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def plant(path, old, new):
    text = path.read_text(encoding="utf-8")
    count = text.count(old)
    assert count == 1, f"{old!r} occurs {count} times in {path.name}: bring the entry up to date"
    path.write_text(text.replace(old, new), encoding="utf-8")


def belongs(test, law):
    """Say whether a test is one of a law, named with its parameters or without."""
    return test == f"tests/laws/{law}" or test.startswith(f"tests/laws/{law}[")


def run_laws(copy, laws):
    """Run laws on a copy: the exit code, (test, outcome, error) of each, and what was printed."""
    done = subprocess.run(
        [sys.executable, "-B", str(copy / "tests" / "planted.py"), str(copy), *laws],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert (copy / OUTCOMES).is_file(), output
    return done.returncode, json.loads((copy / OUTCOMES).read_text()), output


class Recorder:
    """Keep the outcome of every test, and the error where there is one."""

    def __init__(self):
        self.outcomes = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        # a failing fixture is an error, which no law may be named for
        if report.when == "call" or not report.passed:
            outcome = report.outcome if report.when == "call" else f"{report.when} failed"
            error = call.excinfo.typename if call.excinfo else None
            self.outcomes.append((item.nodeid, outcome, error))
        return report


def main(folder, *laws):
    import redrift

    if Path(folder).resolve() not in Path(redrift.__file__).resolve().parents:
        print(f"the laws would run on {redrift.__file__}, not on the copy in {folder}")
        return WRONG_PACKAGE
    recorder = Recorder()
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist"]
    code = pytest.main([*options, *(f"tests/laws/{law}" for law in laws)], plugins=[recorder])
    (Path(folder) / OUTCOMES).write_text(json.dumps(recorder.outcomes))
    return int(code)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
