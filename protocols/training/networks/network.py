"""Any node of a network that is trained, as messages need it: by the name of its class."""

from __future__ import annotations

from protocols.training.networks.layers import (
    Affine,
    AveragePool,
    Convolution,
    Joined,
    Multiplied,
    Padded,
    Permuted,
    Product,
    Rescale,
    Shaped,
    Shifted,
    Sum,
    Taken,
)
from protocols.training.networks.nonlinear import Curved, Extreme, MaxPool, Rectify

AnyLayer = (
    Product
    | Convolution
    | Affine
    | Shifted
    | Rescale
    | Rectify
    | Curved
    | MaxPool
    | AveragePool
    | Shaped
    | Permuted
    | Taken
    | Padded
    | Joined
    | Sum
    | Multiplied
    | Extreme
)
