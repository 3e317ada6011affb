"""Any node of a network that is trained, as messages need it: by the name of its class."""

from __future__ import annotations

from protocols.training.networks.activity import PenalisedLayer
from protocols.training.networks.attention import MaskedLayer, MatricesLayer, SoftmaxLayer
from protocols.training.networks.layers import (
    AffineLayer,
    AveragePoolLayer,
    ConvolutionLayer,
    JoinedLayer,
    MultipliedLayer,
    PaddedLayer,
    PermutedLayer,
    ProductLayer,
    RescaleLayer,
    ShapedLayer,
    ShiftedLayer,
    SumLayer,
    TakenLayer,
)
from protocols.training.networks.lookup import OneHotLayer, TruthLayer
from protocols.training.networks.nonlinear import CurveLayer, ExtremeLayer, MaxPoolLayer, RectifierLayer
from protocols.training.networks.normalisation import BatchNormalisedLayer, NormalisedLayer
from protocols.training.networks.random import DroppedLayer, NoisyLayer
from protocols.training.networks.roots import InverseLayer

AnyLayer = (
    ProductLayer
    | ConvolutionLayer
    | AffineLayer
    | ShiftedLayer
    | RescaleLayer
    | RectifierLayer
    | CurveLayer
    | MaxPoolLayer
    | AveragePoolLayer
    | ShapedLayer
    | PermutedLayer
    | TakenLayer
    | PaddedLayer
    | JoinedLayer
    | SumLayer
    | MultipliedLayer
    | ExtremeLayer
    | NormalisedLayer
    | BatchNormalisedLayer
    | MatricesLayer
    | MaskedLayer
    | SoftmaxLayer
    | OneHotLayer
    | TruthLayer
    | DroppedLayer
    | NoisyLayer
    | InverseLayer
    | PenalisedLayer
)
