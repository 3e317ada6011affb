"""What a call in the graph of a Keras model names beside its inputs: masks, states, settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from protocols.lowering.nodes.refusals import refuse
from protocols.lowering.rules.layers import Rule

PLAIN = {"training", "key", "value", "query", "inputs"}
"""Arguments of a call that a rule knows, or that make no difference at inference."""


MaskOf = Callable[[Any], Any]
"""Tells the mask that a tensor carries, or None."""


def implicit_masks(keras: Any, layer: Any, node: Any, mask_of: MaskOf) -> dict[str, Any]:
    """Return the masks of its inputs that Keras hands to a layer when it runs, and does not always note in the graph."""
    parameters = inspect.signature(layer.call).parameters
    given = inspect.signature(layer.call).bind_partial(*node.arguments.args, **settings_of(layer, node)).arguments
    tensors = {name: value for name, value in given.items() if _holds_tensors(keras, value) and not name.endswith("mask")}
    masks = {}
    for name, value in tensors.items():
        key = f"{name}_mask" if len(tensors) > 1 else "mask"
        found = keras.tree.map_structure(mask_of, value)
        if key in parameters and given.get(key) is None and any(one is not None for one in keras.tree.flatten(found)):
            masks[key] = found
    return masks


def settings_of(layer: Any, node: Any) -> dict[str, Any]:
    """Return what a call names; Keras notes `training` also where a call does not take it."""
    taken = inspect.signature(layer.call).parameters
    return {name: value for name, value in node.arguments.kwargs.items() if name != "training" or name in taken}


def _holds_tensors(keras: Any, value: Any) -> bool:
    return any(isinstance(one, keras.KerasTensor) for one in keras.tree.flatten(value))


def effective(named: dict[str, Any]) -> dict[str, Any]:
    """Return what makes a difference of what a call names."""
    return {name: value for name, value in named.items() if name not in PLAIN and value is not None and value is not False}


def _given(layer: Any, node: Any) -> dict[str, Any]:
    """Return what a call is given beside its inputs, by the names of parameters."""
    bound = inspect.signature(layer.call).bind_partial(*node.arguments.args, **settings_of(layer, node))
    first, *_ = inspect.signature(layer.call).parameters
    flat = {key: value for name, given in bound.arguments.items() for key, value in _spread(bound.signature.parameters[name], given)}
    return {name: value for name, value in effective(flat).items() if name != first}


def _spread(parameter: inspect.Parameter, given: Any) -> list[tuple[str, Any]]:
    return list(given.items()) if parameter.kind is inspect.Parameter.VAR_KEYWORD else [(parameter.name, given)]


def named(keras: Any, layer: Any, node: Any, rule: Rule, mask_of: MaskOf) -> dict[str, Any]:
    """Return the arguments of a call that change its result and are not inputs: masks, `use_causal_mask` and the like.

    Raises:
        UnsupportedLayer: the layer's rule knows no such argument.
    """
    given = _given(layer, node) | implicit_masks(keras, layer, node, mask_of)
    known = inspect.signature(rule).parameters
    strange = [name for name in given if name not in known]
    if strange:
        raise refuse(layer, f"it is called with {', '.join(strange)}", "the layer called with its inputs only")
    return given


@contextmanager
def told(layer: Any, *, training: bool) -> Iterator[None]:
    """Say whether it trains to layers that are called as long as this lasts and are not told."""
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    internals.call_context(layer).set_value("training", training)
    try:
        yield
    finally:
        internals.leave_call(layer)


def short(error: Exception) -> str:
    """Cut a message to its first sentence."""
    if str(error).startswith("A KerasTensor "):
        return "it takes its inputs for numbers, which nobody has: numpy, tf.*, or a decision by their values"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
