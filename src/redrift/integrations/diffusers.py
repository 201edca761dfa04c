"""redrift in the pipelines of diffusers, and their networks in redrift.

    from redrift.integrations.diffusers import PlanScheduler
    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, solver="res", order=3)

Import this module before `from_pretrained` of a pipeline that was saved with a `PlanScheduler`:
diffusers finds the class by the name of this module.
"""

from __future__ import annotations

from redrift._core.optional import need

need("diffusers", "diffusers")

# diffusers looks for these two names where a saved scheduler's class lives
from diffusers.configuration_utils import ConfigMixin  # noqa: E402
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: E402

from redrift.integrations._adapters import decode, denoiser, prompt  # noqa: E402
from redrift.integrations._scheduler import PlanScheduler  # noqa: E402

PlanScheduler.__module__ = __name__

__all__ = ["ConfigMixin", "PlanScheduler", "SchedulerMixin", "decode", "denoiser", "prompt"]
