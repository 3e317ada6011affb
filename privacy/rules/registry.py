"""Which rule gives the per-example gradients of which layer.

A rule runs the layer once, watches the tensors whose gradients it needs, and says how to make per-example gradients of those. Rules are
small functions, one file a family of layers, each registered for a Keras class with `book_keeping`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from privacy.rules.gradients import ExampleGradients, Tensor

Layer = Any  # keras.layers.Layer; Keras has no types


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer, as it was recorded.

    Args:
        watched: the tensors whose gradients d (sum of all losses) / d tensor are needed.
        gradients: from those gradients to the per-example gradients of the layer's trainable variables, in their order.
    """

    watched: list[Tensor]
    gradients: Callable[[list[Tensor]], ExampleGradients]


class Rule(Protocol):
    """Runs a layer and records the call."""

    def __call__(
        self, layer: Layer, run: Callable[..., Any], watch: Callable[[Tensor], None], *args: Any, **kwargs: Any
    ) -> tuple[Any, LayerCall]:
        """Run the layer; return the outputs and the record.

        Args:
            layer: the layer.
            run: its `call`.
            watch: makes a tensor one whose gradient is taken; before it is used further.
            args: the arguments of the call.
            kwargs: its keyword arguments.
        """


def seeds(layer: Layer) -> list[Any]:
    """List the states of the seed generators in a layer: in Keras, variables that are no weights."""
    weights = {id(variable) for variable in layer.weights}
    return [variable for variable in layer.non_trainable_variables if id(variable) not in weights]


@dataclass(frozen=True)
class Entry:
    """A rule with its name in reports, and when it applies: None, or why it does not."""

    name: str
    rule: Rule
    hindrance: Callable[[Layer], str | None]


_RULES: dict[type, Entry] = {}


def book_keeping(*classes: type, name: str, unless: Callable[[Layer], str | None] = lambda _: None) -> Callable[[Rule], Rule]:
    """Register the rule below it for layers of `classes`, and for subclasses that run the same `call`.

    Args:
        classes: Keras layer classes.
        name: how reports call it.
        unless: why a given layer of these classes needs the general path, or None.
    """

    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(classes, Entry(name, rule, unless)))
        return rule

    return register


def lookup(layer: Layer) -> tuple[Entry | None, str]:
    """Return the entry for a layer, or None with the reason."""
    for cls in type(layer).__mro__:
        entry = _RULES.get(cls)
        if entry is None:
            continue
        if type(layer).call is not cls.call:  # type: ignore[attr-defined]  # a Keras layer has it
            return None, f"it is a {cls.__name__} with a call of its own"
        if any(not variable.trainable for variable in layer.weights):
            return None, "some of its weights are frozen"
        hindrance = entry.hindrance(layer)
        return (entry, entry.name) if hindrance is None else (None, hindrance)
    return None, f"there is no rule for {type(layer).__name__}"
