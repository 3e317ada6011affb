"""Keras' private names, and its private modules, by what they mean to us. No other file of these packages uses one.

`tests/privacy/test_keras_internals.py` holds that each exists in the installed Keras and means what is said here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

Model = Any  # keras.Model; Keras has no types
Layer = Any  # keras.layers.Layer
Operation = Any  # keras.Operation
Tensor = Any  # keras.KerasTensor, or one of the backend

ATTENTION_AXES: Final = "_attention_axes"
"""The attribute of a `MultiHeadAttention` that holds its axes: None for all but the first and last."""


def layers_within(layer: Layer, *, itself: bool = True, deep: bool = True) -> list[Layer]:
    """List the layers of a model or layer, nested ones too.

    Args:
        layer: to look into.
        itself: whether it is the first of the list.
        deep: whether layers in layers are listed, too.
    """
    found: list[Layer] = layer._flatten_layers(include_self=itself, recursive=deep)
    return found


def made_as_state(layer: Layer) -> list[Any]:
    """List the variables of a layer itself that were made with `trainable=False`, whatever was frozen later."""
    return list(layer._non_trainable_variables)


def mask_of(tensor: Tensor) -> Tensor | None:
    """Give the mask that a tensor carries from layer to layer and to the loss, or None."""
    return getattr(tensor, "_keras_mask", None)


def put_mask(tensor: Tensor, mask: Tensor) -> None:
    """Make a tensor carry a mask."""
    tensor._keras_mask = mask


def logits_of(tensor: Tensor) -> tuple[str, Tensor] | None:
    """Give what a tensor is the softmax or sigmoid of, if Keras' crossentropies find it, and how; else None.

    They compute with it instead of the probabilities, which they would have to bound away from 0 and 1, where there is no gradient.
    """
    kept = getattr(tensor, "_keras_logits", None)
    if kept is not None:
        return "kept", kept
    import tensorflow as tf  # noqa: PLC0415  takes seconds, and whoever has a tensor has it

    if tf.is_symbolic_tensor(tensor) and tensor.op.type in ("Softmax", "Sigmoid"):
        return tensor.op.type, tensor.op.inputs[0]
    return None


def with_logits(tensor: Tensor, how: str, logits: Tensor) -> Tensor:
    """Give a tensor in which Keras' crossentropies find logits, as `logits_of` has found them in another."""
    import tensorflow as tf  # noqa: PLC0415  as above

    if how == "kept":
        tensor._keras_logits = logits
        return tensor
    return tf.nn.softmax(logits) if how == "Softmax" else tf.sigmoid(logits)


def calls_of(operation: Operation) -> list[Any]:
    """List the calls of an operation with symbolic tensors, as nodes: each has `arguments`, `input_tensors`, `output_tensors`."""
    found: list[Any] = operation._inbound_nodes
    return found


def origin(tensor: Tensor) -> tuple[Operation, Any]:
    """Give the operation that made a symbolic tensor, and the node of that call."""
    operation, index, _ = tensor._keras_history
    return operation, calls_of(operation)[index]


@contextmanager
def symbolic_calls(layer: Layer, instead: Any) -> Iterator[None]:
    """Make the layers within a layer, as long as this lasts, call `instead(layer, its symbolic_call, ...)` where they are given symbols.

    A layer may then give None beside symbols, too, of which its node says nothing.
    """
    import keras  # noqa: PLC0415  is loaded already: there is a layer

    module, node = keras.src.layers.layer, keras.src.ops.node.Node

    def noted(operation: Operation, call_args: Any, call_kwargs: Any, outputs: Any) -> Any:
        return node(operation, call_args, call_kwargs, [one for one in keras.tree.flatten(outputs) if one is not None])

    within = layers_within(layer, itself=False) if isinstance(layer, keras.Layer) else []
    changed = [one for one in dict.fromkeys(within) if "symbolic_call" not in vars(one)]
    for one in changed:
        object.__setattr__(one, "symbolic_call", partial(instead, one, one.symbolic_call))
    module.Node = noted
    try:
        yield
    finally:
        module.Node = node
        for one in changed:
            object.__delattr__(one, "symbolic_call")


def adds(operation: Operation) -> bool:
    """Tell whether an operation in a functional model is x + y."""
    import keras  # noqa: PLC0415  takes seconds

    return type(operation) is keras.src.ops.numpy.Add


def inputs_as_given(model: Model) -> Any:
    """Give the symbolic inputs of a functional model in the nest they were given in (one tensor is a nest); None for a model without."""
    given = getattr(model, "_inputs_struct", None)
    if given is None:
        given = getattr(model, "inputs", None)
    return None if isinstance(given, list) and not given else given


def outputs_as_given(model: Model) -> Any:
    """Give the symbolic outputs of a functional model in the nest they were given in; None for a model without."""
    return getattr(model, "_outputs_struct", None)


def call_context(layer: Layer) -> Any:
    """Give the call that is under way: layers inside find there whether it is `training`. Without one, `layer` begins one."""
    return layer._get_call_context()


def leave_call(layer: Layer) -> None:
    """End the call that is under way if `layer` began it."""
    layer._maybe_reset_call_context()


def output_projection(attention: Layer) -> Layer:
    """Give the layer that an attention layer ends in."""
    return attention._output_dense


def is_windowed_or_gated(attention: Layer) -> bool:
    """Tell whether an attention layer has a sliding window or a gate."""
    return getattr(attention, "_sliding_window", None) is not None or bool(getattr(attention, "_use_gate", False))


def compile_arguments(model: Model) -> dict[str, Any]:
    """Give what `compile` was called with, by the names of its arguments and not serialised; nothing if it was not called."""
    settings = getattr(model, "_compile_config", None)
    return {} if settings is None else dict(settings.config)


def loss_weights(model: Model) -> Any:
    """Give what `compile(loss_weights=)` was given: a number, a nest of numbers, or None."""
    return None if model._compile_loss is None else model._compile_loss._user_loss_weights


def learning_rate(optimizer: Any) -> Any:
    """Give the learning rate as it was given: a variable, or a schedule (a callable); the public one is the number of the next step."""
    return optimizer._learning_rate


def count_of_steps(optimizer: Any) -> Any:
    """Give the variable that counts the steps, which a schedule goes by; the public one counts updates where gradients accumulate."""
    return optimizer._iterations


def decays(optimizer: Any, variable: Any) -> bool:
    """Tell whether the optimizer's `weight_decay` is for this variable: see `exclude_from_weight_decay`."""
    return bool(optimizer._use_weight_decay(variable))


def keywords_of_loss(loss: Any) -> dict[str, Any]:
    """Give the keywords with which a loss calls its function, of which its configuration does not tell all; none if it wraps none."""
    return dict(getattr(loss, "_fn_kwargs", {}))


def losses_added_by(layer: Layer) -> list[Tensor]:
    """List what a layer itself has added with `add_loss` in the call of the model that was last; regularizers of weights are not there."""
    found: list[Tensor] = layer._get_own_losses()
    return found


def forget_losses(layer: Layer) -> None:
    """Make a layer, and those in it, forget what they have added with `add_loss`."""
    layer._clear_losses()


def compiled_loss(model: Model, y: Any, outputs: Any, weights: Tensor | None = None) -> Tensor:
    """Compute what `compile(loss=, loss_weights=)` says of targets, outputs and weights of examples, without what layers add."""
    return model._compile_loss(y, outputs, weights)


def weigh_losses_of_outputs(model: Model) -> None:
    """Make the loss that is told of each of several outputs the mean over examples, as the loss of all is, whatever the batches are.

    Keras weighs it by the size of the batch only where that is known when the step is traced: with a smaller last batch, in a graph, it
    tells the mean over batches, or a mixture of both, which then is not what the loss is the sum of.

    Args:
        model: compiled, and not trained yet. It is changed.
    """
    losses = model._compile_loss
    if losses is None:
        return
    build, call, batch = losses.build, losses.call, [None]

    def weighing(metric: Any) -> None:
        update = metric.update_state
        metric.update_state = lambda value, sample_weight=None: update(value, sample_weight=batch[0])

    def built(*args: Any) -> None:
        build(*args)
        for metric in losses.metrics:
            weighing(metric)

    def called(y: Any, outputs: Any, sample_weight: Any = None) -> Any:
        import keras  # noqa: PLC0415  is loaded already: there is a model

        batch[0] = keras.ops.shape(keras.tree.flatten(outputs)[0])[0]
        try:
            return call(y, outputs, sample_weight)
        finally:
            batch[0] = None  # a symbol of a graph that ends

    losses.build, losses.call = built, called


def loss_of(model: Model, **given: Any) -> Tensor:
    """Compute the loss of a training step as Keras' own step does, also where the model's `compute_loss` takes no `training`.

    Args:
        model: compiled.
        given: `x`, `y`, `y_pred` and `sample_weight`.
    """
    return model._compute_loss(**given, training=True)


def optimizer_apart(optimizer: Any) -> Any:
    """Give an optimizer that does what this one does and has a state of its own, not built yet; this one stays as it is."""
    import keras  # noqa: PLC0415  is loaded already: there is an optimizer

    twin = object.__new__(type(optimizer))
    vars(twin).update(
        {name: value for name, value in vars(optimizer).items() if not name.startswith("_self_")}
    )  # TensorFlow's book-keeping
    state: list[Any] = []
    tracker = type(optimizer._tracker)({"variables": (lambda one: isinstance(one, keras.Variable), state)})
    vars(twin).update(built=False, _variables=state, _trainable_variables=[], _trainable_variables_indices={}, _tracker=tracker)
    for name in ("_iterations", "_learning_rate"):
        value = vars(optimizer)[name]
        if isinstance(value, keras.Variable):
            begin = 0 if name == "_iterations" else value.numpy()
            vars(twin)[name] = keras.Variable(begin, dtype=value.dtype, trainable=False, name=value.name)
            state.append(vars(twin)[name])
    for name, value in vars(optimizer).items():
        if isinstance(value, keras.Optimizer):  # which builds the one within
            vars(twin)[name] = optimizer_apart(value)
    return twin


def compile_apart(model: Model) -> dict[str, Any]:
    """Give the attributes that a model has when what it was compiled with has seen no labels yet: its losses the same, no metrics."""
    losses = model._compile_loss
    fresh = None
    if losses is not None:
        fresh = type(losses)(losses._user_loss, losses._user_loss_weights, output_names=losses.output_names)
    return {"_compile_loss": fresh, "_compile_metrics": None}


def common_seed() -> Any:
    """Give what Keras draws from where no seed is given; None if it never has."""
    import keras  # noqa: PLC0415  is loaded already: there is a model

    state = keras.src.backend.common.global_state
    return state.get_global_attribute(keras.src.random.seed_generator.GLOBAL_SEED_GENERATOR)


def put_common_seed(generator: Any) -> None:
    """Set what Keras draws from where no seed is given; None: it makes another."""
    import keras  # noqa: PLC0415  is loaded already: there is a model

    name = keras.src.random.seed_generator.GLOBAL_SEED_GENERATOR
    keras.src.backend.common.global_state.set_global_attribute(name, generator)


def find_direction(callback: Any) -> None:
    """Make a callback find out from its `monitor` whether less of it is better.

    Raises:
        ValueError: Keras does not know.
    """
    callback._set_monitor_op()


def call_takes_training(model: Model) -> bool:
    """Tell whether the model's `call` has an argument `training`."""
    return bool(model._call_has_training_arg)


def outputs_of(model: Model, x: Any, *, training: bool) -> Any:
    """Return the outputs of a model, which is told `training` if its `call` takes it."""
    return model(x, training=training) if call_takes_training(model) else model(x)
