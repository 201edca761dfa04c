"""Rules around rules: what changes some steps of a solver is a layer around its rule.

`StartUp(UniC(Adams("x0", "logrho", 3), above=0.4))` is a multistep rule, corrected at high noise, with a
first step of its own. A plan is varied by taking a layer off (`Plan.without`) or giving it other
options (`changed`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from redrift.solvers.row import Row

Kind = TypeVar("Kind")


class Layer:
    """A rule around `rule`; it says in a few words what a printed plan should mention.

    Attributes:
        gain: by how much it raises the order of the rule inside.
    """

    rule: Any
    gain: ClassVar[int] = 0

    def describe(self, rows: Sequence[Row]) -> str:
        """Return what to print beside the counts of a plan with these rows, "" for nothing."""
        return ""


def layers(rule: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield a rule and the rules inside it, outermost first."""
    while rule is not None:
        yield rule
        rule = getattr(rule, "rule", None)


def layer(rule: Any, kind: type[Kind]) -> Kind | None:  # noqa: ANN401
    """Return the layer of a kind, None where there is none."""
    return next((found for found in layers(rule) if isinstance(found, kind)), None)


def without(rule: Any, *kinds: type) -> Any:  # noqa: ANN401
    """Return a rule without its layers of these kinds; the same where it has none."""
    inner = getattr(rule, "rule", None)
    if inner is None:
        return rule
    bare = without(inner, *kinds)
    if isinstance(rule, kinds):
        return bare
    return rule if bare is inner else replace(rule, rule=bare)


def changed(rule: Any, kind: type, **options: Any) -> Any:  # noqa: ANN401
    """Return a rule whose layer or core of a kind has other options."""
    if isinstance(rule, kind):
        return replace(rule, **options)  # pyright: ignore[reportArgumentType]
    return replace(rule, rule=changed(rule.rule, kind, **options))


def core(rule: Any) -> Any:  # noqa: ANN401
    """Return the innermost rule."""
    *_, innermost = layers(rule)
    return innermost


def with_order(rule: Any, order: int) -> Any:  # noqa: ANN401
    """Return a rule whose core has another order."""
    return changed(rule, type(core(rule)), order=order)
