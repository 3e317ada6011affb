"""A stand-in for a model at the aggregator: no weights, the same loss and metrics, and made-up labels and predictions to show it."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.metrics import compiled
from federated.models.labels import Labels, classes, classes_in_columns, like
from federated.tasks.update import Array, Blueprint

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

SIDE = 4
"""Length of a dimension that is not known: of sequences, of images."""

Made = tuple[Any, Any, Array | None]
"""Labels, predictions and weights of some examples."""


def outputs(model: keras.Model) -> Any:
    """Return the symbolic outputs of a model; None if they are not known."""
    import keras  # noqa: PLC0415  is loaded already: there is a model

    try:
        return model.output
    except (AttributeError, ValueError):  # a class of its own, which was built but not called
        pass
    try:
        shape = model.get_build_config()["input_shape"]
        return model.compute_output_spec(keras.KerasTensor(tuple(shape), model.input_dtype))
    except Exception:  # whatever its call does with symbols
        return None


class StandIn:
    """Takes in predictions, and keeps metrics of them as the model would.

    Args:
        model: of which it has the outputs.
        plan: of which it has the compilation.
        labels: makes labels for predictions.

    Raises:
        Exception: the metrics cannot take such labels.
    """

    def __init__(self, model: keras.Model, plan: Blueprint, labels: Labels) -> None:
        import keras  # noqa: PLC0415  is loaded already: there is a model

        self._made_of = model, plan, labels
        spec = outputs(model)
        flat = keras.tree.flatten(spec)
        inputs = [keras.Input([side or SIDE for side in one.shape[1:]], dtype=one.dtype) for one in flat]
        names = getattr(model, "output_names", None) or [None] * len(flat)
        ends = [keras.layers.Identity(name=name)(one) for name, one in zip(names, inputs, strict=True)]
        self._model = keras.Model(inputs, keras.tree.pack_sequence_as(spec, ends) if len(flat) > 1 or isinstance(spec, dict) else ends[0])
        compilation = json.loads(plan.compilation) | {"optimizer": "sgd"}
        self._model.compile_from_config(compilation)
        self._spec, self._shapes, self._labels, self._tree = spec, [tuple(one.shape[1:]) for one in inputs], labels, keras.tree
        self._weighted = bool(compilation.get("weighted_metrics"))
        self.update(self.made_up(np.random.default_rng(0), 2))
        self.reset()

    def another(self) -> StandIn:
        """One of the same, which has seen nothing that this one has."""
        return StandIn(*self._made_of)

    @property
    def metrics(self) -> list[Any]:
        """See `compiled.each`."""
        return compiled.each(self._model)

    def names(self) -> list[str]:
        """See `compiled.names`."""
        return compiled.names(self._model)

    def made_up(self, rng: np.random.Generator, examples: int) -> Made:
        """Labels and predictions of so many examples."""
        flat = [_predictions(rng, (examples, *shape)) for shape in self._shapes]
        labels = [self._labels(rng, one) for one in flat]
        weights = rng.uniform(0.5, 2.0, examples).astype(np.float32) if self._weighted else None
        if len(flat) == 1 and not isinstance(self._spec, dict):
            return labels[0], flat[0], weights
        return self._tree.pack_sequence_as(self._spec, labels), self._tree.pack_sequence_as(self._spec, flat), weights

    def update(self, made: Made) -> None:
        """Update the metrics by a batch, as a step of training does."""
        y, predictions, weights = made
        if self._model.loss is not None:
            loss = self._model.compute_loss(x=None, y=y, y_pred=predictions, sample_weight=weights)
            compiled.loss_tracker(self._model).update_state(loss, sample_weight=len(self._tree.flatten(predictions)[0]))
        self._model.compute_metrics(None, y, predictions, sample_weight=weights)

    def reset(self) -> None:
        """Begin anew."""
        self._model.reset_metrics()

    def values(self) -> list[Any]:
        """Of each metric, its value."""
        return [metric.result() for metric in self.metrics]


def stand_in(model: keras.Model, plan: Blueprint) -> StandIn | None:
    """One with labels of a form that the metrics take: as the predictions are, or numbers of classes; None if they take neither."""
    likely: list[Labels] = [like, classes, classes_in_columns]
    if "sparse" in plan.compilation.lower():
        likely = [classes, classes_in_columns, like]
    if outputs(model) is None:
        return None
    for labels in likely:
        try:
            return StandIn(model, plan, labels)
        except Exception:  # metrics raise nearly anything for labels that they do not expect
            log.debug("no metrics of made-up labels", exc_info=True)
    return None


def _predictions(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    some = rng.uniform(0.02, 0.98, shape).astype(np.float32)
    return some / some.sum(-1, keepdims=True) if len(shape) > 1 and shape[-1] > 1 else some
