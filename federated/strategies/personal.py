"""Strategies whose owners keep something of their own: Ditto, personal layers and FedBN."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from federated.errors import SettingError
from federated.strategies.averaging import FedAvg
from federated.strategies.strategy import check
from federated.tasks.update import LocalTraining, Setting


@dataclass(frozen=True, kw_only=True)
class Ditto(FedAvg):
    """FedAvg, and at each owner a model of its own beside it, held near the global weights.

    v_i <- argmin F_i(v) + near/2 ||v - w_t||^2, from the v_i of its round before. Owners evaluate v_i, not the global weights. v_i never
    leaves the owner: give real ones `DataOwner(..., memory=)`, so that it survives a restart.

    Args:
        near: lambda of the paper, at least 0; with 0 owners train by themselves.

    References:
        Li et al., 2021, arXiv:2012.04221, Algorithm 1.
    """

    near: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check("near", self.near, 0.0 <= self.near < np.inf, "at least 0 and finite")

    def local_training(self) -> LocalTraining:
        """With a model of the owner's own."""
        return dataclasses.replace(super().local_training(), method="ditto")

    def config(self, round: int) -> Mapping[str, Setting]:
        """Return lambda."""
        return {"near": self.near}


@dataclass(frozen=True, kw_only=True)
class PersonalLayers(FedAvg):
    """FedAvg, but for layers that stay at each owner: they begin with the global weights, and never leave it. Owners evaluate with them.

    The weights of these layers in the global model stay as they were. Give real owners `DataOwner(..., memory=)`.

    Args:
        layers: names of layers, or of their classes; at least one.

    References:
        Arivazhagan et al., 2019, arXiv:1912.00818, Algorithm 1.

    Example:
        >>> PersonalLayers(layers=("head",))
    """

    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.layers, str) or not self.layers or any(not one or "," in one for one in self.layers):
            raise SettingError(f"layers={self.layers!r}: a tuple of at least one name of a layer, or of a class of layers, is expected")

    def local_training(self) -> LocalTraining:
        """With layers of the owner's own."""
        return dataclasses.replace(super().local_training(), method="layers")

    def config(self, round: int) -> Mapping[str, Setting]:
        """Return which layers."""
        return {"layers": ",".join(self.layers)}


@dataclass(frozen=True, kw_only=True)
class FedBN(PersonalLayers):
    """FedAvg, but for the layers of BatchNormalization, which stay at each owner, with their statistics.

    References:
        Li et al., 2021, arXiv:2102.07623.
    """

    layers: tuple[str, ...] = ("BatchNormalization",)
