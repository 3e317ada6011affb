"""Any node of a network that is trained, as messages need it: by the name of its class."""

from __future__ import annotations

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
from protocols.training.networks.nonlinear import CurveLayer, ExtremeLayer, MaxPoolLayer, RectifierLayer

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
)
