"""Whether the gradient over many examples is a mean of gradients over parts of them. It is only where that is known of all of a model.

It is known of Keras' own layers, losses and metrics that look at each example by itself. It is not so with batch statistics, penalties on
activations, losses of a whole batch or reductions that are no mean; and of what somebody else has written it is not known.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from privacy.keras_models import internals

if TYPE_CHECKING:
    import keras

BY_EXAMPLE: Final = frozenset(
    {"InputLayer", "Identity", "Dense", "EinsumDense", "Embedding", "Masking", "Flatten", "Reshape", "Permute", "RepeatVector"}
    | {"Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax", "Rescaling", "Normalization"}
    | {"Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "AlphaDropout", "GaussianDropout", "GaussianNoise"}
    | {"LayerNormalization", "GroupNormalization", "RMSNormalization", "UnitNormalization"}
    | {"Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot"}
    | {f"{kind}{n}D" for kind in ("Conv", "ZeroPadding", "Cropping", "UpSampling", "MaxPooling", "AveragePooling") for n in (1, 2, 3)}
    | {f"Global{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)}
    | {"Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"}
    | {"DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"}
    | {"LSTM", "GRU", "SimpleRNN", "LSTMCell", "GRUCell", "SimpleRNNCell", "Bidirectional", "TimeDistributed"}
    | {"MultiHeadAttention", "GroupQueryAttention", "Attention", "AdditiveAttention"}
    | {"StringLookup", "IntegerLookup", "Hashing", "Discretization", "CategoryEncoding"}
)
"""Classes of `keras.layers` that do the same to each example, whatever others are beside it."""
LOSSES: Final = {
    "mean_squared_error": "MeanSquaredError",
    "mean_absolute_error": "MeanAbsoluteError",
    "mean_absolute_percentage_error": "MeanAbsolutePercentageError",
    "mean_squared_logarithmic_error": "MeanSquaredLogarithmicError",
    "huber": "Huber",
    "log_cosh": "LogCosh",
    "poisson": "Poisson",
    "kl_divergence": "KLDivergence",
    "hinge": "Hinge",
    "squared_hinge": "SquaredHinge",
    "categorical_hinge": "CategoricalHinge",
    "binary_crossentropy": "BinaryCrossentropy",
    "binary_focal_crossentropy": "BinaryFocalCrossentropy",
    "categorical_crossentropy": "CategoricalCrossentropy",
    "categorical_focal_crossentropy": "CategoricalFocalCrossentropy",
    "sparse_categorical_crossentropy": "SparseCategoricalCrossentropy",
}
"""Functions and classes of `keras.losses` that give a loss for each example, or each position of it."""


def obstacle(model: keras.Model) -> str | None:
    """Why the gradient of a compiled model cannot be taken in parts of a batch, in words; None if it can.

    It can where it is the mean of those of the parts, weighted by the numbers of labels that count in each, and the metrics of the parts
    are together those of the whole.
    """
    import keras  # noqa: PLC0415  is loaded already: there is a model

    return next(chain(_of_loss(model, keras), _of_layers(model, keras), _of_metrics(model, keras)), None)


def is_sparse(model: keras.Model) -> bool:
    """Whether the labels of a model with one output are numbers of classes, for all that is known of its loss."""
    return "sparse" in _called(model.loss).lower()


def values_of_an_example(model: keras.Model) -> int:
    """Values that all layers give for one example together, as far as their shapes are known."""
    import keras  # noqa: PLC0415  is loaded already: there is a model

    count = 0
    for layer in internals.layers_within(model):
        with contextlib.suppress(AttributeError, ValueError):  # no output that is known, or several
            count += sum(math.prod(side or 1 for side in one.shape[1:]) for one in keras.tree.flatten(layer.output))
    return count


def _of_loss(model: keras.Model, keras: Any) -> Iterator[str]:
    losses = [one for one in keras.tree.flatten(model.loss) if one is not None]
    if not losses:
        yield "it has no loss but those that it adds itself"
    for loss in losses:
        name = _called(loss)
        ours = isinstance(loss, str) or loss in (getattr(keras.losses, name, None), getattr(keras.losses, LOSSES.get(name, ""), None))
        if isinstance(loss, keras.losses.Loss):
            ours = type(loss) is getattr(keras.losses, name, None)
        if not ours or name not in {*LOSSES, *LOSSES.values()}:
            yield f"its loss {name} may look at a whole batch"
        if getattr(loss, "reduction", "mean") not in ("sum_over_batch_size", "mean"):
            yield f"its loss {name} has reduction={loss.reduction!r}, which is no mean over examples"
        if getattr(loss, "axis", -1) not in (-1, None):
            yield f"its loss {name} has axis={loss.axis}"
    if len(losses) > 1 and _may_count_otherwise(model, losses, keras):
        yield "its outputs may count other numbers of labels each"


def _called(loss: Any) -> str:
    """Return the name of a loss as it was given, a text, a function or an object: of its class, or its function."""
    import keras  # noqa: PLC0415  is loaded already: there is a model

    if isinstance(loss, str):
        with contextlib.suppress(ValueError):
            loss = keras.losses.get(loss)
    return str(getattr(loss, "__name__", None) or type(loss).__name__)


def _may_count_otherwise(model: keras.Model, losses: list[Any], keras: Any) -> bool:
    """Whether outputs could have labels that do not count, or another number of positions from batch to batch."""
    masking = any(getattr(layer, "mask_zero", False) or type(layer) is keras.layers.Masking for layer in internals.layers_within(model))
    ignoring = any(getattr(loss, "ignore_class", None) is not None for loss in losses)
    outputs = getattr(model, "outputs", None) or []
    return masking or ignoring or not outputs or any(side is None for one in outputs for side in one.shape[1:])


def _of_layers(model: keras.Model, keras: Any) -> Iterator[str]:
    for layer in internals.layers_within(model):
        where = f"layer {layer.name!r}, a {type(layer).__name__},"
        if isinstance(layer, keras.Model):
            if type(layer).__module__.partition(".")[0] != "keras":
                yield f"model {layer.name!r} is of a class of its own, {type(layer).__name__}"
            odd = [one for one in getattr(layer, "operations", ()) if not isinstance(one, keras.layers.Layer)]
            if odd:
                yield f"{odd[0].name!r} may mix examples"
            continue
        frozen = isinstance(layer, keras.layers.BatchNormalization) and not layer.trainable
        if not frozen and not (type(layer).__name__ in BY_EXAMPLE and type(layer) is getattr(keras.layers, type(layer).__name__, None)):
            yield f"{where} may look at a whole batch"
        if getattr(layer, "activity_regularizer", None) is not None:
            yield f"{where} adds a penalty on its outputs"
        if getattr(layer, "stateful", False):
            yield f"{where} remembers the batch before"
        if not frozen and not all(_is_within(getattr(layer, name, None)) for name in ("axis", "axes", internals.ATTENTION_AXES)):
            yield f"{where} works along an axis that may be the one of the examples"
        for name in ("activation", "recurrent_activation"):
            function = getattr(layer, name, None)
            known = function is None or isinstance(function, keras.layers.Layer) or _is_of_keras(function)
            if not known:
                yield f"{where} has an {name} that may look at a whole batch"


def _of_metrics(model: keras.Model, keras: Any) -> Iterator[str]:
    """Metrics are told of a batch: one that is not a sum over examples would be another for parts."""
    given = internals.compile_arguments(model)
    means = (keras.metrics.Mean, keras.metrics.MeanMetricWrapper, keras.metrics.Sum)
    for metric in keras.tree.flatten([given.get("metrics"), given.get("weighted_metrics")]):
        kind = type(metric) if isinstance(metric, keras.metrics.Metric) else metric
        ours = metric is None or isinstance(metric, str) or (_is_of_keras(kind) and kind not in means)
        if not ours or getattr(metric, "axis", -1) not in (-1, None):
            yield f"its metric {getattr(metric, 'name', None) or _called(metric)!r} may look at a whole batch"


def _is_within(axes: Any) -> bool:
    """Whether axes are within an example, for tensors of any rank."""
    given = axes if isinstance(axes, Iterable) else [axes]
    return all(one is None or one == -1 or (isinstance(one, int) and one > 0) for one in _flat(given))


def _flat(given: Iterable[Any]) -> Iterator[Any]:
    for one in given:
        yield from _flat(one) if isinstance(one, (list, tuple)) else (one,)


def _is_of_keras(function: Any) -> bool:
    """Whether a function or a class is one of Keras."""
    return (getattr(function, "__module__", None) or "").partition(".")[0] == "keras" and hasattr(function, "__name__")
