"""Of which models it is known, by their structure, that no example reaches the outputs of another, whatever the examples are.

A trial on made-up examples cannot show that: a layer may mix examples only where a value is above 50. Whoever trains a model that somebody
else has made, who may want it to, has to know. What is not known here runs each example alone.
"""

from __future__ import annotations

from typing import Any, Final

import keras

from privacy.keras_models import internals

_NAMES: Final = """
    Activation Add AlphaDropout Average AveragePooling1D AveragePooling2D AveragePooling3D BatchNormalization Bidirectional Concatenate
    Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose Cropping1D Cropping2D Cropping3D Dense DepthwiseConv1D
    DepthwiseConv2D Dropout EinsumDense ELU Embedding Flatten GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
    GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization GRU GRUCell Identity InputLayer
    LayerNormalization LeakyReLU LSTM LSTMCell Masking Maximum MaxPooling1D MaxPooling2D MaxPooling3D Minimum MultiHeadAttention Multiply
    Normalization Permute PReLU ReLU RepeatVector Rescaling Reshape RMSNormalization RNN SeparableConv1D SeparableConv2D SimpleRNN
    SimpleRNNCell Softmax SpatialDropout1D SpatialDropout2D SpatialDropout3D Subtract TimeDistributed UnitNormalization UpSampling1D
    UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
"""
_LAYERS: Final = {getattr(keras.layers, name) for name in _NAMES.split() if hasattr(keras.layers, name)}
_MODELS: Final = {keras.Sequential, type(keras.Model(one := keras.Input((1,)), keras.layers.Identity()(one)))}
_ACTIVATIONS: Final = {
    id(function)
    for name, function in vars(keras.activations).items()
    if callable(function) and name not in ("get", "deserialize", "serialize")
}
"""Functions of values, or along the last axis."""


def unknown(model: keras.Model) -> str | None:
    """Why it is not known that the model leaves examples apart, or None."""
    for layer in internals.layers_within(model):
        why = _of_model(layer) if isinstance(layer, keras.Model) else _of_layer(layer)
        if why is not None:
            return f"{layer.name} ({type(layer).__name__}) {why}"
    return None


def _of_model(model: Any) -> str | None:
    if type(model) not in _MODELS:
        return "has a call of its own"
    strange = [one for one in getattr(model, "operations", ()) if not isinstance(one, keras.layers.Layer) and not _adds(one)]
    return f"has the operation {type(strange[0]).__name__}" if strange else None


def _adds(operation: Any) -> bool:
    """Whether it is x + y of tensors with as many axes, each with the examples on the first."""
    if not internals.adds(operation):
        return False
    given = [node.arguments for node in internals.calls_of(operation)]
    return all(
        len(keras.tree.flatten((one.args, one.kwargs))) == 2 and len({len(tensor.shape) for tensor in one.keras_tensors}) == 1
        and len(one.keras_tensors) == 2
        for one in given
    )  # fmt: skip


def _of_layer(layer: Any) -> str | None:
    if type(layer) not in _LAYERS:
        return "may mix examples"
    for name in ("axis", internals.ATTENTION_AXES, "axes", "dims"):
        if any(axis is not None and axis < 1 and axis != -1 for axis in keras.tree.flatten(getattr(layer, name, None))):
            return f"works along {name}={getattr(layer, name)}"
    for name in ("activation", "recurrent_activation"):
        function = getattr(layer, name, None)
        if function is not None and id(function) not in _ACTIVATIONS and type(function) not in _LAYERS:
            return f"has an {name} that is none of Keras' own"
    if isinstance(layer, keras.layers.EinsumDense):
        given, _, made = layer.equation.replace(" ", "").replace("->", ",").split(",")
        if not (given[:1] == made[:1] != "." and given[0] not in layer.equation.split(",")[1].split("->")[0]):
            return "has the examples elsewhere than on the first axis of its equation"
    tensors = [tensor for node in internals.calls_of(layer) for tensor in (*node.input_tensors, *node.output_tensors)]
    if any(len(tensor.shape) < 2 for tensor in tensors):
        return "works on examples that are single numbers, so that its last axis is that of the examples"
    return None
