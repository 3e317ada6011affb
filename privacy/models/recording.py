"""Runs a model once and records, for each layer with weights, what its per-example gradients can be made from.

A *unit* is a layer whose weights are handled together: a layer with a rule, a layer that owns weights itself, or, where nothing smaller
is safe, the whole model. While a recording is open, the `call` of each unit is its rule's.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import keras
import tensorflow as tf

from privacy.errors import ModelRefused
from privacy.keras_models import internals
from privacy.models.apartness import unknown
from privacy.models.validation import made_up
from privacy.rules import lookup
from privacy.rules.general import alone
from privacy.rules.gradients import ExampleGradients, Materialised, Tensor
from privacy.rules.registry import Layer, LayerCall, Rule, seeds

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
    calls: dict[int, list[LayerCall]] = field(default_factory=dict)

    def watched(self) -> list[list[Tensor]]:
        """List the tensors whose gradients are needed, one list a call."""
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


def safe_units(model: keras.Model, inputs: Any, *, foreign: bool = False) -> list[Unit]:
    """As `units`, after a trial run; the whole model where something uses its weights past them.

    Args:
        model: built.
        inputs: a nest of `tf.TensorSpec`.
        foreign: somebody made it who may want examples to be mixed: the whole model, too, where it is not known that they are not.

    Raises:
        ModelRefused: recorded and run as it is, the model does not compute the same on this machine.
    """
    found = units(model)
    reasons: list[str | None] = []
    trial = tf.function(lambda examples: reasons.append(strays(model, found, examples)), autograph=False)
    trial.get_concrete_function(inputs)  # in a graph, where being inside of a loop can be seen
    reason = reasons[0] if reasons[0] is not None or not foreign else unknown(model)
    found = found if reason is None else [whole(model, reason)]
    difference = disagreement(model, found, inputs)
    if difference is not None:
        raise ModelRefused(
            f"{model.name}: {difference}, with {', '.join(f'{unit.layer.name} ({unit.path})' for unit in found)}. Nothing about single "
            "examples can be promised then. Products of TensorFlow with oneDNN can be the cause: start Python with "
            "TF_ENABLE_ONEDNN_OPTS=0, or install another release of TensorFlow"
        )
    return found


def whole(model: keras.Model, reason: str) -> Unit:
    """Return the model as one unit."""
    return Unit(model, alone, "each example alone", reason)


def _collect(layer: Layer, found: list[Unit], seen: set[int]) -> None:
    if id(layer) in seen or not layer.trainable_variables:
        return
    seen.add(id(layer))
    entry, reason = lookup(layer)
    inner = internals.layers_within(layer, itself=False, deep=False)
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
            stack.enter_context(replaced(unit.layer, _recorder(unit, record, watch)))
        yield record


def _recorder(unit: Unit, record: Recording, watch: Callable[[Tensor], None]) -> Callable[..., Any]:
    run = unit.layer.call

    def call(*args: Any, **kwargs: Any) -> Any:
        outputs, made = unit.rule(unit.layer, run, watch, *args, **kwargs)
        record.calls[id(unit.layer)].append(made)
        return outputs

    return call


@contextlib.contextmanager
def replaced(layer: Layer, call: Callable[..., Any]) -> Iterator[None]:
    """While open, another `call` takes the place of that of a layer or operation."""
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
            def rule(
                layer: Layer, run: Callable[..., Any], watch: Callable[[Tensor], None], *args: Any, **kwargs: Any
            ) -> tuple[Any, LayerCall]:
                if tf.compat.v1.get_default_graph() is not graph:
                    looped.append(layer.name)
                with tape.stop_recording():
                    return run(*args, **kwargs), LayerCall([], lambda _: Materialised([]))

            return Unit(unit.layer, rule, unit.path, unit.reason)

        with recording([quiet(unit) for unit in units], lambda _: None):
            model(inputs, training=True)
    if looped:
        return f"{looped[0]} is called inside a loop"
    values = {id(variable.value): variable for variable in mine.values()}
    outside = [values[id(one)].path for one in tape.watched_variables() if id(one) in values]
    return f"{outside[0]} is used outside of its layer's call" if outside else None


EXAMPLES: Final = 3
"""On which the recorded model is compared with the plain one."""
ALIKE: Final = 1e-4
"""How far outputs may be apart, as a part of the largest, at least 1: what another order of float32 operations makes of them."""
NEAR: Final = 1e-2
"""How far gradients may be apart, as a part of their norm: where float32 decides which of two equal values is larger they are not close."""


def disagreement(model: keras.Model, units: list[Unit], inputs: Any) -> str | None:
    """Why the recorded model is not the plain one, or None: outputs and gradients of both are computed on made-up examples.

    Each run begins in the same state of the seed generators. A model with random layers runs on copies of one example after the other, and
    the first copy is compared: a layer that is recorded "alone" draws the same for all examples, where the plain one does not.

    Args:
        model: built.
        units: how its weights are handled.
        inputs: a nest of `tf.TensorSpec`.
    """
    state = [tf.identity(variable.value) for variable in model.non_trainable_variables]

    def begin() -> None:
        for variable, value in zip(model.non_trainable_variables, state, strict=True):
            variable.assign(value)

    def both(examples: Any, counts: Tensor) -> tuple[Tensor, Tensor]:
        begin()
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            values = [variable.value for variable in model.trainable_variables]
            tape.watch(values)
            plain = tf.nest.flatten(model(examples, training=True))
            total = _weighted(plain, counts)
        gradients = tape.gradient(total, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        begin()
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            with recording(units, tape.watch) as record:
                recorded = tf.nest.flatten(model(examples, training=True))
            total = _weighted(recorded, counts)
        dz = tape.gradient(total, record.watched(), unconnected_gradients=tf.UnconnectedGradients.ZERO)
        sums: dict[int, Tensor] = {}
        for unit, found in record.gradients(tf.nest.map_structure(tf.convert_to_tensor, dz)):
            sums.update(zip(map(id, unit.layer.trainable_variables), found.weighted_sum(counts), strict=True))
        begin()
        outputs = [_apart(a, b, counts) for a, b in zip(plain, recorded, strict=True)]
        pairs = [
            (tf.convert_to_tensor(one), sums[id(variable)])
            for one, variable in zip(gradients, model.trainable_variables, strict=True)
            if id(variable) in sums
        ]
        return tf.reduce_max(outputs), _off(pairs)

    run = tf.function(both, autograph=False, reduce_retracing=True)
    outputs, gradients = 0.0, []
    for value in (0.25, 0.75):
        examples, off = made_up(inputs, value, EXAMPLES), []
        for batch, counts in _batches(model, examples):
            apart, far = run(batch, counts)
            outputs = max(outputs, float(apart))
            off.append(float(far))
        gradients.append(max(off))
    if outputs > ALIKE:
        return (
            f"its recorded forward pass is off by {outputs:.2g} of the largest output on made-up examples (at most {ALIKE:g} is rounding)"
        )
    if min(gradients) > NEAR:
        return f"its gradients by example add up to another sum, {min(gradients):.2g} of its norm away (at most {NEAR:g} is rounding)"
    return None


def _batches(model: keras.Model, examples: Any) -> list[tuple[Any, Tensor]]:
    """List what is run, and which outputs are compared: all examples at once, or of each two copies and the first."""
    if not any(seeds(layer) for layer in internals.layers_within(model)):
        return [(examples, tf.ones(EXAMPLES))]
    return [
        (tf.nest.map_structure(lambda array, i=i: tf.stack([array[i]] * 2), examples), tf.constant([1.0, 0.0])) for i in range(EXAMPLES)
    ]


def _weighted(outputs: list[Tensor], counts: Tensor) -> Tensor:
    """Sum every value of the outputs that count, each with another weight."""
    total = tf.zeros(())
    for output in outputs:
        if output.dtype.is_floating:
            rows = tf.reshape(output, [tf.shape(counts)[0], -1])
            waves = tf.cos(tf.range(tf.cast(tf.shape(rows)[1], tf.float32)))
            total += tf.reduce_sum(rows * waves * counts[:, None])
    return total


def _apart(plain: Tensor, recorded: Tensor, counts: Tensor) -> Tensor:
    """Return the largest difference of outputs that count, as a part of the largest, at least 1; infinite where only one is finite."""
    count = tf.math.count_nonzero(counts)
    first, second = (tf.reshape(tf.cast(one, tf.float32), [tf.shape(counts)[0], -1])[:count] for one in (plain, recorded))
    largest = tf.reduce_max(tf.where(tf.math.is_finite(first), tf.abs(first), 0.0))
    return _relative(first, second, tf.maximum(largest, 1.0), tf.reduce_max)


def _off(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the norm of the difference of gradients, as a part of that of the first."""
    if not pairs:
        return tf.zeros(())
    first, second = (tf.concat([tf.reshape(pair[index], [-1]) for pair in pairs], 0) for index in (0, 1))
    finite = tf.where(tf.math.is_finite(first), first, 0.0)
    return _relative(first, second, tf.norm(finite) + 1e-6, tf.norm)


def _relative(a: Tensor, b: Tensor, size: Tensor, over: Callable[[Tensor], Tensor]) -> Tensor:
    same = (a == b) | (tf.math.is_nan(a) & tf.math.is_nan(b))
    difference = over(tf.where(same, 0.0, tf.abs(a - b))) / size
    return tf.where(tf.math.is_finite(difference), difference, math.inf)
