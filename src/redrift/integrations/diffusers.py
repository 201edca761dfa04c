"""redrift in the pipelines of diffusers.

    from redrift.integrations.diffusers import PlanScheduler
    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, solver="res", order=3)

Import this module before `from_pretrained` of a pipeline that was saved with a `PlanScheduler`:
diffusers finds the class by the name of this module.
"""

from __future__ import annotations

from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from redrift.integrations._scheduler import PlanScheduler

PlanScheduler.__module__ = __name__

__all__ = ["ConfigMixin", "PlanScheduler", "SchedulerMixin"]
