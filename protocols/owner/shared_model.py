"""The owner's side: secret-shares a Keras model among the servers of a cluster, and serves it."""

from __future__ import annotations

import asyncio
import contextlib
import operator
import os
from collections.abc import AsyncIterator, Callable, Collection
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from actors import ActorError, ConnectFailed, ConnectionLost
from protocols.authority.rights import digest_at, right_at
from protocols.datasets.dataset import SharedDataset
from protocols.errors import NotOwner, ProtocolError, ServingError, UnknownModel, WorkerLost
from protocols.mpc import inference
from protocols.mpc.operations.weights import SummedMasks
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.program import Program
from protocols.noisy_answers import Guarantee
from protocols.owner.cluster import Cluster
from protocols.owner.epochs import Epoch
from protocols.owner.fitting import Training
from protocols.selfcheck.report import Check
from protocols.serving.allowance import MEMORY, Allowance, Opening
from protocols.serving.hosting import Terms, fingerprint
from protocols.serving.memory import memory_plans
from protocols.serving.ticket import REVEALS, Reveal
from protocols.workers import delivery
from protocols.workers.compute_server import ComputeServer
from protocols.workers.crypto_provider import CryptoProvider

if TYPE_CHECKING:
    import keras

    from privacy.ledger import Ledger
    from privacy.mechanisms import DPSGD
    from protocols.lowering import Layer


class SharedModel:
    """A model that nobody holds: each server has a share of it. Made by `share`.

    Attributes:
        name: under which clients find it.
        program: its public half.
        layers: for each layer with a window: its bound, its window, and whether it is proved or calibrated on samples. An input that is
            not like the samples may leave a calibrated window; its answer is wrong then, and nothing says so, unless it was shared with
            `checked=True`.
        guarantee: what is promised where answers are noisy, otherwise None.
        check: how far its answers are from Keras', as `share` has found.
    """

    def __init__(
        self,
        name: str,
        program: Program,
        layers: tuple[Layer, ...],
        cluster: Cluster,
        secret: bytes,
        training: Training,
        guarantee: Guarantee | None = None,
        check: Check | None = None,
    ) -> None:
        self.name, self.program, self.layers, self.guarantee, self.check = name, program, layers, guarantee, check
        self._training = training
        self._links = cluster.links_for(name)
        self._rights = [right_at(secret, place) for place in cluster.seats_for(name).all]
        self._answered = 0
        self._stopped = False

    async def placed(self, weights: list[Ring], cluster: Cluster, secret: bytes) -> None:
        """Place the model at all three workers, or at none of them: for `share`."""
        name, (*seats, third) = self.name, cluster.seats_for(self.name).all
        provider, servers = self._links.provider, self._links.servers
        claimed: list[tuple[ComputeServer | CryptoProvider, bytes]] = []
        try:
            for server, place in zip(servers, seats, strict=True):
                await server.claim(name, digest_at(secret, place))
                claimed.append((server, right_at(secret, place)))
            opening = await provider.open(name, self.program, cluster.equals, digest_at(secret, third), cluster.presence, self.guarantee)
            claimed.append((provider, right_at(secret, third)))
            masked, program = _masked(weights, opening, self.program), fingerprint(self.program)
            await asyncio.gather(
                *(delivery.load(server, name, right, program, masked) for server, (_, right) in zip(servers, claimed, strict=False))
            )
        except BaseException:
            for worker, right in claimed:
                with contextlib.suppress(ActorError, ProtocolError):
                    await worker.remove(name, right)
            raise

    async def serve(
        self,
        num_requests: int,
        *,
        examples: int | None = None,
        reveal: Collection[Reveal] | None = None,
        memory: int = MEMORY,
        ahead: int = 0,
        ticket_lifetime: float = 60.0,
        on_answer: Callable[[int], None] | None = None,
    ) -> None:
        """Let clients ask, and return once `num_requests` requests have been answered, or all of `examples`.

        Servers and crypto provider each enforce both numbers. What counts is what a server has released its share of: a client that takes
        tickets and does not use them, or vanishes, spends nothing, and keeps others waiting for a few seconds at most. A request for more
        examples than are left is refused as a whole, and the rest stays for smaller ones: serving goes on until it is used up.
        Cancelling this ends the waiting only: what was allowed is answered until `stop`.

        Args:
            num_requests: at least 1; each may have any number of examples, unless `examples` is given.
            examples: how many examples of all these requests together are answered, at least 1; None: any number. Choose it by what a
                client could learn from so many answers: one request may hold as many examples as it likes.
            reveal: the kinds of answer that are served, "logits" and "label"; all that the model can give if None. Logits tell a client
                more about the model than labels do.
            memory: bytes of randomness that each server may hold, for all kinds of answer together; what lies ready from an earlier call
                with another memory is thrown away. Where one example needs more, it is streamed: dealt in segments while it is evaluated,
                and the largest operation is what has to fit.
            ahead: examples for which randomness is dealt before anybody asks; one chunk if 0.
            ticket_lifetime: seconds after which a client that took a ticket and vanished gives it back.
            on_answer: called with the number of requests answered so far, at each answer.

        Raises:
            WorkerLost: a worker went away; the model has to be shared again.
            ServingError: the model was stopped.
            TooLarge: one operation of it does not fit the memory; nobody was told anything.
            ValueError: a number is out of its range, or `reveal` names no kind of answer of this model.
            TypeError: a number is not an integer.
        """
        if self._training.begun:
            raise ServingError(f"model {self.name!r} was trained after it was shared: reveal it and share the result to serve it")
        requests, kinds = _whole("num_requests", num_requests, 1), self._kinds(reveal)
        memory, ahead = _whole("memory", memory, 1), _whole("ahead", ahead, 0)
        more = None if examples is None else _whole("examples", examples, 1)
        if not ticket_lifetime > 0:
            raise ValueError(f"ticket_lifetime={ticket_lifetime}; a positive number of seconds is needed")
        memory_plans(self.name, self.program, kinds, memory)  # refused before anybody allows anything
        try:
            *rights, third = self._rights
            tally = await self._links.provider.answered(self.name, third, -1)
            self._answered = tally.requests
            terms = Terms(tally.requests + requests, kinds, None if more is None else tally.examples + more)
            allowance = Allowance(terms, memory, ahead, ticket_lifetime)
            servers = zip(self._links.servers, rights, strict=True)
            await asyncio.gather(*(server.serve(self.name, right, terms) for server, right in servers))
            await self._links.provider.serve(self.name, third, allowance)
            waiting = self._links.provider.with_options(timeout=None)
            while tally.requests < terms.total and (terms.examples is None or tally.examples < terms.examples):
                tally = await waiting.answered(self.name, third, self._answered)
                for number in range(self._answered + 1, tally.requests + 1):
                    if on_answer is not None:
                        on_answer(number)
                self._answered = tally.requests
        except ActorError as error:
            raise WorkerLost(f"model {self.name!r} is served no more: {error}") from None

    async def fit(
        self,
        x: SharedDataset,
        y: SharedDataset,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        shuffle: bool = True,
        metrics: bool | Collection[str] = True,
        memory: int = MEMORY,
        folder: str | os.PathLike[str] | None = None,
        resume: bool = False,
        save_every: int | None = None,
        progress: bool = True,
        privacy: DPSGD | None = None,
        ledger: Ledger | None = None,
    ) -> AsyncIterator[Epoch]:
        """Train the model on shared data; nobody sees a feature, a label, a weight or a gradient. Yield after each epoch.

        The model is a compiled keras.Sequential: Flatten, Dense, ReLU, a softmax or sigmoid at the end or not; SGD, Adam or AdamW, with
        a number or a schedule for the learning rate, read anew at each `fit`; sparse, categorical or binary cross-entropy, or mean squared
        error. Afterwards `reveal` gives the trained model; a second `fit` goes on from there. If training
        stops early, the model is as it was after the last complete epoch.

        With a folder a training survives all of its processes. After each epoch both servers write their shares of weights and optimizer,
        each under its own key (they need folders, too: `confide worker --data`); the owner's folder holds the right to them. The same
        script with `resume=True` goes on from there, in the same order of examples, after any party was killed and started again. Shares
        are re-randomised when they are loaded, and all masks are new.

        Args:
            x: features, from `Cluster.store` or `Cluster.load`.
            y: labels or targets, as many.
            epochs: passes over the data, at least 1.
            batch_size: examples of a step.
            shuffle: a new order in each epoch; it is public.
            metrics: tell the accuracy (or mean squared error) of each epoch to this process; nobody else learns it. Or the names of what
                is told: "accuracy" or "mean squared error", and "loss". The loss of a cross-entropy costs a logarithm on shares.
            memory: bytes of randomness that each server may hold ahead.
            folder: where the owner keeps the right to the checkpoints; None: there are none.
            resume: go on with the training in the folder, up to `epochs` in all; if there is none, begin.
            save_every: steps after which a checkpoint is written in mid-epoch, too.
            progress: show how far an epoch is, if standard error is a terminal.
            privacy: `privacy.DPSGD(noise_multiplier=z, max_grad_norm=C)`: on shares each example's gradient is clipped to C, and each of
                the two servers adds noise of z C to their sum, which is divided by `batch_size`. Whatever is revealed is (epsilon,
                delta)-private for each example, see `Epoch.privacy`; no metric is told. Nothing is sampled: batches are known to the
                servers, so what counts is the number of epochs. Numbers and order of the examples are public. Epochs without
                `privacy` are outside of it: train on public data with these only.
            ledger: a `privacy.Ledger` to which each private epoch is written before it begins.

        **Leaks** to this process, whatever `metrics` says: one bit an epoch, whether activations and weights have stayed where fixed point
        is right; with `privacy` weights only, which are private already. To the workers: layers, loss, optimizer, learning rates, number
        and order of the examples.

        Raises:
            ModelError: the layers, the loss or the optimizer cannot be trained on shares, or the learning rate vanishes in fixed point.
            InputError: data that do not fit the model or each other.
            TooLarge: the randomness of a step does not fit the memory.
            Diverged: activations or weights have left fixed point in an epoch; the model is as it was before that epoch.
            WorkerLost: a worker went away.
            CheckpointError: the folder has a training that is not to be resumed, or another one.
            KeepsNothing: a server was started without a folder.
            VaultError: a checkpoint cannot be written, or is damaged.
            privacy.BudgetSpent: the epochs cost more than `privacy` or the ledger allows.
        """
        epochs_made = self._training.fit(
            x,
            y,
            epochs=epochs,
            batch_size=batch_size,
            shuffle=shuffle,
            metrics=metrics,
            memory=memory,
            folder=folder,
            resume=resume,
            save_every=save_every,
            progress=progress,
            privacy=privacy,
            ledger=ledger,
        )
        async with contextlib.aclosing(epochs_made):
            async for epoch in epochs_made:
                yield epoch

    async def reveal(self) -> keras.Model:
        """Return the trained model, compiled like the one that was shared: opens the weights, to this process alone.

        Raises:
            WorkerLost: a worker went away.
        """
        trained: keras.Model = await self._training.reveal()
        return trained

    def _kinds(self, reveal: Collection[Reveal] | None) -> tuple[Reveal, ...]:
        possible = REVEALS if self.program.label is not None else ("logits",)
        wanted = possible if reveal is None else {reveal} if isinstance(reveal, str) else set(reveal)
        if not wanted or set(wanted) - set(possible):
            raise ValueError(f"reveal={reveal!r} was asked for; this model can give {list(possible)}")
        return tuple(kind for kind in possible if kind in wanted)

    @property
    def bytes_per_example(self) -> int:
        """Bytes of randomness of one example. A server holds all of it until it is asked for, or streams it if it is more than `memory`."""
        return inference.layout(self.program).bytes_per_example

    async def prepared(self, reveal: Reveal = "logits") -> int:
        """Return for how many examples randomness is ready at both servers."""
        return await self._links.provider.prepared(self.name, self._rights[-1], reveal)

    async def stop(self) -> None:
        """Remove the model from all workers; requests under way fail. Do nothing the second time.

        A worker that is gone, or was started again, has forgotten the model already: that is no error.

        Raises:
            WorkerLost: a worker is there and does not answer.
        """
        if self._stopped:
            return
        self._stopped = True
        await self._training.forget()
        *rights, third = self._rights
        removals = [server.remove(self.name, right) for server, right in zip(self._links.servers, rights, strict=True)]
        removals.append(self._links.provider.remove(self.name, third))
        for outcome in await asyncio.gather(*removals, return_exceptions=True):
            if isinstance(outcome, ActorError) and not isinstance(outcome, ConnectFailed | ConnectionLost):
                raise WorkerLost(f"model {self.name!r} could not be removed: {outcome}")
            if isinstance(outcome, BaseException) and not isinstance(outcome, ActorError | UnknownModel | NotOwner):
                raise outcome

    async def __aenter__(self) -> SharedModel:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await self.stop()
        except WorkerLost:
            if error is None:
                raise

    def __repr__(self) -> str:
        return (
            f"SharedModel({self.name!r}, {self.program.input_shape} -> {self.program.output_shape}{f', {self.check}' * bool(self.check)})"
        )


def _whole(name: str, number: int, least: int) -> int:
    """Check a setting of `serve`, before anything is sent."""
    try:
        whole = operator.index(number)
    except TypeError:
        raise TypeError(f"{name}={number!r} is not an integer") from None
    if not least <= whole < 1 << 48:
        raise ValueError(f"{name}={number}; at least {least} is needed, and less than 2^48")
    return whole


def _masked(weights: list[Ring], opening: Opening, program: Program) -> list[Ring]:
    """Return M_W = W + lambda_{W,0} + lambda_{W,1}."""
    masks = SummedMasks(opening.weight_keys, program.weights)
    return [np.add(masked := masks[index], weight, out=masked) for index, weight in enumerate(weights)]
