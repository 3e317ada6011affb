"""Strategies that need the mean of the updates only: FedAvg, FedProx, and the server optimizers."""

from __future__ import annotations

import abc
import dataclasses
from dataclasses import dataclass

import numpy as np

from federated.strategies.strategy import State, Strategy, check
from federated.strategies.updates import Updates
from federated.tasks.update import Array, LocalTraining, Weights


@dataclass(frozen=True, kw_only=True)
class FedAvg(Strategy):
    """The mean of the owners' weights is the new global model.

    x_{t+1} = sum_i n_i x_i / sum_i n_i = x_t + Delta_t,  where Delta_t = sum_i n_i (x_i - x_t) / sum_i n_i

    With one local step on all data (`batch_size=None`) of plain SGD and full participation this is centralised SGD.

    Args:
        fraction: C of the paper: of the owners, how many a round asks; see `Strategy`.
        local_epochs: E of the paper.
        batch_size: B of the paper; None: all data of an owner.

    References:
        McMahan et al., 2017, arXiv:1602.05629, Algorithm 1.
    """

    def step(self, round: int, weights: Weights, updates: Updates, state: State) -> tuple[Weights, State]:
        """x_{t+1} = x_t + Delta_t."""
        return moved(weights, updates.mean), state


@dataclass(frozen=True, kw_only=True)
class FedProx(FedAvg):
    """FedAvg whose owners are held near the global model: each minimises F_i(w) + mu/2 ||w - w_t||^2.

    Args:
        mu: weight of the proximal term, at least 0; 0 is FedAvg.

    References:
        Li et al., 2020, arXiv:1812.06127, Algorithm 2.
    """

    mu: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check("mu", self.mu, 0.0 <= self.mu < np.inf, "at least 0 and finite")

    def local_training(self) -> LocalTraining:
        """With the proximal term."""
        return dataclasses.replace(super().local_training(), proximal=self.mu)


@dataclass(frozen=True, kw_only=True)
class FedSGD(Strategy):
    """Owners give gradients, not weights: one step of SGD on all of them together.

    x_{t+1} = x_t - eta sum_i n_i g_i / sum_i n_i,  g_i the gradient of the loss of owner i at x_t.

    g_i is that of one batch of all examples of the owner, whatever the loss and its reduction are. Where it is no mean over examples, or
    layers look at a whole batch (BatchNormalization), they are computed at once, and memory grows with their number.

    Args:
        eta: learning rate of the step, above 0. The optimizer of the model is not used: callbacks that set its learning rate are refused.
        batch_size: examples that each g_i is over, drawn anew each round; None for all, as in the paper.

    References:
        McMahan et al., 2017, arXiv:1602.05629, section 2.
    """

    batch_size: int | None = None
    eta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check("eta", self.eta, 0.0 < self.eta < np.inf, "above 0 and finite")
        check("local_epochs", self.local_epochs, self.local_epochs == 1, "1: a gradient is of one point; use FedAvg to train longer")

    def local_training(self) -> LocalTraining:
        """Gradients, please."""
        return dataclasses.replace(super().local_training(), gradient=True)

    def step(self, round: int, weights: Weights, updates: Updates, state: State) -> tuple[Weights, State]:
        """One step of SGD; the mean is that of minus the gradients."""
        return moved(weights, [self.eta * d for d in updates.mean]), state


@dataclass(frozen=True, kw_only=True)
class FedAvgM(Strategy):
    """FedAvg with momentum at the server.

    v_t = beta v_{t-1} + Delta_t,  x_{t+1} = x_t + eta v_t,  with Delta_t as in `FedAvg`.

    Args:
        beta: momentum, in [0, 1).
        eta: server learning rate, above 0. With beta=0 and eta=1 this is FedAvg.

    References:
        Hsu et al., 2019, arXiv:1909.06335, section 4.3.
    """

    beta: float = 0.9
    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check("beta", self.beta, 0.0 <= self.beta < 1.0, "in [0, 1)")
        check("eta", self.eta, 0.0 < self.eta < np.inf, "above 0 and finite")

    def initial(self, weights: Weights) -> State:
        """v_{-1} = 0."""
        return {"v": filled(weights, 0.0)}

    def step(self, round: int, weights: Weights, updates: Updates, state: State) -> tuple[Weights, State]:
        """One step of heavy-ball momentum along Delta_t."""
        v = [self.beta * v + d for v, d in zip(state["v"], updates.mean, strict=True)]
        return moved(weights, [self.eta * each for each in v]), {"v": v}


@dataclass(frozen=True, kw_only=True)
class _Adaptive(Strategy):
    """Algorithm 2 of Reddi et al., 2021, but for the line that makes v_t.

    m_t = beta_1 m_{t-1} + (1 - beta_1) Delta_t;
    x_{t+1} = x_t + eta m_t / (sqrt(v_t) + tau);  m_{-1} = 0 and v_{-1} = tau^2. There is no bias correction.
    """

    eta: float = 0.01
    beta_1: float = 0.9
    tau: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check("eta", self.eta, 0.0 < self.eta < np.inf, "above 0 and finite")
        check("beta_1", self.beta_1, 0.0 <= self.beta_1 < 1.0, "in [0, 1)")
        check("tau", self.tau, 0.0 < self.tau < np.inf, "above 0 and finite")

    @abc.abstractmethod
    def _second_moment(self, v: Array, squared: Array) -> Array:
        """v_t from v_{t-1} and Delta_t^2."""

    def initial(self, weights: Weights) -> State:
        """m_{-1} = 0, v_{-1} = tau^2."""
        return {"m": filled(weights, 0.0), "v": filled(weights, self.tau**2)}

    def step(self, round: int, weights: Weights, updates: Updates, state: State) -> tuple[Weights, State]:
        """Lines 9 to 14 of Algorithm 2."""
        m = [self.beta_1 * m + (1 - self.beta_1) * d for m, d in zip(state["m"], updates.mean, strict=True)]
        v = [self._second_moment(v, d * d) for v, d in zip(state["v"], updates.mean, strict=True)]
        by = [self.eta * m / (np.sqrt(v) + self.tau) for m, v in zip(m, v, strict=True)]
        return moved(weights, by), {"m": m, "v": v}


@dataclass(frozen=True, kw_only=True)
class FedAdagrad(_Adaptive):
    """Adagrad at the server: v_t = v_{t-1} + Delta_t^2.

    Args:
        eta: server learning rate, above 0.
        beta_1: momentum, in [0, 1); 0 as in the paper.
        tau: adaptivity, above 0; a smaller one adapts more.

    References:
        Reddi et al., 2021, arXiv:2003.00295, Algorithm 2.
    """

    beta_1: float = 0.0

    def _second_moment(self, v: Array, squared: Array) -> Array:
        return v + squared


@dataclass(frozen=True, kw_only=True)
class FedAdam(_Adaptive):
    """Adam at the server: v_t = beta_2 v_{t-1} + (1 - beta_2) Delta_t^2.

    Args:
        eta: server learning rate, above 0.
        beta_1: decay of the first moment, in [0, 1).
        beta_2: decay of the second moment, in [0, 1).
        tau: adaptivity, above 0; a smaller one adapts more.

    References:
        Reddi et al., 2021, arXiv:2003.00295, Algorithm 2.
    """

    beta_2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        check("beta_2", self.beta_2, 0.0 <= self.beta_2 < 1.0, "in [0, 1)")

    def _second_moment(self, v: Array, squared: Array) -> Array:
        return self.beta_2 * v + (1 - self.beta_2) * squared


@dataclass(frozen=True, kw_only=True)
class FedYogi(FedAdam):
    """Yogi at the server: v_t = v_{t-1} - (1 - beta_2) Delta_t^2 sign(v_{t-1} - Delta_t^2).

    Its settings are those of `FedAdam`.

    References:
        Reddi et al., 2021, arXiv:2003.00295, Algorithm 2.
    """

    def _second_moment(self, v: Array, squared: Array) -> Array:
        return np.asarray(v - (1 - self.beta_2) * squared * np.sign(v - squared))


def filled(weights: Weights, value: float) -> Weights:
    """Float64 arrays of the same shapes, all `value`."""
    return [np.full(array.shape, value, np.float64) for array in weights]


def moved(weights: Weights, by: Weights) -> Weights:
    """Add, in the dtypes of the weights; always new arrays."""
    pairs = zip(weights, by, strict=True)
    return [np.add(x, d, out=np.empty_like(x), dtype=np.float64, casting="same_kind") for x, d in pairs]  # rounded once, no copy
