"""Which models can be trained privately, and why others cannot.

What is bounded is the effect of one example on one gradient. It has no bound where an example reaches the outputs, or the stored state, of
others, or where training computes something else than a sum over examples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from string import Formatter
from typing import Any, Final

import keras
import tensorflow as tf

from privacy.errors import ModelRefused
from privacy.keras_models import internals
from privacy.keras_models.added_losses import OF_WEIGHTS
from privacy.keras_models.asks import EVALUATION, FUNCTION, HOW_IT_RUNS, METRICS, OPTIMIZER, unanswered
from privacy.rules.registry import Layer

ANSWERED: Final = (
    HOW_IT_RUNS
    | METRICS
    | EVALUATION
    | FUNCTION
    | OPTIMIZER
    | {OF_WEIGHTS, "loss_weights", "several losses", "ignore_class", "reduction sum", "reduction mean_with_sample_weight"}
    | {"regularizer", "constraint", "frozen weights", "integer weights", "seed"}
)
"""What a private step does of all that a compiled model may ask for."""
_BY_LAYER: Final = frozenset({"activity_regularizer", "dtype"})
"""What each layer is refused for, with a reason of its own."""
_WHY: Final = {
    "train_step": "only a sum of losses over examples can be clipped",
    "compute_loss": "only a sum of losses over examples can be clipped",
    "add_loss": "a loss of a batch is not a sum of losses of its examples, which could be clipped",
    "LossScaleOptimizer": "it skips steps by values without noise: use the optimizer inside it",
    "metrics of one's own": "who updates them is not known to a private step",
}


@dataclass(frozen=True)
class Finding:
    """A layer, or the model, that cannot be private.

    Args:
        path: which.
        reason: why.
        replacement: what to use instead.
    """

    path: str
    reason: str
    replacement: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; {self.replacement}"


def findings(model: keras.Model, inputs: Any = None) -> tuple[Finding, ...]:
    """List the reasons why `model` cannot be trained privately, in layer order. An empty tuple means it can.

    Args:
        model: compiled or not.
        inputs: a nest of specifications, for a model without symbolic inputs.
    """
    found = [*_of_model(model, inputs)]
    for layer in internals.layers_within(model):
        found += [Finding(f"{layer.name} ({type(layer).__name__})", reason, instead) for reason, instead in _of_layer(layer)]
    return tuple(found)


def require(found: tuple[Finding, ...]) -> None:
    """Raise `ModelRefused` with every finding, if there is one."""
    if found:
        raise ModelRefused("this model cannot be private:\n" + "\n".join(f"  {one}" for one in found))


def _of_model(model: keras.Model, inputs: Any = None) -> Iterator[Finding]:
    for ask in unanswered(model, ANSWERED | _BY_LAYER, inputs):
        why = _WHY.get(ask.name, "a private step does not do that")
        yield Finding(model.name, f"it asks for {ask}, and {why}", "leave it out")
    if keras.config.backend() != "tensorflow":
        yield Finding(model.name, f"it runs on {keras.config.backend()}", "set KERAS_BACKEND=tensorflow before Keras is imported")
    elif tf.distribute.has_strategy() or model.distribute_strategy is not tf.distribute.get_strategy():
        reason = "it belongs to a strategy of tf.distribute, whose replicas would each clip and add noise by themselves"
        yield Finding(model.name, reason, "make and train it outside of the strategy's scope")
    if model.built and not model.trainable_variables:
        yield Finding(model.name, "it has no weights to train", "unfreeze a layer")


def _of_layer(layer: Layer) -> Iterator[tuple[str, str]]:
    layers = keras.layers
    if isinstance(layer, layers.BatchNormalization) and layer.trainable:
        instead = "use GroupNormalization or LayerNormalization, or freeze it (trainable = False)"
        yield "it normalises each example by the others of its batch, and stores their mean and variance", instead
    if isinstance(layer, layers.SpectralNormalization):
        yield "it rewrites the kernel of its layer in the forward pass", "use the layer alone"
    if isinstance(layer, layers.RNN) and layer.stateful:
        yield "it is stateful: one batch reaches into the next", "use stateful=False"
    if isinstance(layer, tuple(getattr(layers, name) for name in ("MixUp", "CutMix") if hasattr(layers, name))):
        yield "it mixes examples", "augment each example alone"
    if isinstance(layer, layers.ActivityRegularization) or getattr(layer, "activity_regularizer", None) is not None:
        yield "its activity regularizer is a loss of the batch, not of an example", "regularize the weights instead"
    counts = not layer.weights and not tf.as_dtype(layer.compute_dtype).is_floating  # a lookup, say: nothing in it is trained or clipped
    if not counts and (layer.compute_dtype != "float32" or layer.variable_dtype != "float32"):
        yield f"it computes in {layer.compute_dtype}; clipping is exact enough in float32 only", "use dtype='float32'"


def changing(model: keras.Model) -> tuple[Finding, ...]:
    """Layers with weights that are not trained and yet change in training: they would be released, and no noise fits them.

    The statistics of BatchNormalization are such, counters, and whatever else a forward pass in training stores; it is run on made-up
    examples. Where the shapes of inputs are not known, every such weight of a layer that is not frozen counts.

    Args:
        model: built.
    """
    trained = {id(variable) for variable in model.trainable_variables}
    owners = {id(variable): layer for layer in internals.layers_within(model) for variable in layer.weights if id(variable) not in trained}
    held = [variable for variable in model.weights if id(variable) in owners]
    if not held:
        return ()
    inputs = internals.inputs_as_given(model)
    before = [tf.identity(variable.value) for variable in model.non_trainable_variables]
    if inputs is not None:
        given = inputs[0] if isinstance(inputs, list) and len(inputs) == 1 else inputs
        model(made_up(tf.nest.map_structure(lambda one: tf.TensorSpec(one.shape, one.dtype), given), 0.75), training=True)
    values = dict(zip(map(id, model.non_trainable_variables), before, strict=True))
    moved = [
        variable
        for variable in held
        if (differ(variable.value, values[id(variable)]) if inputs is not None else owners[id(variable)].trainable)
        or (isinstance(owners[id(variable)], keras.layers.BatchNormalization) and owners[id(variable)].trainable)
    ]
    for variable, value in zip(model.non_trainable_variables, before, strict=True):
        variable.assign(value)
    names = {f"{owners[id(one)].name} ({type(owners[id(one)]).__name__})": one.path for one in moved}
    return tuple(
        Finding(
            name,
            f"training changes {path}, which is not trained and so has no norm that is clipped, and noise makes no sense of it",
            "use GroupNormalization or LayerNormalization, a layer without such state, or freeze it (trainable = False)",
        )
        for name, path in names.items()
    )


def made_up(specs: Any, value: float, examples: int = 2) -> Any:
    """So many examples of a nest of specifications: waves around `value`; integers are 0 or 1."""

    def tensor(spec: Any) -> Any:
        shape = [examples, *(4 if size is None else size for size in spec.shape[1:])]
        if spec.dtype == tf.string:
            return tf.fill(shape, str(round(value)))
        if not spec.dtype.is_floating:
            return tf.cast(tf.fill(shape, round(value)), spec.dtype)
        return tf.cast(tf.reshape(tf.sin(tf.range(tf.reduce_prod(shape), dtype=tf.float32) * value), shape) + value, spec.dtype)

    return tf.nest.map_structure(tensor, specs)


def differ(a: Any, b: Any) -> bool:
    """Whether two tensors are apart by more than rounding; nan is nan."""
    a, b = tf.cast(a, tf.float32), tf.cast(b, tf.float32)
    return not bool(tf.reduce_all((tf.abs(a - b) <= 1e-5) | (tf.math.is_nan(a) & tf.math.is_nan(b))))


def check_callbacks(callbacks: Any) -> None:
    """Refuse callbacks that let training metrics, which have no noise, out or steer what comes out.

    Raises:
        ModelRefused: naming the callback and the reason.
    """
    c = keras.callbacks
    given = callbacks.callbacks if isinstance(callbacks, c.CallbackList) else callbacks if isinstance(callbacks, list) else [callbacks]
    for callback in given:
        monitor = getattr(callback, "monitor", None)
        steers = isinstance(callback, (c.EarlyStopping, c.ReduceLROnPlateau)) or getattr(callback, "save_best_only", False)
        name = type(callback).__name__
        if steers and not str(monitor).startswith("val_"):
            raise ModelRefused(
                f"{name} chooses the model by {monitor!r}, a value of the training examples without noise: monitor a metric of "
                "validation data that needs no protection ('val_...')"
            )
        if isinstance(callback, (c.CSVLogger, c.TensorBoard, c.RemoteMonitor)):
            raise ModelRefused(f"{name} writes down training metrics, which have no noise: log `val_` metrics and engine.epsilon instead")
        if isinstance(callback, c.TerminateOnNaN):
            raise ModelRefused(f"{name} ends the training by the loss of the training examples, without noise: monitor 'val_loss' instead")
        if isinstance(callback, c.ModelCheckpoint):
            told = [field for _, field, *_ in Formatter().parse(str(callback.filepath)) if field]
            if any(field not in ("epoch", "batch") and not field.startswith("val_") for field in told):
                raise ModelRefused(
                    f"{name} writes training metrics, which have no noise, into names of files: name them by epoch and `val_` metrics"
                )
        if isinstance(callback, c.BackupAndRestore):
            raise ModelRefused(f"{name} resumes training that this engine's accountant has not seen: keep the process, or start anew")
