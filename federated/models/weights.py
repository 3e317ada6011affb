"""The weights of a Keras model: floats that rounds average, those that are frozen, and integers that stay as the model's maker set them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.errors import ModelRefused, UpdateHeldBack
from federated.tasks.update import Array, Weights
from privacy.keras_models import internals

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, repr=False)
class Frozen:
    """An array of a model that no round changes: `Federation(model=[Frozen(backbone), head])`. It travels once, and has no noise.

    Args:
        array: float32, float64 or integers.
    """

    array: Any


def is_kept(dtype: Any) -> bool:
    """Whether weights of a dtype are kept as they are: integers and truth values have no mean, and no noise fits them."""
    return (dtype if isinstance(dtype, np.dtype) else np.dtype(dtype)).kind in "iub"


def moving(model: keras.Model) -> tuple[bool, ...]:
    """Of each of the weights, in the order of `get_weights()`, whether training may change it, so that rounds do.

    Those are floats that are trained, and floats that a layer stores in a forward pass, such as the statistics of BatchNormalization.
    Not those that are frozen: weights that were made to be trained, and are not, like the kernels below those of LoRA. What a layer has
    made as state counts, whether it changes or not, but for Keras' own `Normalization` and a frozen `BatchNormalization`, which never do.
    """
    layers, kinds = internals.layers_within(model), _kinds()
    state = {id(variable) for layer in layers if not _rests(layer, kinds) for variable in internals.made_as_state(layer)}
    state |= {id(variable) for layer in layers if isinstance(layer, kinds.SpectralNormalization) for variable in layer.weights}
    trained = {id(variable) for variable in model.trainable_variables}
    return tuple(not is_kept(one.dtype) and (id(one) in trained or id(one) in state) for one in model.weights)


def _kinds() -> Any:
    import keras  # noqa: PLC0415  is loaded already: there is a model

    return keras.layers


def _rests(layer: Any, kinds: Any) -> bool:
    """Whether a forward pass changes nothing that the layer stores."""
    return type(layer) is kinds.Normalization or (type(layer) is kinds.BatchNormalization and not layer.trainable)


def check_kept(model: keras.Model, delta: Weights, sent: Sequence[bool]) -> None:
    """Refuse an update that would lose something: training has changed weights that are not in it.

    Args:
        model: whose weights they are.
        delta: what was added to each of its weights; zeros for integers, see `added`.
        sent: of each, whether it is in the update.

    Raises:
        UpdateHeldBack: naming the weight.
    """
    for variable, array, travels in zip(model.weights, delta, sent, strict=True):
        if not travels and array.any():
            raise UpdateHeldBack(
                f"weight {variable.path!r} is frozen, and training changed it all the same: the layer that does it has to make it with "
                "add_weight(trainable=False), as state that rounds average"
            )


def check_dtypes(model: keras.Model) -> None:
    """Refuse weights that can neither be averaged nor kept.

    Raises:
        ModelRefused: naming the first of them.
    """
    trained = {id(variable) for variable in model.trainable_variables}
    for variable in model.weights:
        dtype = np.dtype(variable.dtype)
        if dtype not in (np.float32, np.float64) and (not is_kept(dtype) or id(variable) in trained):
            raise ModelRefused(
                f"weight {variable.path!r} is {variable.dtype}: float32 and float64 can be averaged, and integers that are not trained kept"
            )


def check_trained(model: keras.Model) -> None:
    """Refuse to train a model that has nothing to train: its updates would all be zero.

    Raises:
        ModelRefused: none of its weights is trainable.
    """
    if not model.trainable_variables:
        raise ModelRefused(
            f"none of the {len(model.weights)} weights of the model is trainable, so that no round would move it: leave one layer at least "
            "unfrozen (trainable=True), and compile after that"
        )


def check_sent(weights: Weights) -> None:
    """Refuse weights of a task that no model here has.

    Raises:
        UpdateHeldBack: they are not finite, or neither float32, float64 nor integers.
    """
    for array in weights:
        if (array.dtype not in (np.float32, np.float64) and not is_kept(array.dtype)) or not np.isfinite(array).all():
            raise UpdateHeldBack("a weight of the task is no float32, float64 or integer, or not finite")


def added(after: Weights, before: Weights) -> Weights:
    """Return what training added to each of the weights; zeros for those that are kept, whatever a forward pass did to them."""
    return [np.zeros_like(b) if is_kept(b.dtype) else a - b for a, b in zip(after, before, strict=True)]


class Statistics:
    """What layers like an adapted `Normalization` compute from their weights when these are loaded, and have in a graph from then on.

    Args:
        model: of which the layers are.
    """

    def __init__(self, model: keras.Model) -> None:
        import keras  # noqa: PLC0415  is loaded already: there is a model

        kind, places = keras.layers.Normalization, {id(variable): i for i, variable in enumerate(model.weights)}
        layers = internals.layers_within(model)
        self._layers = [layer for layer in layers if isinstance(layer, kind) and layer.input_mean is None and layer.built]
        self._places = [places[id(variable)] for layer in self._layers for variable in layer.weights]
        self._known: list[Array] | None = None

    def fit(self, weights: Sequence[Array]) -> bool:
        """Whether what was computed is that of these weights. So it is before anything was."""
        if self._known is None:
            return True
        return all(i < len(weights) and np.array_equal(weights[i], one) for i, one in zip(self._places, self._known, strict=True))

    def compute(self, weights: Sequence[Array]) -> None:
        """Compute the statistics, once the model has these weights."""
        if self._layers and self._known is None:
            for layer in self._layers:
                layer.finalize_state()
            self._known = [weights[i].copy() for i in self._places]
