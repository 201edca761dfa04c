"""Plans as JSON: what made the rows, the times and the process; never the rows themselves.

A rule is a frozen dataclass, so its options rebuild it; times are written to full precision, so a
loaded plan's tables equal the saved one's bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from redrift._core.errors import choose
from redrift._core.files import write_atomically
from redrift.process import from_dict, to_dict
from redrift.solvers.ancestral import Ancestral, ExponentialSDE
from redrift.solvers.bend import Bent
from redrift.solvers.churn import Churned
from redrift.solvers.dpmpp import DPMpp
from redrift.solvers.exprk import RungeKutta
from redrift.solvers.gddim import CholeskyAdams, Stochastic
from redrift.solvers.multistep import Adams
from redrift.solvers.plan import CleanEnd, Plan, Rule
from redrift.solvers.rhork import IPNDM, RhoRungeKutta

_RULES: dict[str, Any] = {
    rule.__name__: rule
    for rule in (
        Adams,
        Ancestral,
        Bent,
        CholeskyAdams,
        Churned,
        CleanEnd,
        DPMpp,
        ExponentialSDE,
        IPNDM,
        RhoRungeKutta,
        RungeKutta,
        Stochastic,
    )
}
_FORMAT = 1


def _rule_to_dict(rule: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a rule's kind and options, with the rule inside it, if any, likewise."""
    kind = type(rule).__name__
    if _RULES.get(kind) is not type(rule):
        raise ValueError(f"the rule {kind} is not one of {', '.join(_RULES)}: it cannot be saved.")
    options = {field.name: getattr(rule, field.name) for field in dataclasses.fields(rule)}
    if "rule" in options:
        options["rule"] = _rule_to_dict(options["rule"])
    return {"kind": kind, **options}


def _rule_from_dict(data: dict[str, Any]) -> Rule:
    options = dict(data)
    kind = _RULES[choose("rule", options.pop("kind"), _RULES)]
    if "rule" in options:
        options["rule"] = _rule_from_dict(options["rule"])
    return kind(**options)


def to_json(plan: Plan) -> str:
    """Return the plan as a JSON object.

    Raises:
        ValueError: if its rule or process is the user's own, which a file cannot hold.
    """
    return json.dumps(
        {
            "format": _FORMAT,
            "rule": _rule_to_dict(plan.rule),
            "process": to_dict(plan.process),
            "times": plan.times.tolist(),
            "wants": plan.wants,
            "history": plan.history,
            "order": plan.order,
            "name": plan.name,
            "papers": list(plan.papers),
            "stochastic": plan.stochastic,
        },
        indent=1,
    )


def from_json(text: str) -> Plan:
    """Rebuild a plan from `to_json`.

    Raises:
        ValueError: if the text is not a plan of this format.
    """
    try:
        data = json.loads(text)
        rule = _rule_from_dict(data["rule"])
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']} is not the supported {_FORMAT}")
        process = from_dict(data["process"])
        names = ("wants", "history", "order", "name", "stochastic")
        rest = {name: data[name] for name in names}
        return Plan.build(process, data["times"], rule, papers=tuple(data["papers"]), **rest)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"this is not a saved plan: {error!r}.") from error


def save(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write the plan to a JSON file, whole or not at all."""
    text = to_json(plan)
    write_atomically(path, lambda target: Path(target).write_text(text, encoding="utf-8"))


def load(path: str | os.PathLike[str]) -> Plan:
    """Read a plan from a JSON file."""
    return from_json(Path(path).read_text(encoding="utf-8"))
