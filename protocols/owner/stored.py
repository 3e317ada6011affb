"""The owner's side of data: arrays become masked arrays at two servers and masks at the crypto provider, or replicated shares at equals."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from actors import ActorError
from protocols.authority.rights import digest_at, new_secret, right_at
from protocols.authority.seats import THIRD
from protocols.clusters.three_workers import ThreeWorkers
from protocols.concurrency import at_once
from protocols.datasets.dataset import Content, Dataset, SharedDataset
from protocols.datasets.masked import mask
from protocols.datasets.replicated import held_by, split
from protocols.errors import InputError, WorkerLost
from protocols.mpc.inputs.columns import check_columns
from protocols.mpc.numbers.fixed_point import encode
from protocols.mpc.parties.exchange import Ring
from protocols.owner.fit.examples import GivenExamples, targets
from protocols.training.networks.functions import FRACTION
from protocols.workers.training_dealer import TrainingDealer
from protocols.workers.training_server import TrainingServer

LARGEST = 512.0
"""Numbers lie between -512 and 512: scale features and targets, best to about 1."""


class SharedExamples(NamedTuple):
    """Features, targets, and weights of examples, all of them shared.

    Attributes:
        xs: features of each input.
        ys: targets of each output; none for predictions.
        ws: the weight of each example for each output, if they have any.
    """

    xs: tuple[SharedDataset, ...] = ()
    ys: tuple[SharedDataset, ...] = ()
    ws: tuple[SharedDataset, ...] = ()

    @property
    def all(self) -> tuple[SharedDataset, ...]:
        """Return all of them, in the order of `TrainingTerms.datasets`."""
        return (*self.xs, *self.ys, *self.ws)


async def training_servers(cluster: ThreeWorkers, model: str) -> tuple[TrainingServer, TrainingServer]:
    """Return the actors that train at the two servers of a running cluster, in the roles of a model of this name.

    Raises:
        ClusterError: outside of the `async with` block.
        WorkerLost: a server does not answer.
    """
    system = cluster.links_for(model).system
    try:
        first, second = [await system.connect(f"{url}/training", TrainingServer) for url in cluster.addresses_for(model).servers]
    except ActorError as error:
        raise WorkerLost(f"the cluster cannot train: {error}") from None
    return first, second


async def trainers(cluster: ThreeWorkers, model: str) -> tuple[TrainingServer, TrainingServer, TrainingDealer]:
    """Return the same with the third party's actor.

    Raises:
        ClusterError: outside of the `async with` block.
        WorkerLost: a worker does not answer.
    """
    servers = await training_servers(cluster, model)
    url = f"{cluster.addresses_for(model).crypto_provider}/training-dealer"
    try:
        return *servers, await cluster.links_for(model).system.connect(url, TrainingDealer)
    except ActorError as error:
        raise WorkerLost(f"the cluster cannot train: {error}") from None


async def store(cluster: ThreeWorkers, name: str, array: npt.ArrayLike, classes: int | None) -> SharedDataset:
    """Share an array among the servers; see `Cluster.store`."""
    values, content = encoded(name, np.asarray(array), classes)
    dataset, secret = described(name, values, content, handle=os.urandom(16), example=np.shape(array)[1:]), new_secret()
    digests = [digest_at(secret, place) for place in range(3)]
    await cluster.enrol()
    try:
        await (_replicate if cluster.equals else _mask)(cluster, dataset, digests, values)
    except ActorError as error:
        raise WorkerLost(f"{name!r} could not be stored: {error}") from None
    return SharedDataset(dataset, secret)


async def forget(cluster: ThreeWorkers, array: SharedDataset) -> None:
    """Have all workers forget an array that this process has stored. One that is gone has forgotten it."""
    system, handle = cluster.links.system, array.dataset.handle
    for place, worker in enumerate(cluster.workers):
        dealing = place == THIRD and not cluster.equals
        kind: type[TrainingServer | TrainingDealer] = TrainingDealer if dealing else TrainingServer
        with contextlib.suppress(ActorError):
            actor = await system.connect(f"{worker.url}/{'training-dealer' if dealing else 'training'}", kind)
            await actor.with_options(timeout=5.0).forget(handle, right_at(array.secret, place))


@contextlib.asynccontextmanager
async def lent(
    cluster: ThreeWorkers, model: str, given: GivenExamples, expected: Sequence[str], classes: Sequence[int]
) -> AsyncIterator[SharedExamples]:
    """Share those of some arrays that are not shared yet, for as long as the block lasts.

    Args:
        cluster: where.
        model: that they are for.
        given: what the user gave.
        expected: what the loss of each output compares with.
        classes: of labels of each output.
    """
    shared: dict[str, SharedDataset] = {}
    async with contextlib.AsyncExitStack() as stack:
        kinds = dict(zip(given.y, zip(expected, classes, strict=True), strict=True)) if given.y else {}
        for name, array in given.arrays.items():
            if isinstance(array, SharedDataset):
                shared[name] = array
                continue
            kind, count = kinds.get(name, ("", 0))
            values = targets(array, kind) if kind else array.astype(np.float64)
            shared[name] = await store(cluster, f"{name} of {model}", values, count if kind == "labels" else None)
            stack.push_async_callback(forget, cluster, shared[name])
        xs, ys, ws = (tuple(shared[name] for name in arrays) for arrays in (given.x, given.y, given.w))
        yield SharedExamples(xs, ys, ws * len(ys) if len(ws) == 1 else ws)  # one array may weigh the examples for all outputs


async def _replicate(cluster: ThreeWorkers, dataset: Dataset, digests: list[bytes], values: Ring) -> None:
    """Send two of the three components of a dataset to each of three equals."""
    system = cluster.links.system
    servers = [await system.connect(f"{worker.url}/training", TrainingServer) for worker in cluster.workers]
    components = split(values, last=dataset.handle[0] % 3)
    work = zip(servers, digests, (held_by(components, place) for place in range(3)), strict=True)
    await at_once(*(server.store_replicated(dataset, digest, held, cluster.presence) for server, digest, held in work))


async def _mask(cluster: ThreeWorkers, dataset: Dataset, digests: list[bytes], values: Ring) -> None:
    """Send x + lambda and half of lambda to each server, both halves to the crypto provider."""
    masked, keys = mask(values)
    *servers, dealer = await trainers(cluster, dataset.name)
    storing = zip(servers, digests, keys, strict=False)
    await at_once(
        dealer.store(dataset, digests[THIRD], keys, cluster.presence),
        *(server.store(dataset, digest, masked, key, cluster.presence) for server, digest, key in storing),
    )


def encoded(name: str, array: npt.NDArray[Any], classes: int | None) -> tuple[npt.NDArray[np.uint64], Content]:
    """Return the integers of an array (examples, columns), and what they are."""
    if array.ndim < 1 or array.size == 0 or array.dtype.kind not in "biuf":
        raise InputError(f"{name!r} is {array.dtype} of shape {array.shape}: an array of numbers is needed, its first axis the examples")
    if array.dtype.kind in "iu" and array.ndim == 1:
        return encode(_one_hot(name, array, classes), 2.0**-FRACTION), "labels"
    if classes is not None:
        raise InputError(
            f"{name!r} has shape {array.shape} and dtype {array.dtype}: classes={classes} is for labels, one integer an example"
        )
    numbers = array.reshape(len(array), -1).astype(np.float64)
    check_columns(name, numbers, step=2.0**-FRACTION, limit=LARGEST)
    return encode(numbers, 2.0**-FRACTION), "numbers"


SUMMING = 1e-3
"""How far from 1 the sum of a row may be, so that the gradient by one output is as far from Keras' at most."""


def described(name: str, values: Ring, content: Content, *, handle: bytes, records: bytes = b"", example: tuple[int, ...] = ()) -> Dataset:
    """Return what the workers are told of an array: its shape, what it holds, and facts on which losses and metrics depend."""
    signed = values.view(np.int64)
    binary = all(bool(((rows == 0) | (rows == 1 << FRACTION)).all()) for rows in (signed[:1], signed))  # mostly the first row tells
    signs = all(bool((np.abs(rows) == 1 << FRACTION).all()) for rows in (signed[:1], signed))
    sums = (np.abs(rows.sum(1) - (1 << FRACTION)) <= SUMMING * 2**FRACTION for rows in (signed[:1], signed))
    summing = signed.shape[1] > 1 and all(bool(one.all()) for one in sums)
    return Dataset(name, (signed.shape[0], signed.shape[1]), content, handle, records, binary, summing, example, signs)


def _one_hot(name: str, labels: npt.NDArray[Any], classes: int | None) -> npt.NDArray[np.float64]:
    count = int(labels.max()) + 1 if classes is None else classes
    if labels.min() < 0 or labels.max() >= count:
        raise InputError(
            f"labels out of range: {name!r} has labels from {labels.min()} to {labels.max()}, from 0 to {max(count - 1, 0)} are needed"
        )
    if count > 1000:
        raise InputError(f"{name!r} would have {count} classes, at most 1000 are possible: numbers to be predicted are stored as floats")
    one_hot: npt.NDArray[np.float64] = np.eye(count)[labels]
    return one_hot
