"""Planted bugs of `denoise`."""

from planted import bug

BUGS = [
    bug(
        "a conversion forgets that EDM's noise level may be fitted",
        "denoise.denoiser:Denoiser.ask",
        "requires_grad or level.root.requires_grad",
        "requires_grad",
        "test_conversions.py::test_a_converted_prediction_is_differentiable_in_its_time",
    ),
    bug(
        "conditions not gathered by the ancestors",
        "denoise.denoiser:Denoiser.take",
        "[index.to(value.device)] if _per_sample(value) else value",
        "",
        "test_sampling.py::test_ancestors_regather_history_and_conditions",
    ),
    bug(
        "guidance counted from the wrong side",
        "denoise.wrappers:Guided.predict",
        "dropped + self",
        "given + self",
        "test_sampling.py::test_guidance_is_the_same_in_every_reading",
    ),
    bug(
        "a mixture's evidence without its determinant",
        "denoise.exact:GaussianMixture._evidence",
        "(g / spread) + spread.log()",
        "(g / spread)",
        "test_oracles.py::test_the_score_is_the_gradient_of_the_density[0.5-VP]",
    ),
    bug(
        "the examples' norms missing from the empirical posterior",
        "denoise.exact:Empirical.posterior",
        "T - g @ (data**2).T / 2",
        "T",
        "test_oracles.py::test_an_empirical_law_is_a_mixture_of_points[VP]",
    ),
    bug(
        "the unknown part replaced",
        "denoise.edits:Inpaint._replace",
        "mask, known, x0",
        "mask, x0, known",
        "test_collage_denoiser.py::test_replacement_returns_the_known_part_and_moves_the_rest",
    ),
    bug(
        "a reconstruction of half the length",
        "denoise.edits:Inpaint.predict",
        "- step * g",
        "- 0.5 * step * g",
        "test_collage_denoiser.py::test_reconstruction_meets_one_known_site_at_once_and_never_moves_away",
    ),
    bug(
        "an edit that is not put into the prediction",
        "denoise.edits:edited",
        "process.lift(found)",
        "state",
        "test_guidance_parts.py::test_a_hard_rule_holds_to_rounding_and_leaves_the_rest",
    ),
    bug(
        "an output that is kept in the network's own buffer",
        "denoise.denoiser:Denoiser._call",
        "owned(out) if isinstance(out, Tensor) else out",
        "out",
        "test_memory.py::test_a_network_may_write_its_output_again_and_on_its_input[deis-one buffer]",
    ),
    bug(
        "an input that is the state itself",
        "denoise.denoiser:Denoiser._call",
        "x = x.clone()",
        "pass",
        "test_memory.py::test_a_network_may_write_its_output_again_and_on_its_input[deis-in place]",
    ),
]
