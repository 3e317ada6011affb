"""One run of training at one server: what it holds between the micro-batches of a step, the steps of an epoch, and epochs."""

from __future__ import annotations

import asyncio

import numpy as np

from protocols.authority.rights import Claim
from protocols.authority.seats import seats
from protocols.link.threads import Runner
from protocols.link.twins import Twins
from protocols.mpc.engine.values import Affine
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.pair import Agreement, Pair
from protocols.storage.holdings import Model
from protocols.training.asked import SharedPrediction
from protocols.training.circuits import PARTIAL, MicroBatch, StepCircuits
from protocols.training.terms import TrainingTerms
from protocols.workers.step_supply import StepSupply


class TrainingRun:
    """One run. Its `shares` are ahead of the model's until an epoch is complete at both servers.

    Attributes:
        partial: its shares of sums of gradients over the examples of a step so far.
        done: how many steps have been made.
        made: how many micro-batches.
        watch: waits until its owner is gone.
    """

    def __init__(self, terms: TrainingTerms, claim: Claim, model: Model, twins: Twins, run: Runner, patience: float) -> None:
        self.terms, self.claim, self.me, self.model, self.twins = terms, claim, twins.me, model, twins
        self.seats = seats(terms.equals, terms.name)
        self.agreement = Agreement()
        self.seal_key = b""
        self.steps = StepCircuits(terms)
        self.randomness = StepSupply(twins.me, self.steps, run=run, patience=patience)
        self.shares, self.sums, self.use = model.shares, model.sums, model.use
        self.partial: dict[str, Ring] = {}
        self.done = self.made = 0
        self.wires: list[dict[str, Affine]] = []
        self.pair: Pair | None = None
        self.watch: asyncio.Task[None] | None = None

    def close(self, reason: Exception) -> None:
        """End it: whoever waits gets the reason."""
        self.twins.close(reason)
        self.randomness.pieces.fail(reason)
        if self.watch is not None:
            self.watch.cancel()

    def take(self, micro: MicroBatch, outputs: dict[str, Ring]) -> None:
        """Take what a micro-batch has given: weights, what stays beside them, sums of gradients for the next, and what is told."""
        partial = {name: share for name, share in outputs.items() if name.startswith(PARTIAL)}
        told = outputs.keys() - self.shares.keys() - partial.keys()
        self.sums = {name: self._taken(name, outputs[name]) for name in told}
        self.shares = {name: outputs.get(name, share) for name, share in self.shares.items()}
        self.partial = {} if micro.ends else partial
        self.made += 1

    def _taken(self, name: str, output: Ring) -> Ring:
        """Return what there is of an output after one micro-batch more: its sum, or of predictions those of all examples."""
        if name not in self.sums:
            return output
        return np.concatenate([self.sums[name], output]) if isinstance(self.terms.plan, SharedPrediction) else self.sums[name] + output
