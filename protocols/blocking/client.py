"""A client of a shared model, for callers that block."""

from __future__ import annotations

import contextlib
from typing import Any, overload

import msgspec
import numpy as np

from protocols.blocking.cluster import Cluster
from protocols.blocking.loop import Loop
from protocols.blocking.shapes import check_shape
from protocols.client.connection import connect
from protocols.client.remote_model import Outside, RemoteModel
from protocols.errors import ClusterError
from protocols.serving.ticket import Reveal


class Client:
    """Asks a shared model, blocking."""

    def __init__(self) -> None:
        self._loop: Loop | None = None
        self._stack = contextlib.AsyncExitStack()
        self._remote: RemoteModel | None = None

    @overload
    def connect_to_model(self, cluster: Cluster, name: str | None = None, *, owner: str | None = None) -> None: ...
    @overload
    def connect_to_model(
        self, batch_input_shape: Any, batch_output_shape: Any, cluster: Cluster, name: str | None = None, *, owner: str | None = None
    ) -> None: ...
    def connect_to_model(self, *where: Any, **named: Any) -> None:  # noqa: D417  the arguments are those of the two forms
        """Connect to the model of that name, or to the only one that is shared there. The cluster need not be started here.

        `connect_to_model(cluster, name)`, or `connect_to_model(batch_input_shape, batch_output_shape, cluster, name)`, which makes sure
        that it is a model of these shapes.

        Args:
            batch_input_shape: shape of its inputs, the number of examples first, as in Keras: (None, 28, 28, 1); lists, arrays and whole
                floats will do. The number of examples is not looked at: a query may have any.
            batch_output_shape: the same of its outputs.
            cluster: where the model is shared.
            name: of the model.
            owner: the common name in the certificate of who has to have shared it; None: whoever has.

        Raises:
            InputError: a shape is none, or the model has another one; nothing is connected then.
            WorkerUnreachable, UnknownModel, NotOwner, ClusterError: see `protocols.connect`.
        """
        shapes = {"batch_input_shape", "batch_output_shape"} & named.keys() or len(where) + ("cluster" in named) > 2
        bare = bool(where and isinstance(where[0], Cluster)) or not shapes
        (self._connect if bare else self._connect_checked)(*where, **named)

    def _connect_checked(
        self, batch_input_shape: Any, batch_output_shape: Any, cluster: Cluster, name: str | None = None, *, owner: str | None = None
    ) -> None:
        self._connect(cluster, name, owner=owner)
        try:
            assert self._remote is not None
            check_shape("batch_input_shape", batch_input_shape, self._remote.input_shape, self._remote.name)
            check_shape("batch_output_shape", batch_output_shape, self._remote.output_shape, self._remote.name)
        except BaseException:
            self.close()
            raise

    def _connect(self, cluster: Cluster, name: str | None = None, *, owner: str | None = None) -> None:
        if not isinstance(cluster, Cluster):
            raise ClusterError(f"a {type(cluster).__name__} was given as cluster: a blocking Cluster or TFECluster is needed")
        cluster.check_encryption()
        self.close()
        self._loop = Loop()
        try:
            self._remote = self._loop.run(self._stack.enter_async_context(connect(cluster.cluster, name, owner=owner)))
        except BaseException:
            self._loop.close()
            self._loop = None
            raise

    def query_model(self, image: Any, reveal: Reveal = "logits", outside: Outside = "raise") -> Any:
        """Return the model's answer for a batch of inputs (n, *shape), or for a single one without a batch axis. See `RemoteModel.query`.

        A model with several inputs takes batches of them.
        """
        if self._loop is None or self._remote is None:
            raise ClusterError("not connected; call connect_to_model(cluster) first")
        if not isinstance(self._remote.program.inputs, msgspec.UnsetType):
            return self._loop.run(self._remote.query(image, reveal=reveal, outside=outside))
        x = np.asarray(image)
        shape = self._remote.program.input_shape
        if not x.ndim and shape == (1,):  # R has no vector of one element that is not a number
            x = x[None]
        single = x.ndim == len(shape)
        answer = self._loop.run(self._remote.query(x[None] if single else x, reveal=reveal, outside=outside))
        if not single:
            return answer
        outputs = self._remote.program.outputs
        return answer[0] if isinstance(outputs, msgspec.UnsetType) else outputs.first(answer)

    def close(self) -> None:
        """Disconnect."""
        if self._loop is not None:
            loop, self._loop, self._remote = self._loop, None, None
            loop.run(self._stack.aclose())
            loop.close()
