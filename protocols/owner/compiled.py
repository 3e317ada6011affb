"""A compiled Keras model becomes a plan: which networks, losses and optimizers can be trained on shares. Only the owner needs Keras."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from protocols.errors import ModelError, UnsupportedLayer
from protocols.mpc.engine.values import Shape
from protocols.owner.compiled_loss import check_named, compiled_loss, loss_weight
from protocols.owner.compiled_optimizer import compiled_optimizer, weighted
from protocols.owner.metrics import threshold
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.layers import AnyLayer, AveragePooling2D, Conv2D, Dense, Flatten, MaxPooling2D, ReLU, same
from protocols.training.step import Plan

_KNOWN = "Dense, Conv2D, MaxPooling2D, AveragePooling2D, GlobalAveragePooling2D, Flatten, ReLU, and a softmax or sigmoid at the end can be"
_EXTRAS = ("kernel_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint", "bias_constraint")

ANSWERED = frozenset({"loss_weights", "metrics", "learning_rate schedule", "weight_decay", "loss_scale_factor", "dtype"})
"""What a step on shares does of all that a compiled model may ask for, beside what changes no number."""

_SAID_BETTER = frozenset(
    {"clipnorm", "clipvalue", "global_clipnorm", "use_ema", "gradient_accumulation_steps", "LossScaleOptimizer", "optimizer of one's own"}
    | {"several losses", "reduction sum", "reduction none", "reduction mean_with_sample_weight", "ignore_class"}
    | {"regularizer", "activity_regularizer", "constraint", "frozen weights", "seed"}
)
"""What is refused further on, by name and with a reason of its own."""

VANISHED = 2.0 ** -(FRACTION - 2)
"""A kernel whose weights are all below this is a few steps of fixed point."""

ENDINGS = ("softmax", "sigmoid")
"""Activations that belong to the loss."""


def plan(model: Any) -> Plan:
    """What `model.fit` would do, in public numbers.

    Raises:
        UnsupportedLayer: a layer that cannot be trained on shares.
        ModelError: a loss or an optimizer that cannot, or a model that is not compiled.
    """
    import keras  # noqa: PLC0415  only the owner needs Keras

    if getattr(model, "optimizer", None) is None or model.loss is None:
        raise ModelError(f"model {model.name!r} is not compiled: compile(optimizer=keras.optimizers.SGD(0.1), loss=...) says how to train")
    check_named(model, keras)
    _answer(model)
    layers, ending = _layers(model, keras)
    loss, weight = compiled_loss(model, keras, ending=ending), loss_weight(model)
    _check_kernels(model)
    made = Plan(layers, loss, weighted(model, compiled_optimizer(model, keras), weight), weight=weight)
    edge = threshold(model, made, ending=ending)
    if loss == "crossentropy" and made.outputs == 1:
        raise ModelError(
            f"model {model.name!r} has one output, and a softmax over one output is always 1: nothing would be learnt. End in an output for"
            " each class, or use BinaryCrossentropy"
        )
    return msgspec.structs.replace(made, threshold=edge)


def _check_kernels(model: Any) -> None:
    """Refuse kernels that are not zero and would be: a network of zeros does not learn.

    Raises:
        ModelError: it names the layer.
    """
    for layer in model.layers:
        for kernel in (one for one in layer.trainable_variables if one.name == "kernel"):
            largest = float(abs(kernel.numpy()).max())
            if 0 < largest < VANISHED:
                raise ModelError(
                    f"the kernel of layer {layer.name!r} has weights up to {largest:.1e}, which vanish in fixed point: begin with weights"
                    f" above {VANISHED:.1e}, or with zeros"
                )


def _answer(model: Any) -> None:
    """Refuses a model that asks for what a step on shares does not do.

    Raises:
        ModelError: naming it.
    """
    from privacy.keras_models.asks import EVALUATION, HOW_IT_RUNS, refusal  # noqa: PLC0415  only the owner reads Keras models

    refused = refusal(model, ANSWERED | HOW_IT_RUNS | EVALUATION | _SAID_BETTER, step="training on shares")
    if refused is not None:
        raise ModelError(refused)


def _layers(model: Any, keras: Any) -> tuple[tuple[AnyLayer, ...], str | None]:
    made: list[AnyLayer] = []
    ending: str | None = None
    for layer in _chain(model, keras):
        name = f"layer {layer.name!r} ({type(layer).__name__})"
        if ending:
            raise UnsupportedLayer(f"{name} comes after a {ending}: the {ending} must be the last layer to be trained on shares")
        if not layer.trainable:
            raise UnsupportedLayer(f"{name} is frozen: on shares all layers are trained")
        made += _without_activation(layer, name, keras)
        _check_said(layer, name)
        activation = _activation(layer, name)
        ending = activation if activation in ENDINGS else None
        if activation == "relu":
            made.append(ReLU(_shape(layer.output)))
    if not made or not isinstance(made[-1], Dense):
        raise UnsupportedLayer(f"model {model.name!r} must end in a Dense layer without ReLU to be trained on shares")
    return _cheaper(made), ending


def _check_said(layer: Any, name: str) -> None:
    """Refuses what a layer, or one of its weights, adds to the loss or does to weights, wherever it was said."""
    if getattr(layer, "activity_regularizer", None) is not None:
        raise UnsupportedLayer(f"{name} has an activity_regularizer: it has no form on shares, leave it out")
    for variable in layer.trainable_variables:
        for setting in ("regularizer", "constraint"):
            if getattr(variable, setting, None) is not None:
                raise UnsupportedLayer(f"{name} has a {setting} of {variable.name}: it has no form on shares, leave it out")


def _chain(model: Any, keras: Any) -> list[Any]:
    """The layers from the input to the output, each fed by the one before.

    Raises:
        ModelError: the model is not built, or of another kind.
        UnsupportedLayer: a layer branches or joins.
    """
    if not getattr(model, "inputs", None):
        raise ModelError(f"model {model.name!r} cannot be trained on shares: a built Sequential or a functional keras.Model is needed")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelError(f"model {model.name!r} has {len(model.inputs)} inputs and {len(model.outputs)} outputs: one of each is needed")
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    nested = next((layer.name for layer in layers if isinstance(layer, keras.Model)), None)
    if nested is not None:
        raise UnsupportedLayer(f"layer {nested!r} is a model of its own: use its layers one by one")
    if not isinstance(model, keras.Sequential):
        _check_chain(model, layers)
    return layers


def _check_chain(model: Any, layers: list[Any]) -> None:
    """Walks from the output back to the input.

    Raises:
        UnsupportedLayer: a layer branches or joins.
    """
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    at, fed = model.outputs[0], []
    while at is not model.inputs[0]:
        layer, node = internals.origin(at)
        sources = node.input_tensors
        if len(sources) != 1 or layer in fed:
            raise UnsupportedLayer(f"layer {layer.name!r} joins branches or is used twice: on shares a chain of layers can be trained")
        fed.append(layer)
        at = sources[0]
    if fed != layers[::-1]:
        raise UnsupportedLayer(f"model {model.name!r} branches: on shares a chain of layers can be trained")


def _without_activation(layer: Any, name: str, keras: Any) -> list[AnyLayer]:
    """What a Keras layer is without its activation."""
    known = keras.layers
    if type(layer) in (known.ReLU, known.Activation, known.Softmax):
        return []
    if isinstance(layer, known.Dropout):
        raise UnsupportedLayer(f"{name} draws at random which activations count, which is not trained on shares: leave it out")
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise UnsupportedLayer(f"{name} has its channels first: on shares they come last")
    shape = _shape(layer.input)
    match type(layer):
        case known.Flatten:
            return [Flatten(shape)]
        case known.Dense:
            _plain(layer, name)
            if len(shape) != 1:
                raise UnsupportedLayer(f"{name} takes an input of shape {shape}: put a Flatten before it")
            return [Dense(shape, layer.units, layer.use_bias)]
        case known.Conv2D:
            return [_conv2d(layer, name, shape)]
        case known.MaxPooling2D:
            size, strides, padding = _windows(layer, shape, layer.pool_size)
            return [MaxPooling2D(shape, size, strides, padding)]
        case known.AveragePooling2D:
            size, strides, padding = _windows(layer, shape, layer.pool_size)
            if any(itertools.chain(*padding)):
                raise UnsupportedLayer(f"{name} has windows that reach over the edge of {shape[:2]}: use padding='valid'")
            return [AveragePooling2D(shape, size, strides)]
        case known.GlobalAveragePooling2D:
            pool = AveragePooling2D(shape, (shape[0], shape[1]), (1, 1))
            return [pool] if layer.keepdims else [pool, Flatten(pool.output)]
    raise UnsupportedLayer(f"{name} cannot be trained on shares; {_KNOWN}")


def _conv2d(layer: Any, name: str, shape: Shape) -> Conv2D:
    _plain(layer, name)
    if layer.groups != 1 or tuple(layer.dilation_rate) != (1, 1):
        raise UnsupportedLayer(f"{name} has groups or a dilation_rate: on shares a plain Conv2D can be trained")
    size, strides, padding = _windows(layer, shape, layer.kernel_size)
    return Conv2D(shape, layer.filters, size, strides, padding, layer.use_bias)


def _windows(layer: Any, shape: Shape, size: tuple[int, int]) -> tuple[Any, Any, Any]:
    """Size, strides and padding of a layer that moves a window."""
    size, strides = (size[0], size[1]), (layer.strides[0], layer.strides[1])
    return size, strides, same((shape[0], shape[1]), size, strides) if layer.padding == "same" else ((0, 0), (0, 0))


def _plain(layer: Any, name: str) -> None:
    for setting in _EXTRAS:
        if getattr(layer, setting, None) is not None:
            raise UnsupportedLayer(f"{name} has a {setting}: it has no form on shares, leave it out")
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        raise UnsupportedLayer(f"{name} is quantized or adapted: a plain layer is needed")
    frozen = [variable.name for variable in layer.weights if not variable.trainable]
    if frozen:
        raise UnsupportedLayer(f"{name} has a frozen {frozen[0]}: on shares all weights are trained")


def _activation(layer: Any, name: str) -> str:
    kind = type(layer).__name__
    if kind == "ReLU":
        if layer.max_value is not None or layer.negative_slope or layer.threshold:
            raise UnsupportedLayer(f"{name} has a slope, threshold or maximum: on shares the plain ReLU can be trained")
        return "relu"
    if kind == "Softmax":
        if layer.axis not in (-1, len(layer.output.shape) - 1):
            raise UnsupportedLayer(f"{name} has axis={layer.axis}: on shares the softmax is over the last axis")
        return "softmax"
    given = getattr(layer, "activation", None)
    function = "linear" if given is None else getattr(given, "__name__", type(given).__name__)  # a layer, or a partial, has no name
    if function not in ("linear", "relu", *ENDINGS):
        raise UnsupportedLayer(f"{name} has the activation {function}: on shares relu, linear, and softmax or sigmoid at the end can be")
    import keras  # noqa: PLC0415  only the owner needs Keras

    if given is not None and given is not getattr(keras.activations, function):
        raise UnsupportedLayer(f"{name} has an activation of its own that is named {function}: on shares Keras' own can be")
    return str(function)


def _cheaper(layers: list[AnyLayer]) -> tuple[AnyLayer, ...]:
    """The same function with fewer comparisons: the largest of a window goes before a ReLU, as max(ReLU(a), ReLU(b)) = ReLU(max(a, b))."""
    for index, (a, b) in enumerate(itertools.pairwise(layers)):
        if isinstance(a, ReLU) and isinstance(b, MaxPooling2D):
            return _cheaper([*layers[:index], b, ReLU(b.output), *layers[index + 2 :]])
    return tuple(layers)


def _shape(tensor: Any) -> Shape:
    """The shape of an example."""
    if None in tensor.shape[1:]:
        raise ModelError(f"a layer has an input of shape {tuple(tensor.shape)}: all sizes but the batch must be known")
    return tuple(int(n) for n in tensor.shape[1:])
