"""Runs a model once and records, for each layer with weights, what its per-example gradients can be made from.

A *unit* is a layer whose weights are handled together: a layer with a rule, a layer that owns weights itself, or, where nothing smaller
is safe, the whole model. While a recording is open, the `call` of each unit is its rule's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from privacy.rules import lookup
from privacy.rules.general import alone
from privacy.rules.gradients import ExampleGradients, Materialised, Tensor
from privacy.rules.registry import Call, Layer, Rule

_WHOLE = (keras.layers.RNN, keras.layers.Wrapper)  # these run their inner layers in loops


@dataclass(frozen=True)
class Unit:
    """A layer whose weights are handled together, the rule that does it, and why this one."""

    layer: Layer
    rule: Rule
    path: str
    reason: str


@dataclass
class Recording:
    """The calls of each unit in one run of the model."""

    units: list[Unit]
    calls: dict[int, list[Call]] = field(default_factory=dict)

    def watched(self) -> list[list[Tensor]]:
        """The tensors whose gradients are needed, one list a call."""
        return [call.watched for calls in self.calls.values() for call in calls]

    def gradients(self, dz: list[list[Tensor]]) -> list[tuple[Unit, ExampleGradients]]:
        """Per-example gradients of each unit that was called, from the gradients of `watched()`.

        A layer that is called several times has the sum of what its calls give.
        """
        given = iter(dz)
        found = []
        for unit in self.units:
            parts = [call.gradients(next(given)) for call in self.calls.get(id(unit.layer), [])]
            if parts:
                found.append((unit, parts[0] if len(parts) == 1 else _sum(parts)))
        return found


def _sum(parts: list[ExampleGradients]) -> ExampleGradients:
    return Materialised([tf.add_n(list(same)) for same in zip(*(part.each() for part in parts), strict=True)])


def units(model: keras.Model) -> list[Unit]:
    """How the weights of a model that has been built are handled, in the order of its layers."""
    found: list[Unit] = []
    _collect(model, found, set())
    held = [id(variable) for unit in found for variable in unit.layer.trainable_variables]
    if len(held) != len(set(held)):
        return [whole(model, "two of its layers share a weight")]
    return found


def safe_units(model: keras.Model, inputs: Any) -> list[Unit]:
    """As `units`, after a trial run; the whole model where something uses its weights past them.

    Args:
        model: built.
        inputs: a nest of `tf.TensorSpec`.
    """
    found = units(model)
    reasons: list[str | None] = []
    trial = tf.function(lambda examples: reasons.append(strays(model, found, examples)), autograph=False)
    trial.get_concrete_function(inputs)  # in a graph, where being inside of a loop can be seen
    return found if reasons[0] is None else [whole(model, reasons[0])]


def whole(model: keras.Model, reason: str) -> Unit:
    """The model as one unit."""
    return Unit(model, alone, "each example alone", reason)


def _collect(layer: Layer, found: list[Unit], seen: set[int]) -> None:
    if id(layer) in seen or not layer.trainable_variables:
        return
    seen.add(id(layer))
    entry, reason = lookup(layer)
    inner = list(layer._flatten_layers(include_self=False, recursive=False))  # Keras has no public way to a layer's layers
    inside = {id(variable) for one in inner for variable in one.trainable_variables}
    if entry is not None:
        found.append(Unit(layer, entry.rule, entry.name, reason))
    elif isinstance(layer, _WHOLE) or any(id(variable) not in inside for variable in layer.trainable_variables):
        found.append(Unit(layer, alone, "each example alone", reason))
    else:
        for one in inner:
            _collect(one, found, seen)


@contextlib.contextmanager
def recording(units: list[Unit], watch: Callable[[Tensor], None]) -> Iterator[Recording]:
    """While open, each call of a unit is run and recorded by its rule."""
    record = Recording(units, {id(unit.layer): [] for unit in units})
    with contextlib.ExitStack() as stack:
        for unit in units:
            stack.enter_context(_replaced(unit.layer, _recorder(unit, record, watch)))
        yield record


def _recorder(unit: Unit, record: Recording, watch: Callable[[Tensor], None]) -> Callable[..., Any]:
    run = unit.layer.call

    def call(*args: Any, **kwargs: Any) -> Any:
        outputs, made = unit.rule(unit.layer, run, watch, *args, **kwargs)
        record.calls[id(unit.layer)].append(made)
        return outputs

    return call


@contextlib.contextmanager
def _replaced(layer: Layer, call: Callable[..., Any]) -> Iterator[None]:
    before = layer.__dict__.get("call")
    layer.__dict__["call"] = call  # past Keras' bookkeeping of attributes
    try:
        yield
    finally:
        layer.__dict__.pop("call")
        if before is not None:
            layer.__dict__["call"] = before


def strays(model: keras.Model, units: list[Unit], inputs: Any) -> str | None:
    """Why the recorded calls would not see every use of the weights, or None.

    A trial run finds weights that are read outside of their own layer's call, and layers that are called inside a loop.
    """
    mine = {id(variable): variable for unit in units for variable in unit.layer.trainable_variables}
    looped: list[str] = []
    with tf.GradientTape() as tape:
        graph = tf.compat.v1.get_default_graph()

        def quiet(unit: Unit) -> Unit:
            def rule(layer: Layer, run: Callable[..., Any], watch: Callable[[Tensor], None], *args: Any, **kwargs: Any) -> tuple[Any, Call]:
                if tf.compat.v1.get_default_graph() is not graph:
                    looped.append(layer.name)
                with tape.stop_recording():
                    return run(*args, **kwargs), Call([], lambda _: Materialised([]))

            return Unit(unit.layer, rule, unit.path, unit.reason)

        with recording([quiet(unit) for unit in units], lambda _: None):
            model(inputs, training=True)
    if looped:
        return f"{looped[0]} is called inside a loop"
    values = {id(variable.value): variable for variable in mine.values()}
    outside = [values[id(one)].path for one in tape.watched_variables() if id(one) in values]
    return f"{outside[0]} is used outside of its layer's call" if outside else None
