"""The PySyft flow for people who come from there, blocking, from Python or from R through reticulate.

`KerasHook()` adds `share`, `serve` and `stop` to Keras models until `remove()` is called; `Cluster` and `Client` are the blocking forms of
`protocols.Cluster` and `protocols.connect`. Everything runs on one event loop in a thread of its own.

Example:
    >>> hook = KerasHook()
    >>> cluster = Cluster("localhost:4000", "localhost:4001", "localhost:4002")
    >>> cluster.start()
    >>> model.share(cluster); model.serve(num_requests=3); model.stop(); cluster.stop()
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from protocols import cluster as asynchronous
from protocols.errors import ClusterError, ServingError
from protocols.remote_model import RemoteModel, connect
from protocols.shared_model import SharedModel, share
from protocols.ticket import Reveal
from protocols.worker import Worker

T = TypeVar("T")
METHODS = ("share", "serve", "stop")


class _Loop:
    """An event loop in a thread, for callers that block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="confide", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs to the end; an interrupt of the caller cancels the work and waits until it has cleaned up."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            with contextlib.suppress(BaseException):
                future.exception(timeout=10)
            raise

    def close(self) -> None:
        """Ends the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Cluster:
    """Two servers and a crypto provider, or three equals, by address, blocking.

    Args:
        first: address of server 0, "host:port".
        second: address of server 1.
        crypto_provider: address of the third worker.
        equals: that one is no crypto provider but one of three equals, see `protocols.Cluster`.
    """

    def __init__(self, first: str, second: str, crypto_provider: str, *, equals: bool = False) -> None:
        workers = [Worker(address) for address in (first, second, crypto_provider)]
        servers, provider = (workers, None) if equals else (workers[:2], workers[2])
        self.cluster = asynchronous.Cluster(*servers, crypto_provider=provider)
        self._loop: _Loop | None = None

    @property
    def addresses(self) -> list[str]:
        """host:port of each worker, real ports included once they run."""
        return [worker.address for worker in self.cluster.workers]

    def start(self) -> None:
        """Connects to the workers, and starts those on this machine that are not running."""
        if self._loop is not None:
            raise ClusterError("the cluster is running already; stop it first")
        loop = _Loop()
        try:
            loop.run(self.cluster.__aenter__())
        except BaseException:
            loop.close()
            raise
        self._loop = loop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs something on the cluster's loop."""
        if self._loop is None:
            work.close()
            raise ClusterError("the cluster is not running; call start() first")
        return self._loop.run(work)

    def stop(self) -> None:
        """Ends the workers that `start` started. What was shared through this cluster ends with its connection.

        Does nothing if the cluster is not running.
        """
        if self._loop is not None:
            for model in [model for model, (cluster, _) in _shared.items() if cluster is self]:
                del _shared[model]
            loop, self._loop = self._loop, None
            loop.run(self.cluster.__aexit__(None, None, None))
            loop.close()


class KerasHook:
    """Adds `share(cluster, name=None, ...)`, `serve(num_requests)` and `stop()` to all Keras models until `remove()`."""

    _before: ClassVar[dict[str, Any]] = {}
    _installed: ClassVar[bool] = False

    def __init__(self) -> None:
        import keras  # noqa: PLC0415  only who hooks Keras needs it

        self._model = keras.Model
        if KerasHook._installed:
            raise ClusterError("Keras models are hooked already; remove() the other hook first")
        KerasHook._before.update({name: vars(keras.Model)[name] for name in METHODS if name in vars(keras.Model)})
        KerasHook._installed = True
        added: tuple[Callable[..., Any], ...] = (_share, _serve, _stop)
        for name, function in zip(METHODS, added, strict=True):
            setattr(keras.Model, name, function)

    def remove(self) -> None:
        """Leaves Keras as it was."""
        for name in METHODS:
            if name in KerasHook._before:
                setattr(self._model, name, KerasHook._before[name])
            elif name in vars(self._model):
                delattr(self._model, name)
        KerasHook._before.clear()
        KerasHook._installed = False


_shared: weakref.WeakKeyDictionary[Any, tuple[Cluster, SharedModel]] = weakref.WeakKeyDictionary()
"""What each hooked model is shared as, as long as the model lives."""


def _share(self: Any, cluster: Cluster, name: str | None = None, **settings: Any) -> None:
    if self in _shared:
        raise ServingError(f"model {self.name!r} is shared already; stop() it first")
    _shared[self] = (cluster, cluster.run(share(self, cluster.cluster, name, **settings)))


def _serve(self: Any, num_requests: int = 5, **settings: Any) -> None:
    cluster, shared = _of(self)

    def tell(number: int) -> None:
        print(f"Served encrypted prediction {number} to client.", flush=True)

    cluster.run(shared.serve(int(num_requests), on_answer=tell, **settings))


def _stop(self: Any) -> None:
    if self in _shared:
        cluster, shared = _shared.pop(self)
        cluster.run(shared.stop())


def _of(model: Any) -> tuple[Cluster, SharedModel]:
    if model not in _shared:
        raise ServingError(f"model {model.name!r} is not shared; call share(cluster) first")
    return _shared[model]


class Client:
    """Asks a shared model, blocking."""

    def __init__(self) -> None:
        self._loop: _Loop | None = None
        self._stack = contextlib.AsyncExitStack()
        self._remote: RemoteModel | None = None

    def connect_to_model(self, cluster: Cluster, name: str | None = None) -> None:
        """Connects to the model of that name, or to the only one that is shared there. The cluster need not be started here."""
        self.close()
        self._loop = _Loop()
        try:
            self._remote = self._loop.run(self._stack.enter_async_context(connect(cluster.cluster, name)))
        except BaseException:
            self._loop.close()
            self._loop = None
            raise

    def query_model(self, image: npt.ArrayLike, reveal: Reveal = "logits") -> npt.NDArray[Any]:
        """The model's answer for a batch of inputs (n, *shape), or for a single one without a batch axis."""
        if self._loop is None or self._remote is None:
            raise ClusterError("not connected; call connect_to_model(cluster) first")
        x = np.asarray(image)
        single = x.ndim == len(self._remote.program.input_shape)
        answer = self._loop.run(self._remote.query(x[None] if single else x, reveal=reveal))
        return answer[0] if single else answer

    def close(self) -> None:
        """Disconnects."""
        if self._loop is not None:
            loop, self._loop, self._remote = self._loop, None, None
            loop.run(self._stack.aclose())
            loop.close()
