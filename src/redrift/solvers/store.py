"""Plans as JSON: what made the rows, the times and the process; never the rows themselves.

A rule is a frozen dataclass, so its options rebuild it; times are written to full precision, so a
loaded plan's tables equal the saved one's bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from redrift._core.errors import choose
from redrift.process import Process, from_dict, to_dict
from redrift.solvers.registry import RULES
from redrift.solvers.row import Rule

_FORMAT = 2


def _rule_to_dict(rule: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a rule's kind and options, with the rule inside it, if any, likewise."""
    kind = type(rule).__name__
    if RULES.get(kind) is not type(rule):
        raise ValueError(
            f"the rule {kind} is not registered, so a file cannot name it: put @rd.solvers.register above "
            "the class, a frozen dataclass."
        )
    options = {field.name: getattr(rule, field.name) for field in dataclasses.fields(rule)}
    if "rule" in options:
        options["rule"] = _rule_to_dict(options["rule"])
    return {"kind": kind, **options}


def _rule_from_dict(data: dict[str, Any]) -> Rule:
    options = dict(data)
    kind = RULES[choose("rule", options.pop("kind"), RULES)]
    if "rule" in options:
        options["rule"] = _rule_from_dict(options["rule"])
    return kind(**options)


def dump(rule: Rule | None, process: Process, **rest: Any) -> str:  # noqa: ANN401
    """Return a JSON object of a plan's rule, its process and the rest of `Plan.build`'s arguments.

    Raises:
        ValueError: if the rule or the process is the user's own and not registered.
    """
    kept = {"format": _FORMAT, "rule": _rule_to_dict(rule), "process": to_dict(process), **rest}
    return json.dumps(kept, indent=1)


def parse(text: str) -> dict[str, Any]:
    """Return the arguments of `Plan.build` from `dump`'s text.

    Raises:
        ValueError: if the text is not a plan of this format.
    """
    try:
        data = json.loads(text)
        if data.pop("format") != _FORMAT:
            raise ValueError(f"the plan is not of the supported format {_FORMAT}: make it anew.")
        rule, process = _rule_from_dict(data.pop("rule")), from_dict(data.pop("process"))
        return {"rule": rule, "process": process, **data, "papers": tuple(data["papers"])}
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"this is not a saved plan: {error!r}.") from error
