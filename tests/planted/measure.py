"""Planted bugs of `measure`."""

from planted import bug

BUGS = [
    bug(
        "Girsanov's weight without its quadratic term",
        "measure.noise:log_ratio",
        "* (eta + delta / 2)",
        "* eta",
        "test_path_measure.py::test_kernel_ratio_is_girsanovs_formula_when_the_covariance_is_shared[0.3]",
        "test_path_measure.py::test_weights_of_a_random_control_are_unbiased_for_z[1-control]",
    ),
    bug(
        "systematic resampling on a comb that does not move",
        "measure.resampling:systematic",
        "uniforms(len(w), 1, w, generator)",
        "torch.full((len(w), 1), 0.5)",
        "test_resampling.py::test_resampling_is_unbiased[systematic-4]",
    ),
    bug(
        "remainders drawn by the full weights",
        "measure.resampling:residual",
        "torch.where(none_left, w, remainder)",
        "w",
        "test_resampling.py::test_resampling_is_unbiased[residual-7]",
    ),
    bug(
        "Girsanov's drive without the control's half",
        "measure.girsanov:log_girsanov",
        "u / 2",
        "u",
        "test_girsanov.py::test_the_ratio_of_kernels_is_girsanovs_formula",
    ),
    bug(
        "a diagonal law's determinant of one coordinate",
        "measure.noise:log_det_root",
        "total(root.std.log())",
        "root.std.log().reshape(len(root.std), -1)[:, 0]",
        "test_girsanov.py::test_a_diagonal_law_of_the_noise_is_the_same_law_as_its_matrix",
    ),
    bug(
        "the tail of the smallest weights",
        "measure.tail:_fit",
        "(row - top)",
        "(row.amin() - row)",
        "test_girsanov.py::test_k_hat_is_the_tail_index_of_pareto_weights[0.9]",
    ),
    bug(
        "teeth counted up to a particle and not below it",
        "measure.resampling:comb",
        "[:, :n].cumsum(-1)",
        "[:, 1:].cumsum(-1).clamp(max=w.shape[-1] - 1)",
        "test_resampling.py::test_many_teeth_are_counted_as_few_are_searched",
    ),
    bug(
        "the determinant of a reversed kernel's map with the wrong sign",
        "rollout:_reversed",
        "- p_volume",
        "+ p_volume",
        "test_path_measure.py::test_optimal_reverse_gives_the_exact_log_density_in_every_path[2]",
    ),
    bug(
        "antithetic pairs half a batch apart",
        "rollout:_draw",
        "stack([half, -half], dim=1).reshape(shape)",
        "cat([half, -half])",
        "test_path_measure.py::test_antithetic_pairs_are_exact_draws_with_opposite_noise",
    ),
    bug(
        "all sets resampled where one is low",
        "measure.resampling:adaptive_resample",
        "torch.where(which[..., None], drawn, keep)",
        "drawn",
        "test_resampling.py::test_sets_below_the_threshold_are_resampled_and_the_others_are_left_alone",
        "test_guidance.py::test_a_sample_is_the_same_whatever_its_neighbours_and_the_batch_split",
    ),
    bug(
        "resampling forgets the mean weight",
        "measure.resampling:adaptive_resample",
        "(log_w.logsumexp(-1, keepdim=True) - math.log(n)).expand_as(log_w)",
        "torch.zeros_like(log_w)",
        "test_resampling.py::test_sets_below_the_threshold_are_resampled_and_the_others_are_left_alone",
        "test_guidance_weights.py::test_two_resampled_particles_are_unbiased_by_enumeration",
    ),
    bug(
        "no numbers drawn where no set is resampled",
        "measure.resampling:adaptive_resample",
        "not low and not always_draw",
        "not low",
        "test_resampling.py::test_the_numbers_of_a_set_do_not_depend_on_the_weights_of_others",
    ),
]
