"""The losses that layers add to a model's own with `add_loss`, and whether they look at the examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from privacy.keras_models import internals

OF_WEIGHTS: Final = "add_loss of weights"
OF_ACTIVATIONS: Final = "add_loss"
ADDED: Final = (OF_WEIGHTS, OF_ACTIVATIONS)
"""Names of asks: a loss that depends on weights only, as a regularizer's, and one that depends on the examples of a batch."""


def added_losses(model: Any, inputs: Any = None) -> Iterator[tuple[str, str, str]]:
    """Yield (name, layer, meaning) for each loss that a layer adds in training.

    The forward pass is traced once and not run; a loss is one of weights if nothing on its way in the graph comes from the examples. Only
    a layer that is not of Keras' own can add a loss of its own choice: without such layers nothing is traced.

    Args:
        model: a `keras.Model`.
        inputs: a nest of specifications, where the model has no symbolic inputs. Without both nothing is known, and nothing yielded.
    """
    layers = internals.layers_within(model)
    specs = inputs if inputs is not None else internals.inputs_as_given(model)
    if specs is None or all(type(layer).__module__.partition(".")[0] == "keras" for layer in layers):
        return
    try:
        found = _traced(model, layers, specs)
    except Exception:  # a layer of one's own may raise anything where it is traced
        yield OF_ACTIVATIONS, model.name, "its call cannot be traced, so that nobody knows what it adds to the loss"
        return
    for layer, depends in found:
        if depends:
            yield OF_ACTIVATIONS, layer, "a loss that it computes from a batch is added"
        else:
            yield OF_WEIGHTS, layer, "a loss that it computes from weights is added"


def _traced(model: Any, layers: list[Any], specs: Any) -> list[tuple[str, bool]]:
    """List the layer of each loss that is added, and whether the loss depends on the examples."""
    import tensorflow as tf  # noqa: PLC0415  takes seconds, and only those who have a model need it

    given = specs[0] if isinstance(specs, list) and len(specs) == 1 else specs
    signature = tf.nest.map_structure(lambda one: tf.TensorSpec((None, *one.shape[1:]), one.dtype), given)
    losses: list[tuple[str, Any]] = []

    def run(examples: Any) -> Any:
        outputs = model(examples, training=True)
        losses.extend((layer.name, loss) for layer in layers for loss in internals.losses_added_by(layer))
        return outputs

    try:
        traced = tf.function(run, autograph=False).get_concrete_function(signature)
    finally:
        internals.forget_losses(model)  # symbols of a graph that is thrown away
    examples = {tensor.op.name for tensor in traced.inputs[: len(tf.nest.flatten(signature))]}
    return [(layer, _reaches(loss, examples)) for layer, loss in losses]


def _reaches(tensor: Any, sources: set[str]) -> bool:
    """Whether an operation named in `sources` is on the way to a tensor of a graph. What is computed already depends on nothing."""
    import tensorflow as tf  # noqa: PLC0415  is loaded already

    if not tf.is_symbolic_tensor(tensor):
        return False
    waiting, seen = [tensor.op], set[str]()
    while waiting:
        operation = waiting.pop()
        if operation.name in sources:
            return True
        if operation.name not in seen:
            seen.add(operation.name)
            waiting += [one.op for one in operation.inputs]
    return False
