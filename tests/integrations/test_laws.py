"""Every scheduler class of diffusers is known, with its own law, or refused by name; so is every word."""

import importlib
import inspect
import pkgutil

import diffusers
import diffusers.schedulers
import numpy
import pytest
import torch
from diffusers.configuration_utils import ConfigMixin
from tiny import build, ddpm

from redrift.integrations._laws import KNOWN, REFUSED
from redrift.integrations.diffusers import PlanScheduler, denoiser

pytestmark = pytest.mark.filterwarnings("ignore")


def classes():
    """Return every scheduler class that this version of diffusers has."""
    found = {}
    package = diffusers.schedulers
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if "flax" in module.name or module.name.endswith(("_sde", "cosine_dpmsolver_multistep")):
            continue  # the latter two need torchsde
        for name, kind in vars(importlib.import_module(module.name)).items():
            own = inspect.isclass(kind) and kind.__module__ == module.name
            if own and issubclass(kind, ConfigMixin) and name.endswith("Scheduler"):
                found[name] = kind
    return found


CLASSES = classes()
NEEDED = {
    "AmusedScheduler": {"mask_token_id": 0},
    "VQDiffusionScheduler": {"num_vec_classes": 4},
    "RFD4ProteinaScheduler": dict(schedule_mode="log", noise_mode="a", tsr_k=1.0, tsr_sigma=1.0),
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_known_or_refused_by_name(name):
    assert (name in KNOWN) != (name in REFUSED)


@pytest.mark.parametrize("name", sorted(REFUSED.keys() & CLASSES.keys()))
def test_a_refused_class_is_named_by_its_object_its_file_and_its_configuration(name):
    kind = CLASSES[name]
    with pytest.raises(ValueError, match=name):
        PlanScheduler.from_config({"_class_name": name})
    if name in ("FlowMapEulerDiscreteScheduler", "RFD4ProteinaScheduler"):
        return  # the words of the first are those of FlowMatchHeun's; the other cannot be made alone
    theirs = kind(**NEEDED.get(name, {}))
    with pytest.raises(ValueError, match=name):
        PlanScheduler.from_config(theirs)
    with pytest.raises(ValueError, match="PlanScheduler cannot stand for"):
        PlanScheduler.from_config(theirs.config)


SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
VARIANTS = {
    "own defaults": {},
    "latent": SD,
    "cosine": dict(beta_schedule="squaredcos_cap_v2"),
    "v": dict(prediction_type="v_prediction", **SD),
    "zero signal": dict(rescale_betas_zero_snr=True, prediction_type="v_prediction", **SD),
    "shifted signal": dict(snr_shift_scale=1.5, rescale_betas_zero_snr=True,
                           prediction_type="v_prediction", **SD),
    "trained": dict(trained_betas=torch.linspace(1e-3, 0.03, 500).tolist(), num_train_timesteps=500),
}  # fmt: skip
TABLES = sorted(
    name for name in KNOWN
    if name in CLASSES and "beta_schedule" in inspect.signature(CLASSES[name]).parameters
)  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", TABLES)
def test_the_law_of_a_discrete_schedule_is_its_own(name, variant):
    kind, words = CLASSES[name], VARIANTS[variant]
    if not words.keys() <= inspect.signature(kind).parameters.keys():
        pytest.skip("it has no such word")
    try:
        theirs = kind(**words)
    except (ValueError, NotImplementedError, TypeError):
        pytest.skip("it refuses this itself")
    mine = PlanScheduler.from_config(theirs.config)
    own = theirs.alphas_cumprod.double()
    if words.get("rescale_betas_zero_snr"):
        assert torch.allclose(mine.alphas_cumprod[:-1].double(), own[:-1], atol=2e-6)
        assert max(float(own[-1]), float(mine.alphas_cumprod[-1])) < 1e-6
    else:
        assert torch.allclose(mine.alphas_cumprod.double(), own, rtol=2e-5, atol=1e-9)
    told = theirs.config.get("prediction_type", "epsilon")
    assert mine.predicts == {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}[told]
    x, e = torch.ones(2, 3), torch.full((2, 3), 2.0)
    t = torch.tensor([100, 400])
    if "Inverse" not in name and name != "RePaintScheduler":
        if hasattr(theirs, "sigmas"):  # theirs works on x / alpha for some, at times of a run
            return
        assert torch.allclose(mine.add_noise(x, e, t), theirs.add_noise(x, e, t), atol=1e-5)


def test_continuous_times_are_a_quarter_of_log_sigma():
    words = dict(prediction_type="v_prediction", timestep_type="continuous", **SD)
    theirs = diffusers.EulerDiscreteScheduler(
        use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0, **words
    )
    theirs.set_timesteps(6)
    mine = PlanScheduler.from_config(theirs.config)
    mine.set_timesteps(sigmas=theirs.sigmas.tolist())
    assert torch.allclose(mine.timesteps, theirs.timesteps.float(), atol=1e-4)
    assert torch.allclose(mine.sigmas, theirs.sigmas.float(), rtol=1e-3)
    # at their scale, sigma^2 + 1 times ours, the first step of order 1 is theirs
    mine = PlanScheduler.from_config(theirs.config, solver="ddim")
    mine.set_timesteps(sigmas=theirs.sigmas.tolist())
    z, v = torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(0))
    theirs_x = z * (theirs.sigmas[0] ** 2 + 1).sqrt()
    theirs.scale_model_input(theirs_x, theirs.timesteps[0])
    wanted = theirs.step(v, theirs.timesteps[0], theirs_x).prev_sample
    found = mine.step(v, mine.timesteps[0], z).prev_sample
    scale = (theirs.sigmas[1] ** 2 + 1).sqrt()
    assert torch.allclose(found * scale, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def test_inverted_times_rise_towards_the_data_and_turn_the_sign():
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    theirs.set_timesteps(5)
    mine = PlanScheduler.from_config(theirs.config, solver="ddim")
    mine.set_timesteps(timesteps=theirs.timesteps.tolist())
    assert torch.allclose(mine.timesteps, theirs.timesteps.float(), atol=1e-3)
    x = y = torch.randn(4, generator=torch.Generator().manual_seed(0))
    for t in theirs.timesteps:
        x = theirs.step(torch.tanh(x), t, x).prev_sample
    for t in mine.timesteps:
        y = mine.step(torch.tanh(y), t, y).prev_sample
    assert torch.allclose(x, y, atol=1e-5)


@pytest.mark.parametrize("words", [dict(shift=3.0), dict(shift_terminal=0.1),
                                   dict(use_dynamic_shifting=True, shift_terminal=0.02)])  # fmt: skip
def test_given_flow_times_are_moved_as_diffusers_moves_them(words):
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(**words)
    mu = {"mu": 0.7} if "use_dynamic_shifting" in words else {}
    sigmas = numpy.linspace(1, 0.3, 6)  # not the grid that stands for a budget
    theirs.set_timesteps(sigmas=sigmas, **mu)
    mine = PlanScheduler.from_config(theirs.config, solver="ddim")
    mine.set_timesteps(sigmas=sigmas, **mu)
    assert torch.allclose(mine.sigmas, theirs.sigmas.float(), atol=1e-5)
    assert torch.allclose(mine.timesteps, theirs.timesteps.float(), atol=1e-2)


def test_times_beside_noise_levels_are_what_the_network_is_told():
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.25)
    timesteps = torch.linspace(1000, 1, 8).long()  # as CogView4 hands them over
    sigmas = (timesteps / 1000).tolist()
    theirs.set_timesteps(timesteps=timesteps.numpy(), sigmas=numpy.array(sigmas), mu=0.9)
    mine = PlanScheduler.from_config(theirs.config, solver="ddim")
    mine.set_timesteps(timesteps=timesteps.tolist(), sigmas=sigmas, mu=0.9)
    assert len(mine.timesteps) == 8
    # at the noise level of each of their steps, the network is told what they tell it
    at = torch.stack([step.level.t for step in mine._course.program.instructions])
    clean = torch.cat((timesteps, timesteps.new_zeros(1)))
    wanted = numpy.interp(at, theirs.sigmas.flip(0), clean.flip(0))
    assert numpy.allclose(mine.timesteps, wanted, rtol=0.02, atol=2.0)


# ------------------------------------------------------------------ words


def latent(**words):
    return PlanScheduler.from_config(diffusers.DDIMScheduler(**SD).config, **words)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (dict(solver_order=2), dict(order=2)),
        (dict(timestep_spacing="trailing"), dict(spacing="trailing")),
        (dict(use_karras_sigmas=True), dict(spacing="karras")),
        (dict(use_exponential_sigmas=True), dict(spacing="logsnr")),
        (dict(algorithm_type="dpmsolver++", solver_order=2), dict(solver="dpmpp", order=2)),
        (dict(final_sigmas_type="zero"), dict(end="zero")),
        (dict(use_karras_sigmas=False), {}),
    ],
)
def test_words_of_diffusers_for_what_there_is_are_honoured(theirs, ours):
    a, b = latent(**theirs), latent(**ours)
    a.set_timesteps(9)
    b.set_timesteps(9)
    assert str(a.plan) == str(b.plan)
    assert torch.equal(a.plan.times, b.plan.times)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (dict(sovler="res"), "Did you mean 'solver'"),
        (dict(lower_order_final=True), "has no effect on a plan"),
        (dict(use_beta_sigmas=True), "has no effect on a plan"),
        (dict(algorithm_type="sde-dpmsolver"), "has no effect on a plan"),
    ],
)
def test_words_without_effect_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        latent(**words)


def test_a_word_of_a_configuration_that_is_not_understood_is_refused():
    config = {**diffusers.DDIMScheduler(**SD).config, "noise_warp": 2.0}
    for read in (PlanScheduler.from_config, lambda c: denoiser(build(ddpm).unet, c)):
        with pytest.raises(ValueError, match="noise_warp=2.0 of the configuration"):
            read(config)


@pytest.mark.parametrize(
    "name", ["TCDScheduler", "LCMScheduler", "HeunDiscreteScheduler", "UnCLIPScheduler"]
)
def test_a_class_keeps_its_own_defaults(name):
    theirs = getattr(diffusers, name)()
    mine = PlanScheduler.from_config(theirs.config)
    for word in ("beta_schedule", "beta_start", "beta_end", "prediction_type"):
        if word in theirs.config:
            assert mine.config[word] == theirs.config[word]


def test_the_grid_follows_a_configuration_that_changes():
    scheduler = PlanScheduler.from_config(
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config
    )
    scheduler.set_timesteps(6)
    before = scheduler.timesteps.tolist()
    scheduler.register_to_config(shift=7.0)
    scheduler.set_timesteps(6)
    other = PlanScheduler.from_config(diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0).config)
    other.set_timesteps(6)
    assert scheduler.timesteps.tolist() == other.timesteps.tolist() != before
