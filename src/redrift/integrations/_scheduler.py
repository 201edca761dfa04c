"""`PlanScheduler`: redrift's plans behind the scheduler protocol of diffusers."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from redrift._core.errors import choose, whole
from redrift._core.optional import need
from redrift.integrations._course import Course, course_of
from redrift.integrations._entries import Timesteps
from redrift.integrations._grids import INTEGERS
from redrift.integrations._laws import check_class, law_of, prediction_of
from redrift.integrations._program import Program, Run
from redrift.integrations._words import complete, translate
from redrift.process import SPACINGS, ScalarProcess
from redrift.process.convert import mix
from redrift.solvers import SOLVERS, Plan

need("diffusers", "diffusers")

from diffusers.configuration_utils import ConfigMixin, register_to_config  # noqa: E402
from diffusers.schedulers.scheduling_utils import (  # noqa: E402
    KarrasDiffusionSchedulers,
    SchedulerMixin,
    SchedulerOutput,
)
from diffusers.utils.torch_utils import randn_tensor  # noqa: E402

_ENDS = ("min", "zero", "denoise")


class PlanScheduler(SchedulerMixin, ConfigMixin):
    """Sample any diffusers pipeline with a redrift plan.

    `pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, solver="res", order=3)` takes
    the noise schedule and the prediction type of any other scheduler. `set_timesteps(n)` counts
    *evaluations*: the network is called at most n times, stages included, and `timesteps` lists every
    call. Coefficients are float64 tables, combinations run in float32 (float64 for float64) and are
    cast once; `step` never waits for the device and takes at most five tensor operations up to order
    3 (the first few outputs of a run are copied besides).

    Between the stages of a single-step method the state that a pipeline's callbacks see is that of
    the stage. A scheduler holds the state of one run: give each thread its own (from the same
    configuration). Some pipelines (DiT, SD3, Flux) hand no generator to `step`: for stochastic plans
    set `scheduler.generator` there.

    Args:
        num_train_timesteps: length of the noise schedule.
        beta_start: first beta.
        beta_end: last beta.
        beta_schedule: "linear", "scaled_linear", "squaredcos_cap_v2" or "sigmoid".
        trained_betas: the betas themselves.
        prediction_type: "epsilon", "sample", "v_prediction" or "flow_prediction".
        solver: a builder's name, see `redrift.plan_for`; "best" is its documented default.
        order: order of the method; None is its default. (`scheduler.order`, diffusers' count of
            evaluations per timestep, is always 1.)
        spacing: of the grid: one of redrift's ("quadratic", "logsnr", "karras", ...), or diffusers'
            integer "leading", "trailing" or "linspace"; None is redrift's default. On rectified flow
            the grid is the fitted one ("best") or even, then shifted.
        end: "min" ends at the schedule's least noise, "zero" makes the last step end clean, "denoise"
            spends an evaluation at the least noise to end clean; None is "min" where that noise is
            below .02 of the signal, "denoise" above, and "zero" on rectified flow.
        options: the builder's own, such as {"multistep": True}.
        plan: a saved plan as a dictionary, such as a calibrated one; `from_config` also takes a `Plan`
            or the path of its file. It fixes the number of evaluations.
        steps_offset: added to "leading" timesteps.
        rescale_betas_zero_snr: shift the schedule so that it ends without signal.
        clip_sample: clip the predicted clean sample to +- clip_sample_range.
        clip_sample_range: see above.
        thresholding: clip it at a quantile of its size instead (Imagen's dynamic thresholding), for
            models of pixels.
        dynamic_thresholding_ratio: that quantile.
        sample_max_value: largest value it may scale by.
        variance_type: "learned" or "learned_range" if the network returns twice the channels, the
            second half of which is left out.
        shift: of rectified flow, see `use_dynamic_shifting`.
        use_dynamic_shifting: take the shift from the picture's size, set_timesteps(mu=).
        time_shift_type: "exponential" or "linear".
        base_shift: for the pipeline that computes mu.
        max_shift: likewise.
        base_image_seq_len: likewise.
        max_image_seq_len: likewise.
        use_flow_sigmas: tells pipelines of rectified flow to leave the grid to the scheduler.
        shift_terminal: flow time to which the last step's is stretched.
        invert_sigmas: rectified flow told in times that rise towards the data (Mochi).
        snr_shift_scale: factor by which CogVideoX divides the signal-to-noise ratio.
        timestep_type: "discrete", or "continuous" for networks of v that are told a quarter of log sigma
            (Stable Video Diffusion), between sigma_min and sigma_max.
        sigma_min: see above.
        sigma_max: see above.

    Raises:
        ValueError: for a prediction type, schedule, solver, spacing or end that is not known, and
            thresholding on rectified flow.
    """

    _compatibles = [  # noqa: RUF012
        *(kind.name for kind in KarrasDiffusionSchedulers),
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
    ]
    order = 1
    config: Any  # a frozen dictionary with attributes, made by `register_to_config`

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        prediction_type: str = "epsilon",
        solver: str = "best",
        order: int | None = None,
        spacing: str | None = None,
        end: str | None = None,
        options: dict[str, Any] | None = None,
        plan: dict[str, Any] | None = None,
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        variance_type: str | None = None,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
        base_shift: float = 0.5,
        max_shift: float = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        use_flow_sigmas: bool | None = None,
        shift_terminal: float | None = None,
        invert_sigmas: bool = False,
        snr_shift_scale: float | None = None,
        timestep_type: str = "discrete",
        sigma_min: float | None = None,
        sigma_max: float | None = None,
    ) -> None:
        choose("solver", solver, SOLVERS)
        if spacing is not None:
            choose("spacing", spacing, (*SPACINGS, *INTEGERS))
        if end is not None:
            choose("end", end, _ENDS)
        flow = prediction_of(self.config) == "flow"
        self.register_to_config(use_flow_sigmas=flow)
        if flow and (thresholding or clip_sample):
            raise ValueError(
                "thresholding=True and clip_sample=True have no meaning for rectified flow in a latent "
                "space: set them to False."
            )
        self._law = law_of(self.config)
        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self.timesteps: Tensor = torch.arange(num_train_timesteps - 1, -1, -1)
        self.sigmas = torch.empty(0)
        self.generator: torch.Generator | None = None
        self._courses: dict[Any, Course] = {}
        self._course: Course | None = None
        self._clear()

    @classmethod
    def from_config(
        cls,
        config: Any = None,  # noqa: ANN401
        return_unused_kwargs: bool = False,
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Build from any scheduler's configuration; keyword arguments replace its entries.

        Args:
            config: a scheduler, its `config`, or a dictionary. Its own defaults count, and every word that
                changes the law; its method and grid do not, since a plan has its own.
            return_unused_kwargs: see diffusers.
            kwargs: arguments of `PlanScheduler`, or diffusers' words for them (`solver_order`,
                `timestep_spacing`, `use_karras_sigmas`, `use_exponential_sigmas`, `flow_shift`,
                `algorithm_type`, `final_sigmas_type`); plan= may be a `Plan` or the path of its file.

        Raises:
            ValueError: for a class whose law is not known, a word of its configuration that is not
                understood, or a keyword without effect here.
        """
        name = None
        if isinstance(config, SchedulerMixin):
            name, config = type(config).__name__, config.config  # pyright: ignore
        plan = kwargs.get("plan")
        if isinstance(plan, (str, os.PathLike)):
            plan = Plan.load(str(plan))
        if isinstance(plan, Plan):
            kwargs["plan"] = json.loads(plan.to_json())
        words = set(inspect.signature(cls.__init__).parameters) - {"self"}
        if isinstance(config, Mapping):
            check_class(config, name)
            config = complete(config)
        return super().from_config(
            config, return_unused_kwargs=return_unused_kwargs, **translate(kwargs, words)
        )

    @property
    def process(self) -> ScalarProcess:
        """Return the process of the noise."""
        return self._law.process

    @property
    def predicts(self) -> str:
        """Return what the network predicts, in the words of `Denoiser`."""
        return self._law.predicts

    # ------------------------------------------------------------------ the grid

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | Tensor | None = None,
        sigmas: Sequence[float] | Tensor | None = None,
        mu: float | None = None,
    ) -> None:
        """Choose the steps of the next run: a budget, or the times or noise levels of its evaluations.

        Args:
            num_inference_steps: budget of evaluations.
            device: where `timesteps` goes.
            timesteps: where steps begin, in the network's time, from noise to data. The times of a budget's
                own run are that run.
            sigmas: likewise as noise levels, sigma / alpha (t for rectified flow); a last 0 ends
                there, and on rectified flow it is understood. The even grid that pipelines of
                rectified flow make up themselves (1 to 1/n) counts as a budget of n. With timesteps=
                beside it, those are what the network is told there.
            mu: of dynamic shifting.

        Raises:
            ValueError: if none is given, or a budget beside a list, or a list that is not monotone or out
                of range.
        """
        given = {
            "num_inference_steps": num_inference_steps,
            "timesteps": timesteps,
            "sigmas": sigmas,
        }
        course = self._course = course_of(self.config, self._courses, given, mu)
        self._law = course.law
        self._clear()
        self.timesteps = self._shown(course.times, device)
        if course.reenters:
            self.timesteps = Timesteps.of(self.timesteps, self)
        self.sigmas = torch.tensor(course.sigmas, dtype=torch.float32)
        self.num_inference_steps = len(course.times)

    def _shown(self, times: Sequence[float], device: Any) -> Tensor:  # noqa: ANN401
        """Return the times as diffusers shows them: integers where all are, float32 otherwise."""
        found = torch.tensor(times, dtype=torch.float64)
        integral = bool((found == found.round()).all()) and self.predicts != "flow"
        return found.to(torch.int64 if integral else torch.float32).to(device)

    def entered(self, i: int) -> Tensor | None:
        """Return the times of a run that begins at evaluation i; None once one has begun."""
        if self._step_index is not None or self._course is None:
            return None
        return self._shown(self._course.entry(i)[1], self.timesteps.device)

    # ------------------------------------------------------------------ the run

    @property
    def plan(self) -> Plan:
        """Return the plan of `set_timesteps`, to print, or to give to `rd.sample`."""
        if self._course is None:
            raise ValueError("call set_timesteps first: the plan depends on the budget.")
        return self._course.program.plan

    @property
    def step_index(self) -> int | None:
        """Return the index into `timesteps` of the next evaluation; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Return the index at which a run begins; None means 0."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin the next run at this index of `timesteps`, as image-to-image does.

        Of a budget, the run enters where diffusers' own would at this share of its steps, on a grid of its
        own; of given times, the rows are made anew for an empty history, and inside a step of several stages
        steps of order 1 lead to the next whole step.
        """
        self._clear()
        self._begin_index = int(begin_index)

    def _clear(self) -> None:
        self._begin_index: int | None = None
        self._step_index: int | None = None
        self._run, self._path = Run(), None

    def scale_model_input(self, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """Return the sample: plans keep it at the scale the network was trained on."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        *others: Any,  # noqa: ANN401
        generator: torch.Generator | list[torch.Generator] | None = None,
        per_token_timesteps: Tensor | None = None,
        return_dict: bool = True,
        **more: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Take one network output and return where the network is asked next.

        Args:
            model_output: (B, *shape), the network's prediction at `sample`.
            timestep: `timesteps[step_index]`, or its nearest integer; a first one from the middle begins
                there.
            sample: (B, *shape).
            others: what some pipelines hand over by position: eta, which a plan has for itself, and a
                generator.
            generator: one, or a list with one per sample, for stochastic plans.
            per_token_timesteps: with it (LTX with conditions) the output comes with its sign turned; tokens
                at other levels are put back by the pipeline.
            return_dict: return a `SchedulerOutput`, else a tuple.
            more: keyword arguments of other schedulers' steps, which have no effect here.

        Raises:
            ValueError: if called before `set_timesteps`, out of order or past the end.
        """
        program, i = self._enter(timestep)
        at = program.instructions[i].level
        for value in others:
            if isinstance(value, (torch.Generator, list)):
                generator = value
        sign = self._law.sign if per_token_timesteps is None else -self._law.sign
        if self.config.variance_type in ("learned", "learned_range"):
            model_output = model_output[:, : sample.shape[1]]
        if model_output.shape != sample.shape:
            raise ValueError(
                f"model_output has shape {tuple(model_output.shape)}, expected the sample's "
                f"{tuple(sample.shape)}; a network that also returns variances needs "
                "variance_type='learned_range'."
            )
        dtype = sample.dtype
        if dtype.itemsize < 4:
            model_output, sample = model_output.float(), sample.float()
        if sign < 0:
            model_output = -model_output
        if self.config.thresholding or self.config.clip_sample:
            model_output = self._clip(model_output, sample, at)

        def noise(like: Tensor) -> Tensor:
            source = self.generator if generator is None else generator
            return randn_tensor(like.shape, generator=source, device=like.device, dtype=like.dtype)

        result = program.advance(self._run, i, model_output, sample, noise)
        assert self._step_index is not None
        self._step_index += 1
        result = result if result.dtype == dtype else result.to(dtype)
        return SchedulerOutput(prev_sample=result) if return_dict else (result,)

    def _enter(self, timestep: float | Tensor) -> tuple[Program, int]:
        """Return the program and the index of this evaluation in it."""
        if self._course is None:
            raise ValueError("step was called before set_timesteps.")
        # a number on a device is not read: that would wait for it
        known = not isinstance(timestep, Tensor) or timestep.device.type == "cpu"
        if self._path is None or self._step_index is None:
            if self._begin_index is None and known:
                self._begin_index = self._course.found(float(timestep))
            begin = self._begin_index or 0
            whole("begin_index", begin, least=0, most=len(self._course.program) - 1)
            self._path = self._course.entry(begin)
            self._step_index, self._run = begin, Run()
        (program, times), i = self._path, self._step_index - (self._begin_index or 0)
        if i >= len(times):
            raise ValueError(
                f"step was called {i + 1} times, but the run has {i} evaluations: call "
                "set_timesteps (and set_begin_index) before the next run."
            )
        if known and abs(float(timestep) - times[i]) > self._course.rounding:
            raise ValueError(
                f"step got timestep {float(timestep):g}, but evaluation {self._step_index} is at "
                f"{times[i]:g}: "
                "steps come in the order of `timesteps`; to begin later, call set_begin_index first."
            )
        return program, i

    def _clip(self, output: Tensor, sample: Tensor, level: Any) -> Tensor:  # noqa: ANN401
        """Return the output whose clean sample is clipped."""
        P, Q = mix(self.process, level, self.predicts, "x0")
        clean = sample * P + output * Q
        config = self.config
        if config.thresholding:
            size = torch.quantile(
                clean.flatten(1).abs(), config.dynamic_thresholding_ratio, dim=1
            ).clamp(1, max(1.0, config.sample_max_value))
            size = size.reshape(-1, *[1] * (clean.ndim - 1))
            clean = clean.clamp(-size, size) / size
        else:
            clean = clean.clamp(-config.clip_sample_range, config.clip_sample_range)
        return (clean - sample * P) / Q

    # ------------------------------------------------------------------ noise

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return alpha x0 + sigma noise at the network's times (B,), which may be any.

        The first of `timesteps` stands for the start of the run, also where its evaluation is below it.
        """
        if self._course is not None and self.plan.skips_start:
            first, start = self._course.times[0], float(self._law.told(self.plan.times[0]))
            given = torch.as_tensor(timesteps, dtype=torch.float64, device="cpu")
            timesteps = torch.where((given - first).abs() < 1e-3, start, given)
        signal, root = self._levels(timesteps, original_samples)
        return signal * original_samples + root * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """Return `add_noise` with the arguments in the order of flow-matching schedulers."""
        return self.add_noise(sample, noise, timestep)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return v = alpha noise - sigma x0, the target of v-prediction."""
        signal, root = self._levels(timesteps, sample)
        return signal * noise - root * sample

    def _levels(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        told = torch.as_tensor(timesteps).detach().cpu().double().reshape(-1)
        level = self.process.level(self._law.asked(told))
        shape = (-1, *[1] * (like.ndim - 1))
        return level.signal.reshape(shape).to(like), level.root.reshape(shape).to(like)

    @property
    def alphas_cumprod(self) -> Tensor:
        """Return the table of alpha-bar, which some pipelines read."""
        if self.predicts == "flow":
            raise AttributeError("rectified flow has no alphas_cumprod")
        return torch.tensor(self.process.alpha_bar, dtype=torch.float32)  # pyright: ignore

    def __len__(self) -> int:
        """Return the length of the noise schedule."""
        return self.config.num_train_timesteps
