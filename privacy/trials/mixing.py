"""Whether the examples of a batch reach each other in a model: in its outputs, in what it stores, or on the way back.

All runs are in training, on made-up examples, from the same state. A model of layers of which it is known that they leave examples apart
(`apartness.py`) has one pair of batches. In any other the others of an example are replaced, wherever it stands, and there are more of
them, large and small; what becomes of it must stay the same. What made-up examples do not show is not found: whoever must not trust a model
runs each example alone (`foreign` of `PrivacyEngine.make_private`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from privacy.keras_models import internals
from privacy.models.apartness import unknown
from privacy.models.recording import Unit, recording, replaced
from privacy.models.validation import Finding, differ, made_up
from privacy.rules.registry import seeds

Tensor = Any  # tf.Tensor; TensorFlow has no types
Run = Callable[..., list[Tensor]]

FEW: Final = 3
MORE: Final = 5
"""Of the examples of a batch."""
SCALES: Final = ((1.0, 1.0), (0.01, 300.0))
"""Of the numbers of the examples that are looked at, and of the others."""
CLOSE: Final = 1e-4
"""How far outputs may be apart, as a part of the largest: what another order of float32 operations makes of them."""
NEAR: Final = 1e-3
"""How far gradients may be apart, as a part of the largest."""
INSTEAD: Final = "remove what mixes the batch axis"


def mixing(model: keras.Model, inputs: Any) -> tuple[Finding, ...]:
    """Run a built model on made-up examples and tell where they reach each other's outputs, or the stored state.

    1. Outputs have the examples on the first axis.
    2. Non-trainable variables other than seeds must not change at all.
    3. The same input twice from the same state must give the same outputs; else (unseeded randomness) nothing can be told, nor promised.
    4. An example has the same outputs with other examples beside it, with more, and in another place.

    Args:
        model: built.
        inputs: a nest of specifications (shape with a leading None, dtype).
    """
    first, second = made_up(inputs, 0.25), made_up(inputs, 0.75)
    with _from_now(model) as run:
        before = [tf.identity(variable.value) for variable in model.non_trainable_variables]
        drawn = [np.array(seed) for seed in seeds(model)]
        outputs = run(second)
        rows = [one.shape for one in outputs if not one.shape or one.shape[0] != 2]
        if rows:
            reason = f"2 examples have an output of shape {tuple(rows[0])}: its first axis is not that of the examples"
            return (Finding(model.name, reason, "keep the examples on the first axis of all outputs"),)
        harmless = {id(variable) for variable in seeds(model)}
        for variable, value in zip(model.non_trainable_variables, before, strict=True):
            if id(variable) not in harmless and differ(variable.value, value):
                reason = "the forward pass stores something of the batch in it, without noise"
                return (Finding(variable.path, reason, "use a layer without such state"),)
        one, again = run(first), run(first)
        if any(differ(a, b) for a, b in zip(one, again, strict=True)):
            reason = "it is random beyond its seed generators, so that it cannot be checked"
            return (Finding(model.name, reason, "use keras.random.SeedGenerator"),)
        other = _with_rows(second, first, [0])
        if any(differ(a[0], b[0]) for a, b in zip(one, run(other), strict=True)):
            return (_found(model, _culprit(model, run, (first, other), [(0, 0)]), "depends on the others of its batch"),)
        return () if unknown(model) is None else _thoroughly(model, run, inputs, drawn)


def mixing_back(model: keras.Model, units: list[Unit], inputs: Any) -> tuple[Finding, ...]:
    """Tell where the gradients that are recorded for an example depend on the others of its batch, if the structure leaves that open.

    A layer may leave outputs apart and mix on the way back (`custom_gradient`); no norm of an example would be its own.

    Args:
        model: built.
        units: how its weights are handled.
        inputs: a nest of specifications.
    """
    if unknown(model) is None or units[0].layer is model:  # as one unit each example runs alone, there and back
        return ()

    def gradients(examples: Any, one: Tensor) -> tuple[Tensor, list[Tensor]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            with recording(units, tape.watch) as record:
                outputs = tf.nest.flatten(model(examples, training=True))
            total = tf.add_n([tf.reduce_sum(tf.square(output + 0.3)) for output in outputs if output.dtype.is_floating])
        dz = tape.gradient(total, record.watched(), unconnected_gradients=tf.UnconnectedGradients.ZERO)
        found = record.gradients(tf.nest.map_structure(tf.convert_to_tensor, dz))
        norms = tf.stack([each.squared_norms() for _, each in found], 1)
        return norms, [total for _, each in found for total in each.weighted_sum(one)]

    compute = tf.function(gradients, autograph=False)
    with _from_now(model, compute) as run, _from_now(model) as forward:
        for few, others in _examples(forward, inputs):
            for place in range(FEW):
                (norms, *sums), (norms_among, *sums_among) = (
                    run(batch, tf.one_hot(place, FEW)) for batch in (few, _with_rows(others, few, [place], FEW))
                )
                finite = bool(tf.reduce_all(tf.math.is_finite(norms) & tf.math.is_finite(norms_among)))  # else 0 times it is nan
                if _far(norms[place], norms_among[place], NEAR) or (
                    finite and any(_far(a, b, NEAR) for a, b in zip(sums, sums_among, strict=True))
                ):
                    reason = "the gradient of the loss of one example depends on the others of its batch"
                    return (Finding(model.name, reason, f"{INSTEAD} on the way back (custom_gradient)"),)
    return ()


def _thoroughly(model: keras.Model, run: Run, inputs: Any, drawn: list[Any]) -> tuple[Finding, ...]:
    """Step 4, for models of which nothing is known; `drawn` are the seeds before.

    Random layers draw otherwise for each place, and may so for each size of a batch: such models are compared outside of training.
    """
    same = [(place, place) for place in range(FEW)]
    turned = [(place, FEW - 1 - place) for place in range(FEW)]
    random = bool(drawn)
    for few, others in _examples(run, inputs):
        more = _with_rows(others, few, range(FEW))
        for place in range(FEW):
            batches = (few, _with_rows(others, few, [place], FEW))
            if _apart(run, batches, [(place, place)]):
                return (_found(model, _culprit(model, run, batches, [(place, place)]), "depends on the others of its batch"),)
        if _apart(run, (few, more), same):
            culprit = _culprit(model, run, (few, more), same)
            if not random or culprit is not None:
                return (_found(model, culprit, "depends on how many examples there are"),)
        run(few, training=False)
        if any((np.array(seed) != before).any() for seed, before in zip(seeds(model), drawn, strict=True)):
            continue  # it draws outside of training, too
        if random and _apart(run, (few, more), same, training=False):
            return (_found(model, None, "depends on how many examples there are"),)
        back = tf.nest.map_structure(lambda one: one[::-1], few)
        if _apart(run, (few, back), turned, training=not random):
            return (_found(model, None, "depends on its place in the batch"),)
    return ()


def _examples(run: Run, inputs: Any) -> Iterator[tuple[Any, Any]]:
    """Yield FEW examples and MORE others: numbers of either sign, or, where a model cannot take these, none below 0 (as tokens are)."""
    for mine, theirs in SCALES:
        for least in (-2.0, 0.0):
            random = np.random.default_rng(0)
            few, others = _varied(inputs, FEW, mine, least, random), _varied(inputs, MORE, theirs, least, random)
            try:
                run(few)
                run(others)
            except tf.errors.InvalidArgumentError:
                continue
            yield few, others
            break


def _varied(inputs: Any, size: int, scale: float, least: float, random: np.random.Generator) -> Any:
    """So many examples: numbers from `least` to 1.9, times the scale; whole numbers and texts of them are 0 or 1."""

    def tensor(spec: Any) -> Tensor:
        shape = (size, *(4 if length is None else length for length in spec.shape[1:]))
        if spec.dtype.is_floating:
            return tf.cast(random.uniform(least, 1.9, shape) * scale, spec.dtype)
        numbers = tf.constant(random.integers(0, 2, shape))
        return tf.strings.as_string(numbers) if spec.dtype == tf.string else tf.cast(numbers, spec.dtype)

    return tf.nest.map_structure(tensor, inputs)


def _with_rows(others: Any, examples: Any, places: Any, size: int | None = None) -> Any:
    """Return the first `size` of the others, but at some places the examples that stand there."""
    keep = list(places)

    def joined(other: Tensor, example: Tensor) -> Tensor:
        return tf.stack([example[i] if i in keep else other[i] for i in range(size or len(other))])

    return tf.nest.map_structure(joined, others, examples)


@contextlib.contextmanager
def _from_now(model: keras.Model, compute: Callable[..., Any] | None = None) -> Iterator[Run]:
    """Give a function that runs the model from its present state each time, which it has again in the end; outputs are flat."""
    state = [tf.identity(variable.value) for variable in model.non_trainable_variables]

    def begin() -> None:
        for variable, value in zip(model.non_trainable_variables, state, strict=True):
            variable.assign(value)

    def run(examples: Any, *more: Any, training: bool = True) -> list[Tensor]:
        begin()
        made = model(examples, training=training) if compute is None else compute(examples, *more)
        return [tf.identity(one) for one in tf.nest.flatten(made)]

    try:
        yield run
    finally:
        begin()


def _apart(run: Run, batches: tuple[Any, Any], pairs: list[tuple[int, int]], *, training: bool = True) -> bool:
    """Whether rows of two batches that hold the same examples have other outputs."""
    one, other = (run(batch, training=training) for batch in batches)
    return any(_far(a[i], b[j], CLOSE) for a, b in zip(one, other, strict=True) for i, j in pairs)


def _far(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if not (a.dtype.is_floating or a.dtype.is_integer or a.dtype.is_bool):
        return bool(tf.reduce_any(a != b))
    a, b = (np.asarray(tf.cast(one, tf.float32)) for one in (a, b))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    largest = np.abs(a[np.isfinite(a)]).max(initial=0.0)
    with np.errstate(invalid="ignore"):  # of infinite ones
        return bool((~same & ~(np.abs(a - b) <= tolerance * largest + 1e-7)).any())


@dataclass(frozen=True)
class _TracedCall:
    """One call of a layer or operation: the tensors that it was given, and those that it made."""

    of: Any
    given: list[Tensor]
    made: list[Tensor]


@contextlib.contextmanager
def _traced(model: keras.Model) -> Iterator[list[_TracedCall]]:
    """While open, list each call of a layer or operation within the model, inner ones first."""
    calls: list[_TracedCall] = []

    def following(one: Any) -> Callable[..., Any]:
        run = one.call

        def call(*args: Any, **kwargs: Any) -> Any:
            made = run(*args, **kwargs)
            calls.append(
                _TracedCall(one, *([leaf for leaf in tf.nest.flatten(nest) if tf.is_tensor(leaf)] for nest in ((args, kwargs), made)))
            )
            return made

        return call

    layers = internals.layers_within(model)
    with contextlib.ExitStack() as stack:
        for one in {id(one): one for layer in layers for one in (layer, *getattr(layer, "operations", ()))}.values():
            stack.enter_context(replaced(one, following(one)))
        yield calls


def _culprit(model: keras.Model, run: Run, batches: tuple[Any, Any], pairs: list[tuple[int, int]]) -> Any:
    """Find the first layer or operation that makes other rows of equal ones; None if there is none, or if it draws for another number."""
    traces = []
    for batch in batches:
        with _traced(model) as calls:
            run(batch)
        traces.append(calls)
    sizes = {len(tf.nest.flatten(batch)[0]) for batch in batches}

    def alike(one: list[Tensor], other: list[Tensor]) -> bool:
        if len(one) != len(other):
            return False
        rows = [(a[i : i + 1], b[j : j + 1]) for a, b in zip(one, other, strict=True) if a.shape and b.shape for i, j in pairs]
        return all(a.shape == b.shape and not _far(a, b, CLOSE) for a, b in rows)

    for one, other in zip(*traces, strict=False):
        if one.of is not other.of:
            return None
        if alike(one.given, other.given) and not alike(one.made, other.made):
            draws = len(sizes) > 1 and isinstance(one.of, keras.layers.Layer) and seeds(one.of)
            return None if draws else one.of
    return None


def _found(model: keras.Model, culprit: Any, what: str) -> Finding:
    name = model.name if culprit is None or culprit is model else f"{culprit.name} ({type(culprit).__name__})"
    return Finding(name, f"the output for one example {what}", INSTEAD)
