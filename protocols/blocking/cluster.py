"""A cluster, for callers that block."""

from __future__ import annotations

import os
import weakref
from collections.abc import Coroutine
from ssl import SSLContext
from typing import Any, Self, TypeVar

from actors import InsecureAddress, limits
from actors.address import Address
from protocols.blocking.loop import Loop
from protocols.clusters.worker import Worker
from protocols.errors import ClusterError
from protocols.nodes import worker_file
from protocols.owner import cluster as asynchronous
from protocols.owner.shared_model import SharedModel

T = TypeVar("T")


class Cluster:
    """Two servers and a crypto provider, or three equals, by address, blocking.

    Across machines use TLS: `Cluster.from_file`, or addresses at wss:// and `ssl`.

    Args:
        first: address of server 0, "host:port".
        second: address of server 1.
        crypto_provider: address of the third worker.
        equals: that one is no crypto provider but one of three equals, see `protocols.Cluster`.
        auto_managed: start workers on this machine that are not running.
        timeout: default deadline of a message in seconds.
        ssl: whom to trust, and our own certificate, for workers at wss:// addresses.
        allow_plaintext: permit ws:// to other machines. Whoever can read both servers' links then learns everything.
        message_limit: bytes of the largest message, see `protocols.Cluster`.

    Attributes:
        cluster: the same, for `await`.
        models: what is shared through it, by the Keras model.

    Raises:
        ClusterError: an address cannot be understood, or two are the same.
    """

    def __init__(
        self,
        first: str,
        second: str,
        crypto_provider: str,
        *,
        equals: bool = False,
        auto_managed: bool = True,
        timeout: float = 30.0,
        ssl: SSLContext | None = None,
        allow_plaintext: bool = False,
        message_limit: int = limits.MESSAGE_LIMIT,
    ) -> None:
        workers = [Worker(address) for address in (first, second, crypto_provider)]
        servers, provider = (workers, None) if equals else (workers[:2], workers[2])
        self._hold(
            asynchronous.Cluster(
                *servers,
                crypto_provider=provider,
                auto_managed=auto_managed,
                timeout=timeout,
                ssl=ssl,
                allow_plaintext=allow_plaintext,
                message_limit=message_limit,
            ),
            allow_plaintext,
        )

    def _hold(self, cluster: asynchronous.Cluster, allow_plaintext: bool) -> None:
        self.cluster = cluster
        self._allow_plaintext = allow_plaintext
        self.models: weakref.WeakKeyDictionary[Any, SharedModel] = weakref.WeakKeyDictionary()
        self._loop: Loop | None = None

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, keys: str | os.PathLike[str] | None = None, name: str | None = None) -> Self:
        """Name the three workers of a cluster file (docs/several-machines.md), over TLS if they are at wss:// addresses; start none.

        With three servers in the file the workers are equals.

        Args:
            path: of the cluster file.
            keys: folder with `ca.pem`, `NAME.pem` and `NAME.key`; None: `keys` beside the file, if there is TLS.
            name: the node that this process acts for; None: the first client, or else the first node, whose key is in the folder.

        Raises:
            ClusterError: the file cannot be used, has other workers than three, or a certificate is missing.
        """
        made = cls.__new__(cls)
        made._hold(worker_file.cluster(path, keys=keys, name=name), allow_plaintext=True)  # the file has been checked
        return made

    @property
    def addresses(self) -> list[str]:
        """host:port of each worker, real ports included once they run."""
        return [worker.address for worker in self.cluster.workers]

    def start(self) -> None:
        """Connect to the workers, and start those on this machine that are not running.

        Raises:
            ClusterError: it is running already, or a worker is on another machine without encryption.
            WorkerUnreachable: a worker does not answer, and cannot be started here.
        """
        if self._loop is not None:
            raise ClusterError("the cluster is running already; stop it first")
        self.check_encryption()
        loop = Loop()
        try:
            loop.run(self.cluster.__aenter__())
        except BaseException:
            loop.close()
            raise
        self._loop = loop

    def check_encryption(self) -> None:
        """Refuse workers on other machines that are not encrypted, unless that is allowed.

        Raises:
            ClusterError: there is one; the message says how to use TLS from here.
        """
        for worker in self.cluster.workers:
            try:
                Address.parse(worker.url).check_encryption(self._allow_plaintext)
            except InsecureAddress:
                raise ClusterError(
                    f"{worker.url} is on another machine and not encrypted: use Cluster.from_file(FILE, keys=FOLDER, name=NODE) with a"
                    " cluster file and certificates (confide certs makes them), or wss:// addresses with ssl=, or allow_plaintext=True to"
                    " send everything in the clear"
                ) from None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the cluster's loop."""
        if self._loop is None:
            work.close()
            raise ClusterError("the cluster is not running; call start() first")
        return self._loop.run(work)

    def stop(self) -> None:
        """End the workers that `start` started. What was shared through this cluster ends with its connection.

        Does nothing if the cluster is not running.
        """
        if self._loop is not None:
            self.models.clear()
            loop, self._loop = self._loop, None
            loop.run(self.cluster.__aexit__(None, None, None))
            loop.close()
