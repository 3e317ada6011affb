"""The PySyft flow for people who come from there, blocking, from Python or from R through reticulate.

`KerasHook()` adds `share`, `serve` and `stop` to Keras models until `remove()` is called; `Cluster` and `Client` are the blocking forms of
`protocols.Cluster` and `protocols.connect`. Everything runs on one event loop in a thread of its own.

The names of PySyft's tutorial are here, too: `KerasHook(tf.keras)`, `TFEWorker(host, auto_managed)`, `TFECluster(first, second, third)`,
a `TFEWorker()` without host as client, and `encrypt`, `add` and `decrypt` of its section on secret sharing. In R a number of any type will
do wherever a whole number is asked for. `examples/r` has the scripts.

Example:
    >>> hook = KerasHook()
    >>> cluster = Cluster("localhost:4000", "localhost:4001", "localhost:4002")
    >>> cluster.start()
    >>> model.share(cluster); model.serve(num_requests=3); model.stop(); cluster.stop()
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from privacy.keras_models.installed import require_keras
from protocols.blocking.client import Client
from protocols.blocking.cluster import Cluster
from protocols.errors import ClusterError, ServingError, SharingError
from protocols.opaque import whole_number
from protocols.owner.placement import share
from protocols.owner.shared_model import SharedModel
from protocols.sharing import reconstruct, split

__all__ = ["Client", "Cluster", "KerasHook", "TFECluster", "TFEWorker", "add", "decrypt", "encrypt"]

METHODS = ("share", "serve", "stop")
WHOLE = ("examples", "memory", "ahead")
"""Settings of `share` and `SharedModel.serve` that are whole numbers."""
PARTIES = 3


class TFEWorker(Client):
    """A worker by its address, for a `TFECluster`; without an address a client, which `connect_to_model` connects.

    Args:
        host: "host:port"; None: this is a client.
        auto_managed: start it, if it is on this machine and does not run.

    Example:
        >>> cluster = TFECluster(*(TFEWorker(host=f"localhost:{port}", auto_managed=True) for port in (4000, 4001, 4002)))
        >>> client = TFEWorker()
        >>> client.connect_to_model((1, 28, 28, 1), (1, 10), cluster)
        >>> client.query_model(image)
    """

    def __init__(self, host: str | None = None, auto_managed: bool = True) -> None:
        super().__init__()
        self.host, self.auto_managed = host, auto_managed


class TFECluster(Cluster):
    """Three workers as a blocking cluster: two servers and a crypto provider, or three equals.

    Args:
        workers: three, each with its address, all of them auto-managed or none.
        equals: that the third is no crypto provider but one of three equals, see `protocols.Cluster`.
        **settings: as for `Cluster`: `timeout`, `ssl`, `allow_plaintext`.

    Raises:
        ClusterError: other than three workers, one without an address, or some auto-managed and some not.
    """

    def __init__(self, *workers: TFEWorker, equals: bool = False, **settings: Any) -> None:
        for number, worker in enumerate(workers, 1):
            if not isinstance(worker, TFEWorker) or worker.host is None:
                what = "has no host" if isinstance(worker, TFEWorker) else f"is a {type(worker).__name__}"
                raise ClusterError(f"worker {number} {what}: give TFEWorker(host='HOST:PORT')")
        if len(workers) != 3:
            raise ClusterError(f"{len(workers)} workers were given: three are needed")
        managed = {bool(worker.auto_managed) for worker in workers}
        if len(managed) != 1:
            raise ClusterError("some workers have auto_managed=True and some False: a cluster starts all of its workers here, or none")
        first, second, third = (str(worker.host) for worker in workers)
        super().__init__(first, second, third, equals=equals, auto_managed=managed.pop(), **settings)


class KerasHook:
    """Adds `share(cluster, name=None, ...)`, `serve(num_requests)` and `stop()` to all Keras models until `remove()`.

    Args:
        keras: the Keras of the models, such as `tf.keras`; None: `keras` as it is installed.

    Raises:
        ClusterError: models are hooked already, or that is another Keras.
    """

    _before: ClassVar[dict[str, Any]] = {}
    _installed: ClassVar[bool] = False

    def __init__(self, keras: Any = None) -> None:
        require_keras("KerasHook")
        import keras as installed  # noqa: PLC0415  only who hooks Keras needs it

        if keras is not None and getattr(keras, "Model", None) is not installed.Model:
            raise ClusterError(
                f"{getattr(keras, '__name__', type(keras).__name__)} is not the installed Keras {installed.__version__}, whose models"
                " can be shared: give tf.keras of a TensorFlow with Keras 3 (without TF_USE_LEGACY_KERAS), or nothing"
            )
        self._model = installed.Model
        if KerasHook._installed:
            raise ClusterError("Keras models are hooked already; remove() the other hook first")
        KerasHook._before.update({name: vars(installed.Model)[name] for name in METHODS if name in vars(installed.Model)})
        KerasHook._installed = True
        added: tuple[Callable[..., Any], ...] = (_share, _serve, _stop)
        for name, function in zip(METHODS, added, strict=True):
            setattr(installed.Model, name, function)

    def remove(self) -> None:
        """Leave Keras as it was."""
        for name in METHODS:
            if name in KerasHook._before:
                setattr(self._model, name, KerasHook._before[name])
            elif name in vars(self._model):
                delattr(self._model, name)
        KerasHook._before.clear()
        KerasHook._installed = False


_clusters: weakref.WeakKeyDictionary[Any, Cluster] = weakref.WeakKeyDictionary()
"""Where each hooked model was shared last, as long as the model lives."""


def _share(self: Any, cluster: Cluster, name: str | None = None, **settings: Any) -> None:
    if _found(self) is not None:
        raise ServingError(f"model {self.name!r} is shared already; stop() it first")
    if not isinstance(cluster, Cluster):
        raise ClusterError(f"a {type(cluster).__name__} was given as cluster: a blocking Cluster or TFECluster is needed")
    cluster.models[self] = cluster.run(share(self, cluster.cluster, name, **_counted(settings)))
    _clusters[self] = cluster


def _serve(self: Any, num_requests: float = 5, **settings: Any) -> None:
    found = _found(self)
    if found is None:
        raise ServingError(f"model {self.name!r} is not shared; call share(cluster) first")
    cluster, shared = found

    def tell(number: int) -> None:
        print(f"Served encrypted prediction {number} to client.", flush=True)

    cluster.run(shared.serve(_whole("num_requests", num_requests), on_answer=tell, **_counted(settings)))


def _stop(self: Any) -> None:
    found = _found(self)
    if found is not None:
        cluster, shared = found
        del cluster.models[self], _clusters[self]
        cluster.run(shared.stop())


def _found(model: Any) -> tuple[Cluster, SharedModel] | None:
    """Where a model is shared, and as what."""
    cluster = _clusters.get(model)
    if cluster is None or model not in cluster.models:
        return None
    return cluster, cluster.models[model]


def _counted(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings in which whole numbers are integers."""
    return settings | {name: _whole(name, settings[name]) for name in WHOLE if settings.get(name) is not None}


def _whole(name: str, number: float) -> int:
    """Return a whole number, which R gives as a double."""
    try:
        return whole_number(number)
    except SharingError:
        raise ValueError(f"{name}={number!r} is no whole number") from None


def encrypt(x: Any, Q: float | None = None) -> list[Any]:
    """Three shares of a whole number or of several, see `protocols.sharing.split`.

    Args:
        x: the secret.
        Q: a prime, or None for Z_2^64.
    """
    shares: list[Any] = split(x, PARTIES, modulus=Q)
    return shares


def decrypt(shares: Iterable[Any], Q: float | None = None) -> Any:
    """Return the secret of three shares, see `protocols.sharing.reconstruct`.

    Args:
        shares: of all parties.
        Q: as it was given to `encrypt`.
    """
    return reconstruct(shares, modulus=Q)


def add(x: Iterable[Any], y: Iterable[Any]) -> list[Any]:
    """Shares of the sum of two secrets: each party adds what it has.

    Raises:
        SharingError: there are more shares of one than of the other.
    """
    ours, theirs = list(x), list(y)
    if len(ours) != len(theirs):
        raise SharingError(f"{len(ours)} and {len(theirs)} shares cannot be added: each party needs one of both")
    return [one + other for one, other in zip(ours, theirs, strict=True)]
