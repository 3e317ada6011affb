"""Owners that train with PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.errors import DataError, SettingError
from federated.methods.known import METHODS, method_of
from federated.models.weights import Frozen, is_kept
from federated.tasks.update import Array
from federated.trainers.torch_course import Pull, TorchCourse, frozen
from federated.trainers.trained import Remembered, Trained, passes

if TYPE_CHECKING:
    import torch


EVALUATED = 256
"""Examples that are evaluated at once."""


class TorchTrainer:
    """Trains a `torch.nn.Module`.

    Calling it with an owner's data gives the trainer of that owner: `simulated_owners(parts, trainer=TorchTrainer(...))`. A round is
    `epochs` passes over the examples in another order each, in batches of `batch_size`, with a new optimizer. Of what is in the
    `state_dict` floats are averaged (the statistics of BatchNorm among them); integers, and parameters that require no gradient, stay as
    they are and travel once.

    Args:
        module: makes the module; called once here, and once for each owner.
        loss: of outputs and targets, a mean over the batch: `torch.nn.CrossEntropyLoss()`.
        optimizer: makes one of the module's parameters: `lambda parameters: torch.optim.SGD(parameters, lr=0.1)`.
        metrics: name -> a function of outputs and targets that gives the mean over the batch; as `accuracy` below.

    Raises:
        SettingError: the module has a parameter or buffer of another dtype than float32, float64 and integers, or nothing to train.

    Example:
        >>> trainer = TorchTrainer(lambda: torch.nn.Linear(4, 3), loss=torch.nn.CrossEntropyLoss(), optimizer=sgd)
        >>> federation = Federation(model=trainer.weights(), owners=simulated_owners(parts, trainer=trainer))
        >>> module = trainer.fitted(federation.weights)
    """

    def __init__(
        self,
        module: Callable[[], torch.nn.Module],
        *,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        optimizer: Callable[[Iterator[torch.nn.Parameter]], torch.optim.Optimizer],
        metrics: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] | None = None,
    ) -> None:
        self.loss, self.optimizer, self.metrics = loss, optimizer, dict(metrics or {})
        self._module = module
        first = self._checked(module())
        self._first = [value.detach().numpy().copy() for value in first.state_dict().values()]
        self._frozen = frozen(first)

    def weights(self) -> list[Any]:
        """Return initial weights, for `Federation(model=...)`: those with which `module()` begins, in the order of its `state_dict`.

        Arrays; those of parameters that require no gradient are `Frozen`.
        """
        return [Frozen(array.copy()) if still else array.copy() for array, still in zip(self._first, self._frozen, strict=True)]

    def fitted(self, weights: list[Array]) -> torch.nn.Module:
        """Return a module that has these weights, set to evaluate."""
        module = self._module()
        put(module, weights)
        return module.eval()

    def __call__(self, data: Any, evaluation: Any = None) -> _TorchOwner:
        """Return the trainer of one owner.

        Args:
            data: (x, y) of arrays or tensors; or a `torch.utils.data.Dataset` of such pairs, of a known length.
            evaluation: the same; None: it evaluates nothing.

        Raises:
            DataError: it is neither, or has no example.
        """
        return _TorchOwner(self, self._module(), data, evaluation)

    def _checked(self, module: torch.nn.Module) -> torch.nn.Module:
        for name, value in module.state_dict().items():
            dtype = np.dtype(str(value.dtype).removeprefix("torch.")) if "bfloat" not in str(value.dtype) else None
            if dtype not in (np.float32, np.float64) and (dtype is None or not is_kept(dtype)):
                raise SettingError(f"{name!r} of the module is {value.dtype}: float32 and float64 can be averaged, and integers kept")
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise SettingError("no parameter of the module requires a gradient: no round would move it")
        return module


class _TorchOwner:
    """The trainer of one owner."""

    follows = ("proximal", *METHODS)

    def __init__(self, settings: TorchTrainer, module: torch.nn.Module, data: Any, evaluation: Any) -> None:
        self._settings, self._module = settings, module
        self._data = _examples(data)
        if evaluation is not None:
            self._test = _examples(evaluation)
            self.evaluate = self._evaluate

    def train(self, weights: list[Array], config: Mapping[str, Any], state: Remembered) -> Trained:
        """Make `epochs` passes from the weights, or what a method of training does."""
        n, mu = len(self._data), float(config.get("proximal") or 0.0)
        means: dict[str, float] = {}

        def pulled(start: list[Array], pull: Pull) -> int:
            nonlocal means
            means, steps = self._passes(start, config, pull, mu)
            return steps

        method = method_of(str(config.get("method") or ""))
        if method is None:
            pulled(weights, lambda _: None)
            delta = [_difference(value, old) for value, old in zip(self._module.state_dict().values(), weights, strict=True)]
            return Trained(delta, n, means)
        put(self._module, weights)
        optimizer = self._optimizer(config)
        course = TorchCourse(self._module, weights, config, state, passes=pulled, loss=self._loss, optimizer=optimizer)
        found = method.run(course)
        return Trained(found.delta, n, means, found.extra)

    def _optimizer(self, config: Mapping[str, Any]) -> torch.optim.Optimizer:
        optimizer = self._settings.optimizer(self._module.parameters())
        if config["learning_rate"] is not None:
            for group in optimizer.param_groups:
                group["lr"] = config["learning_rate"]
        return optimizer

    def _passes(self, start: list[Array], config: Mapping[str, Any], pull: Pull, mu: float) -> tuple[dict[str, float], int]:
        """Train; return the metrics of the last epoch, and how many steps it took."""
        import torch  # noqa: PLC0415  not everybody has it

        module, n, steps = self._module, len(self._data), 0
        put(module, start)
        module.train()
        optimizer = self._optimizer(config)
        anchors = [parameter.detach().clone() for parameter in module.parameters()]
        means: dict[str, float] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(config["seed"] or 0))  # of Dropout and its like
            for batches in passes(config, n):
                means = {}
                for rows in batches:
                    x, y = self._data.take(rows)
                    optimizer.zero_grad()
                    outputs = module(x)
                    loss = self._settings.loss(outputs, y)
                    near = sum(((p - a) ** 2).sum() for p, a in zip(module.parameters(), anchors, strict=True)) if mu else 0.0
                    (loss + 0.5 * mu * near).backward()
                    pull(module)
                    optimizer.step()
                    steps += 1
                    self._add(means, outputs, y, loss, len(y) / n)
        return means, steps

    def _loss(self, weights: list[Array]) -> float:
        """Return the loss of weights on the data to train on."""
        return self._means(weights, self._data)["loss"]

    def _evaluate(self, weights: list[Array], config: Mapping[str, Any], state: Remembered) -> tuple[dict[str, float], int]:
        method = method_of(str(config.get("method") or ""))
        if method is not None and method.personal:
            put(self._module, weights)
            optimizer = self._optimizer(config)
            course = TorchCourse(self._module, weights, config, state, passes=lambda *_: 0, loss=self._loss, optimizer=optimizer)
            weights = method.own(course)
        return self._means(weights, self._test), len(self._test)

    def _means(self, weights: list[Array], examples: _Pairs | _Set) -> dict[str, float]:
        """Return the metrics of weights, with which the module is left."""
        import torch  # noqa: PLC0415  not everybody has it

        put(self._module, weights)
        self._module.eval()
        means: dict[str, float] = {}
        n = len(examples)
        with torch.no_grad():
            for start in range(0, n, EVALUATED):
                x, y = examples.take(np.arange(start, min(n, start + EVALUATED)))
                outputs = self._module(x)
                self._add(means, outputs, y, self._settings.loss(outputs, y), len(y) / n)
        return means

    def _add(self, means: dict[str, float], outputs: Any, y: Any, loss: Any, share: float) -> None:
        """Add a batch's part to the means."""
        for name, value in {"loss": loss, **{name: metric(outputs, y) for name, metric in self._settings.metrics.items()}}.items():
            means[name] = means.get(name, 0.0) + share * float(value.detach() if hasattr(value, "detach") else value)


def accuracy(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the fraction of rows whose largest output is at the label."""
    return (outputs.argmax(-1) == y).float().mean()


def put(module: torch.nn.Module, weights: list[Array]) -> None:
    """Give a module weights, in the order of its `state_dict`.

    Raises:
        SettingError: they are of another number, or of other shapes.
    """
    import torch  # noqa: PLC0415  not everybody has it

    own = module.state_dict()
    if [tuple(value.shape) for value in own.values()] != [array.shape for array in weights]:
        raise SettingError(f"weights of shapes {[array.shape for array in weights][:8]} are not those of this module")
    module.load_state_dict({name: torch.from_numpy(np.array(array)).to(own[name].dtype) for name, array in zip(own, weights, strict=True)})


def _difference(value: Any, old: Array) -> Array:
    return np.zeros_like(old) if is_kept(old.dtype) else np.asarray(value.detach().numpy() - old)


class _Pairs:
    """Examples as tensors."""

    def __init__(self, x: Any, y: Any) -> None:
        self._x, self._y = x, y

    def __len__(self) -> int:
        return len(self._y)

    def take(self, rows: Array) -> tuple[Any, Any]:
        return self._x[rows], self._y[rows]


class _Set:
    """Examples of a data set, fetched one by one."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def take(self, rows: Array) -> tuple[Any, Any]:
        from torch.utils.data import default_collate  # noqa: PLC0415  not everybody has it

        x, y = default_collate([self._source[int(row)] for row in rows])
        return x, y


def _examples(data: Any) -> _Pairs | _Set:
    """Check an owner's data, and return its examples.

    Raises:
        DataError: it is none, or has no example.
    """
    import torch  # noqa: PLC0415  not everybody has it

    if isinstance(data, torch.utils.data.Dataset):
        if not hasattr(data, "__getitem__") or not hasattr(data, "__len__") or not len(data):
            raise DataError("an owner's data set has no examples that can be fetched by their number, or does not know how many it has")
        return _Set(copy.copy(data))
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise DataError("an owner's data is no pair (x, y), and no torch.utils.data.Dataset")
    try:
        x, y = (torch.as_tensor(np.asarray(one) if not isinstance(one, torch.Tensor) else one) for one in data)
    except (TypeError, ValueError, RuntimeError):
        raise DataError("an owner's x and y make no tensors of numbers") from None
    if x.ndim < 1 or y.ndim < 1 or len(x) != len(y) or not len(x):
        raise DataError(f"an owner's data has shapes {tuple(x.shape)} and {tuple(y.shape)}: as many examples, at least 1, are expected")
    return _Pairs(x, y)
