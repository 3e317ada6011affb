"""A cluster: two servers and a crypto provider, or three equals, and the data that owners leave with them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import numpy.typing as npt

from protocols.clusters.three_workers import ThreeWorkers
from protocols.datasets.dataset import SharedDataset
from protocols.datasets.use import Use
from protocols.owner import checkpoints, deposits, stored
from protocols.owner.deposits import Deposited, Grant, GrantSource


class Cluster(ThreeWorkers):
    """Two compute servers and a crypto provider, or three equals; no two of the three may collude.

    `Cluster(julia, greg, crypto_provider=me)`: the third worker deals randomness, always. `Cluster(julia, greg, me)`: the three are equals
    (honest majority). For each model and its training two of them evaluate and the third helps; which one follows from the model's name,
    so that this turns (see `protocols.link.keys`, and there what leaks to whom). Rounds and bytes are the same in both forms.
    Everybody who uses a cluster of equals lists its workers in the same order.

    As a context manager it connects to each worker, and starts as a process of this machine those that nobody answers for (if
    `auto_managed`); these end with the block. A client needs no block: it passes the cluster to `connect`.

    Attributes:
        workers: the three workers; a crypto provider last.
        children: the processes that this cluster has started, by the number of the worker.

    Args:
        servers: the two servers; or the three equals.
        crypto_provider: the third worker beside two servers; it deals randomness and sees no masked value.
        auto_managed: start local workers that are not running.
        timeout: default deadline of a message in seconds.
        ssl: whom to trust, and our own certificate, for workers at wss:// addresses.
        allow_plaintext: permit ws:// to other machines. Whoever can read both servers' links then learns everything.
        message_limit: bytes of the largest message that this process, and workers that it starts, take: 1 MiB to 1 TiB. Weights and
            randomness travel in pieces that the receiver takes.

    Raises:
        ClusterError: not three workers, or one worker in two roles.
        ValueError, TypeError: `message_limit` is out of its range, or not an integer.

    Example:
        >>> async with Cluster(Worker("localhost:4000"), Worker("localhost:4001"), crypto_provider=Worker("localhost:4002")) as cluster:
        ...     ...
    """

    async def store(self, name: str, array: npt.ArrayLike, *, classes: int | None = None) -> SharedDataset:
        """Secret-share an array among the servers, to train on it: neither sees more than its shape and what kind of numbers it holds.

        Steps: (1) encode: one integer an example becomes a one-hot row, other numbers get 16 fractional bits; (2) send x + lambda to both
        servers, each half of lambda to one of them, and both halves to the crypto provider; or to three equals the replicated shares of
        `protocols.datasets.replicated`, on which models with any helper can be trained. It stays there as long as this block.

        **Leaks** to the workers the shape, whether they are labels, whether all numbers are 0 or 1, and whether each row sums to 1.

        Args:
            name: what errors call it; the workers see it.
            array: (examples, ...) numbers between -512 and 512, best to about 1; or (examples,) integers, which are labels from 0.
            classes: for labels, how many there can be; the largest label and one if None, which the workers then learn.

        Raises:
            InputError: not numbers, too large, so small that nothing of them would be left in 16 fractional bits, or labels out of range.

        Warns:
            PrecisionWarning: columns spread over less than 256 steps of 2^-16; it names them.
            WorkerLost: a worker went away.
            ClusterError: outside of the `async with` block.
        """
        return await stored.store(self, name, array, classes)

    async def deposit(
        self,
        name: str,
        array: npt.ArrayLike,
        *,
        classes: int | None = None,
        ids: Sequence[object] | None = None,
        allow: Iterable[str] | Mapping[str, Use] = (),
        use: Use | None = None,
    ) -> Grant:
        """Leave shares of an array with the workers, for somebody to train on when its owner has gone; `confide share` does it for files.

        Each worker writes its part, encrypted under its own key, into its folder (`confide worker --data`). Afterwards see `load`.

        Args:
            name: under which it is found; 1 to 100 letters, digits, '.', '_' and '-'.
            array: as for `store`.
            classes: as for `store`.
            ids: for each example its record id. A digest of all of them, in their order, becomes public, so that nobody joins rows of
                different records by mistake. It hides no list that somebody can guess as a whole.
            allow: common names in the certificates of those who may train on it without a grant; or for each what it may do.
            use: what those may do who have the grant, and those in `allow` of whom nothing else is said; None: train as they like.

        Returns:
            The right to train on it, and to remove it. `Grant.to_give` is for others.

        Raises:
            InputError, PrecisionWarning: as for `store`.
            NameTaken: data of that name are kept there already.
            KeepsNothing: a worker was started without a folder.
            WorkerLost: a worker went away.
        """
        return await deposits.deposit(self, name, array, classes=classes, ids=ids, allow=allow, use=use)

    async def load(self, *names: str, axis: int = 0, grants: GrantSource | Iterable[GrantSource] = ()) -> SharedDataset:
        """Load data that their owners have left with the workers, as one dataset to train on; it is there as long as this block.

        All parts are re-randomised: files that somebody copied before are worth nothing beside those of afterwards.

        Args:
            names: whose data. Those of several owners are put together: for x and y in the same order.
            axis: 0: each owner has other examples of the same features. 1: each has other features of the same examples, in the same
                order; the labels are those of one of them.
            grants: of the owners: `Grant` objects, files, or folders of files; none where the certificate of this process is enough.

        Raises:
            InputError: the parts do not fit each other.
            UnknownData: the workers keep no such data.
            NotGranted: their owner has not given the right.
            WorkerLost: a worker went away.
        """
        return await deposits.load(self, names, axis, grants)

    async def deposits(self) -> list[Deposited]:
        """Return what data these workers keep: names and shapes, which anybody may know who can reach them."""
        return await deposits.deposits(self)

    async def withdraw(self, grant: Grant) -> None:
        """Have the workers remove data, for their owner. A training that has loaded them goes on.

        Raises:
            NotGranted: this is not the owner's grant.
            WorkerLost: a worker went away.
        """
        await deposits.withdraw(self, grant)

    async def discard(self, folder: str | os.PathLike[str]) -> None:
        """Have the servers remove the checkpoints of a training, for whoever has its folder; see `SharedModel.fit`.

        Raises:
            CheckpointError: the folder holds no training.
            WorkerLost: a worker went away.
        """
        await checkpoints.discard(self, folder)
