"""The owner's side: secret-shares a Keras model among the servers of a cluster, and serves it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

from actors import ActorError
from protocols.authority.rights import right_at
from protocols.errors import ServingError, UnknownModel, WorkerLost
from protocols.mpc import inference
from protocols.mpc.engine.segments import MEMORY
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.program import Program
from protocols.noisy_answers import Guarantee, NoisyAnswers
from protocols.owner.cluster import Cluster
from protocols.owner.epochs import Epoch
from protocols.owner.fit.examples import Given, examples, features, parted
from protocols.owner.fit.settings import FitSettings
from protocols.owner.fitting import Training
from protocols.owner.placing.placing import Placing
from protocols.owner.placing.right import ModelRight
from protocols.owner.placing.serving import Serving, sigma_of
from protocols.selfcheck.report import Check
from protocols.serving.allowance import Allowance, allowed
from protocols.serving.hosting import Terms, check_program
from protocols.serving.memory import memory_plans
from protocols.serving.ticket import REVEALS, Reveal

if TYPE_CHECKING:
    import keras

    from privacy.ledger import Ledger
    from privacy.mechanisms import DPSGD
    from protocols.lowering import LayerWindow


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
        right: to a model that stays when this process has gone, in a file; None: it does not stay.
    """

    def __init__(
        self,
        name: str,
        program: Program,
        layers: tuple[LayerWindow, ...],
        cluster: Cluster,
        secret: bytes,
        training: Training,
        guarantee: Guarantee | None = None,
        check: Check | None = None,
        answers: NoisyAnswers | None = None,
        memory: int | None = None,
    ) -> None:
        self.right: ModelRight | None = None
        self.name, self.program, self.layers, self.guarantee, self.check = name, program, layers, guarantee, check
        self._first, self._training, self._answers, self._version, self._memory = program, training, answers, training.version, memory
        self._placing = Placing(cluster, name, secret)
        self._links = cluster.links_for(name)
        self._rights = [right_at(secret, place) for place in cluster.seats_for(name).all]
        self._stopped, self._served = False, -1

    async def placed(self, weights: list[Ring], right: ModelRight | None = None) -> None:
        """Place the model at all three workers, or at none of them: for `share`."""
        if right is not None:
            await self._placing.check_keep()
        await self._placing.first(self.program, self.guarantee, weights)
        if right is not None:
            await self._placing.keep(right)
            self.right = right

    async def _renewed(self, kinds: tuple[Reveal, ...], memory: int) -> None:
        """Place the trained shares as they lie, in the stead of what is served."""
        if self._stopped:
            raise ServingError(f"model {self.name!r} was stopped: share it again")
        if self.right is not None:
            raise ServingError(f"model {self.name!r} stays as it was shared: share the trained one under another name, beside it")
        version, noise = self._training.version, self._answers
        found = await asyncio.to_thread(self._training.served, self._first, noise, max(1, memory // len(kinds)))
        check_program(found.program)
        memory_plans(self.name, found.program, kinds, memory)
        guarantee = None if noise is None else await asyncio.to_thread(noise.guarantee, sigma_of(found.program))
        handle, secret = await self._training.ready(found)
        try:
            await self._placing.again(found.program, guarantee, handle, secret)
        except ActorError as error:
            raise WorkerLost(f"the trained model {self.name!r} could not be placed: {error}") from None
        self.program, self.guarantee, self.layers, self.check = found.program, guarantee, found.layers, None  # no check without weights
        self._version = version

    async def serve(
        self,
        num_requests: int,
        *,
        examples: int | None = None,
        reveal: Collection[Reveal] | None = None,
        memory: int | None = None,
        ahead: int = 0,
        ticket_lifetime: float = 60.0,
        on_answer: Callable[[int], None] | None = None,
        wait: bool = True,
        durable: bool | str | os.PathLike[str] = False,
    ) -> None:
        """Let clients ask, and return once `num_requests` requests have been answered, or all of `examples`.

        After a `fit` nobody knows the weights, and there is no `check`: functions are right to 2^-11 (`protocols/README.md`), as in steps
        and in `predict`, and large weights behind them multiply that: weights of 5 in three layers, one behind the other, made it 1.4 %.

        Servers and crypto provider each enforce both numbers. What counts is what a server has released its share of: a client that takes
        tickets and does not use them, or vanishes, spends nothing, and keeps others waiting for a few seconds at most. A request for more
        examples than are left is refused as a whole, and the rest stays for smaller ones: serving goes on until it is used up.
        Cancelling this ends the waiting only: what was allowed is answered until `stop`.

        What `fit` has trained since is served as it lies: the servers open W + lambda_W, nobody learns W, and the version before is served
        no more. Its clients connect anew; quotas count from the new version on, spent budgets stay spent. Windows are assumed then, as in
        the training, and looked at: where a number leaves one, a client gets `OutsideCalibration`, with labels, too, and learns that bit of
        each of its inputs. Noisy answers do not tell it, as it would have no noise.

        Args:
            num_requests: at least 1; each may have any number of examples, unless `examples` is given.
            examples: how many examples of all these requests together are answered, at least 1; None: any number. Choose it by what a
                client could learn from so many answers: one request may hold as many examples as it likes.
            reveal: the kinds of answer that are served, "logits" and "label"; all that the model can give if None. Logits tell a client
                more about the model than labels do.
            memory: bytes of randomness that each server may hold, for all kinds of answer together; None: what `share` was told for each,
                or 256 MiB. What lies ready from an earlier call with another memory is thrown away. Where one example needs more, it is
                streamed: dealt in segments while it is evaluated, and the largest operation has to fit: `share(memory=)` cuts it.
            ahead: examples for which randomness is dealt before anybody asks; one chunk if 0.
            ticket_lifetime: seconds after which a client that took a ticket and vanished gives it back.
            on_answer: called with the number of requests answered so far, at each answer.
            wait: False: return as soon as it is allowed; a model that does not stay is served as long as it is shared.
            durable: have it stay from now on, as it was trained or shared, see `share`; it was not served yet, or trained since.

        Raises:
            WorkerLost: a worker went away; the model has to be shared again.
            ServingError: the model was stopped; or is to stay, and was served already.
            WindowError: weights are too large, or layers too wide, for sums that nobody knows. What was served before is served.
            UnsupportedLayer: the network computes what cannot be served without its weights.
            ModelError: noisy answers of a model that was trained have no `sensitivity`.
            NotGranted: the owners of the data open weights to others only; answers tell of weights.
            Altered: something was altered between the servers while the trained shares were placed; the model is removed.
            TooLarge: one operation of it does not fit the memory; nobody was told anything.
            ValueError, TypeError: a number is out of its range, or no integer; or `reveal` names no kind of answer of this model.
        """
        requests, kinds = allowed("num_requests", num_requests, 1), self._kinds(reveal)
        usual = MEMORY if self._memory is None else self._memory * len(kinds)
        memory, ahead = allowed("memory", usual if memory is None else memory, 1), allowed("ahead", ahead, 0)
        more = examples if examples is None else allowed("examples", examples, 1)
        if not ticket_lifetime > 0:
            raise ValueError(f"ticket_lifetime={ticket_lifetime}; a positive number of seconds is needed")
        right = None if durable is False or self.right is not None else ModelRight.new(durable, self.name, self._placing.secret)
        if right is not None:
            if self._served == self._training.version:
                raise ServingError(f"model {self.name!r} was served already: what was counted of it could not be kept; share it anew")
            await self._placing.check_keep()
        if self._training.version != self._version:
            await self._renewed(kinds, memory)
        memory_plans(self.name, self.program, kinds, memory)  # refused before anybody allows anything
        if right is not None:
            await self._placing.keep(right)
            self.right = right
        serving = Serving(self._links, self.name, self._rights, stays=self.right is not None)
        try:
            self._served = self._version
            await serving.allow(requests, more, Allowance(Terms(0, kinds), memory, ahead, ticket_lifetime))
            if wait:
                await serving.through(on_answer)
        except ActorError as error:
            raise WorkerLost(f"model {self.name!r} is served no more: {error}") from None

    async def fit(
        self,
        x: Given,
        y: Given,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        shuffle: bool = True,
        metrics: bool | Collection[str] = True,
        validation_data: tuple[Given, ...] | None = None,
        validation_split: float = 0.0,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Given | None = None,
        initial_epoch: int = 0,
        verbose: Literal["auto", 0, 1, 2] = "auto",
        memory: int = MEMORY,
        folder: str | os.PathLike[str] | None = None,
        resume: bool = False,
        save_every: int | None = None,
        progress: bool = True,
        privacy: DPSGD | None = None,
        ledger: Ledger | None = None,
        micro_batch_size: int | None = None,
    ) -> AsyncIterator[Epoch]:
        """Train the model on shares, as `keras.Model.fit` does in the clear. Yield after each epoch.

        Nobody sees a feature, a label, a weight or a gradient. The model is compiled, of the layers, losses and optimizers that
        `protocols/owner/compiled.py` names; a learning rate may be a schedule, and is read anew in each epoch. Afterwards `serve` serves
        the trained shares as they lie, `evaluate` and `predict` ask them, `reveal` gives the trained model to this process, and a second
        `fit` goes on from there. If training stops early, the model is as it was after the last complete epoch.

        With a folder a training survives all of its processes. After each epoch both servers write their shares of weights and optimizer,
        each under its own key (they need folders, too: `confide worker --data`); the owner's folder holds the right to them, and what
        callbacks remember. The same script with `resume=True` goes on from there, in the same order of examples, after any party was
        killed and started again. Shares are re-randomised when they are loaded, and all masks are new.

        Args:
            x: features: an array, which is shared for as long as this lasts; or from `Cluster.store` or `Cluster.load`. Of several inputs
                one of each, in a list or a dict as the Keras model has them.
            y: labels or targets, as many: the same. Of several outputs in a list, or a dict by the names that Keras gives them.
            epochs: the epoch up to which is trained, at least 1.
            batch_size: examples of a step.
            shuffle: a new order in each epoch; it is public.
            metrics: tell the accuracy (or mean squared error) of each epoch to this process; nobody else learns it. Or the names of what
                is told: "accuracy" or "mean squared error", and "loss". The loss of a cross-entropy costs a logarithm on shares.
            validation_data: (x, y) or (x, y, sample_weight), looked at after each epoch as `evaluate` does.
            validation_split: the part of the arrays at their end that is held back for that.
            callbacks: of Keras, over epochs; they see what is told (`Epoch.logs`), may set the learning rate (which is public), stop, and
                have weights kept at the servers and restored (`EarlyStopping(restore_best_weights=True)`) that they never see. Refused
                by name: those that need weights or single batches, and those that monitor what is not told.
            class_weight: how many times an example of each class counts. The workers learn these numbers.
            sample_weight: how many times each example counts, below 512; shared like `x`. In metrics all count alike, as in Keras.
            initial_epoch: the number of the first epoch, from 0.
            verbose: 0: no line of progress.
            memory: bytes of randomness that each server may hold ahead. A step that needs more is streamed: dealt in segments while it is
                made, in more rounds. One of which a single operation needs more is computed in micro-batches that fit. What a
                frozen base gives lies beside it, twice 8 bytes a number; above 2 GiB each step computes it.
            folder: where the owner keeps the right to the checkpoints; None: there are none.
            resume: go on with the training in the folder, up to `epochs` in all; if there is none, begin.
            save_every: steps after which a checkpoint is written in mid-epoch, too.
            progress: show how far an epoch is, if standard error is a terminal.
            privacy: `privacy.DPSGD(noise_multiplier=z, max_grad_norm=C)`: each example's gradient is clipped to C, and each server adds
                noise of z C to their sum, which is divided by `batch_size`. What is revealed is (epsilon, delta)-private for each example,
                see `Epoch.privacy`; no metric is told. Nothing is sampled: what counts is the number of epochs. Outside of it are epochs
                without `privacy`, and what `evaluate` tells of examples: train and evaluate public data only so.
            ledger: a `privacy.Ledger` to which each private epoch is written before it begins.
            micro_batch_size: how many examples of a step are computed together, at most; None: as many as `memory` allows. Exact sums of
                gradients of all micro-batches of a step are added on shares before weights move once, and noise of `privacy` is added
                once: the same training, with means over all of `batch_size`. Each micro-batch takes about the rounds of a step, and the
                memory of its examples. A BatchNormalization that is trained needs the whole batch, and is refused beside it.

        **Leaks** to this process, whatever `metrics` says: one bit an epoch, and one of a frozen base, whether numbers have stayed where
        fixed point is right; with a validation its metrics and as many bits; with `privacy` weights only, which are private already. To the
        workers: layers, loss, optimizer, learning rates and so what callbacks have made of metrics, weights of classes, number and order
        of the examples, when weights are kept and restored.

        Raises:
            ModelError: the layers, the loss or the optimizer cannot be trained on shares, or the learning rate vanishes in fixed point.
            InputError: data that do not fit the model or each other; a callback that cannot be; another fit is under way, or has begun.
            TooLarge: the randomness of one operation does not fit the memory, in a micro-batch of one example; or of a step, where there
                are none. The message says how much is enough.
            ClusterError: the workers find other circuits for a step: other versions of confide, or processors that round differently.
            Diverged: activations or weights have left fixed point in an epoch; the model is as it was before that epoch.
            NotGranted: the owners of the data do not allow weights of examples or of classes, or metrics for this process.
            WorkerLost: a worker went away.
            CheckpointError: the folder has a training that is not to be resumed, or another one.
            KeepsNothing: a server was started without a folder.
            VaultError: a checkpoint cannot be written, or is damaged.
            privacy.BudgetSpent: the epochs cost more than `privacy` or the ledger allows.
        """
        how = FitSettings(
            epochs=epochs,
            batch_size=batch_size,
            shuffle=shuffle,
            metrics=metrics,
            memory=memory,
            folder=folder,
            resume=resume,
            save_every=save_every,
            progress=progress and verbose != 0,
            callbacks=callbacks,
            initial_epoch=initial_epoch,
            class_weight=class_weight,
            privacy=privacy,
            ledger=ledger,
            micro_batch_size=micro_batch_size,
        )
        data, validated = parted(x, y, sample_weight, validation_data, validation_split, self._training.ends)
        async with contextlib.aclosing(self._training.fitted(data, validated, how)) as epochs_made:
            async for epoch in epochs_made:
                yield epoch

    async def evaluate(
        self, x: Given, y: Given, *, sample_weight: Given | None = None, batch_size: int = 128, memory: int = MEMORY
    ) -> dict[str, float]:
        """Return what `keras.Model.evaluate(return_dict=True)` does, of the trained shares: "loss", then the compiled metrics by name.

        Args:
            x: see `fit`.
            y: see `fit`.
            sample_weight: how many times the loss of each example counts.
            batch_size: examples that are looked at together; it changes no number.
            memory: bytes of randomness that each server may hold ahead; what does not fit goes in segments and micro-batches, see `fit`.

        **Leaks** to this process: these numbers, and one bit, whether all numbers have stayed where fixed point is right; if not, they are
        NaN, and a `PrecisionWarning` says so. Nothing to the workers but number and order of the examples.

        Raises:
            ModelError, InputError, TooLarge, NotGranted, WorkerLost: see `fit`.
        """
        data = examples(x, y, sample_weight, *self._training.ends)
        return await self._training.evaluate(data, batch_size=batch_size, memory=memory)

    async def predict(self, x: Given, *, batch_size: int = 128, memory: int = MEMORY) -> Any:
        """Return what `keras.Model.predict` does, in its structure, of the trained shares: for examples of this process, and it alone.

        It is the owner's own question, which needs no `serve` and counts against no quota; clients ask by `connect`.

        Args:
            x: (n, *input_shape), of several inputs one of each; arrays, as answers to examples of others would tell of them.
            batch_size: see `evaluate`.
            memory: see `evaluate`.

        **Leaks** to this process: the outputs before a softmax or a sigmoid at the end, which is computed here; one bit, see `evaluate`.

        Raises:
            WindowError: for some example numbers have left fixed point: no answers are given.
            InputError: `x` is shared already, or does not fit.
            NotGranted: the owners of the data on which the model was trained open it to others only.
            ModelError, TooLarge, WorkerLost: see `fit`.
        """
        return await self._training.predict(features(x, self._training.ends[0]), batch_size=batch_size, memory=memory)

    async def reveal(self) -> keras.Model:
        """Return the trained model, compiled like the one that was shared: opens the weights, to this process alone.

        Raises:
            WorkerLost: a worker went away.
        """
        return cast("keras.Model", await self._training.reveal())

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
        """Return for how many examples randomness is ready at both servers; 0 until what was trained last is served."""
        stale = self._training.version != self._version
        try:
            ready = await self._links.provider.prepared(self.name, self._rights[-1], reveal)
        except UnknownModel:
            if stale:  # one version gives way to the next
                return 0
            raise
        return 0 if stale else ready

    async def stop(self) -> None:
        """Remove the model from all workers; requests under way fail. Do nothing the second time.

        A worker that is gone, or was started again, has forgotten the model, which is no error, unless the model stays.

        Raises:
            WorkerLost: a worker is there and does not answer; or the model stays, and a worker could not be told: call it again then.
        """
        if self._stopped:
            return
        self._stopped = self.right is None  # of what stays, when all three have forgotten it
        await self._training.forget()
        await self._placing.remove(stays=self.right is not None)
        if self.right is not None:
            self.right.forget()
            self._stopped = True

    async def __aenter__(self) -> SharedModel:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await (self.stop() if self.right is None else self._training.forget())  # what is to stay does
        except WorkerLost:
            if error is None:
                raise

    def __repr__(self) -> str:
        return (
            f"SharedModel({self.name!r}, {self.program.input_shape} -> {self.program.output_shape}{f', {self.check}' * bool(self.check)})"
        )
