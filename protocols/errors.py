"""What can go wrong in `protocols`.

ProtocolError
 +-- EncodingError            a number that fixed point cannot hold: NaN, infinity, too large
 +-- SharingError             shares that do not belong together, a party count or modulus that makes no sense
 +-- ProgramError             a program that is not well formed
 +-- ModelError               a Keras model that cannot be shared
 |    +-- UnsupportedLayer    a layer, or a setting of one, that has no private form
 |    +-- WindowError         a layer whose sums may leave the fixed-point window
 |    +-- Inaccurate          a private program whose answers are not those of its model
 +-- InputError               an input of a query that was refused before anything was sent
 +-- AggregationError         a secure aggregation that cannot go on: too few owners, a forged, replayed or inconsistent message
 +-- ClusterError             workers that do not form a cluster, or cannot be reached
 |    +-- WorkerUnreachable   nobody answers at a worker's address, and it could not be started there
 |    +-- WorkerLost          a worker went away while it was needed
 |    +-- Altered             what one server sent is not what the other received
 +-- VaultError               a file of shares that is damaged or another party's, or a folder that cannot hold any
 +-- CheckpointError          a training that cannot be resumed, or whose folder holds another one
 +-- ServingError             a request that the workers refuse
      +-- UnknownModel        no model of that name is shared there
      +-- NameTaken           a model of that name is shared already, by somebody else or by you
      +-- NotOwner            the caller is not the one who shared the model
      +-- NotServed           the model is shared but not served now, or not with this kind of answer
      +-- QuotaSpent          the number of requests or examples that the owner allowed has been reached
      +-- Busy                others are served now; the same request is possible in some seconds
      |    +-- Resuming       a model that stays is on its way back, after a worker was lost
      +-- BudgetSpent         the noisy answers that one client may get have been given to it
      +-- OutsideCalibration  an input is unlike the samples on which the model was calibrated: there is no answer to it
      +-- TicketRefused       a ticket that is forged, used before, expired, or of another model
      +-- TooLarge            a model or request that does not fit the memory set aside for it
      +-- KeepsNothing        the worker was started without a folder for shares
      +-- UnknownData         no shares of that name are kept there, or not at all three workers
      +-- NotGranted          the caller has no right to the data of that name

Warnings are `CoarseInput`: a feature of which the fixed point of the input keeps too little; `CoarseOutput`: a number of an answer that is
lost beside larger ones; `Imprecise`: private answers that differ from those of the model by more than 1 % of their range; `FaintOutput`:
outputs so small that fixed point does not resolve them; `PrecisionWarning`: data to train on, or what was fitted to them, of which fixed
point keeps too little.

`workers/compute_server.py` registers all of them as errors that keep their class when they cross from one process to another.
"""

from __future__ import annotations

from typing import Any


class ProtocolError(Exception):
    """The root of all errors of `protocols`."""


class EncodingError(ProtocolError, ValueError):
    """A number cannot be held in fixed point."""


class SharingError(ProtocolError, ValueError):
    """Shares do not fit together, or cannot be made as asked."""


class ProgramError(ProtocolError, ValueError):
    """A program is not well formed."""


class ModelError(ProtocolError, ValueError):
    """A Keras model cannot be shared."""


class UnsupportedLayer(ModelError):
    """A layer, or a setting of a layer, has no private form. The message names the layer, its class, why, and what to use."""


class WindowError(ModelError):
    """The sums of a layer may leave the fixed-point window. The message names the layer and the bound."""


class Inaccurate(ModelError):
    """A private program gives other answers than the model that it was made of. The message has error, tolerance, and what to do."""


class PrecisionWarning(UserWarning):
    """Fixed point has kept too little of numbers that are shared to train on, or cannot tell features apart."""


class CoarseInput(UserWarning):
    """A feature of the input varies by too few steps of the fixed point. The message names it, and what to do."""


class CoarseOutput(UserWarning):
    """A number of an answer is so small beside the others that fixed point keeps nothing of it. The message names it, and what to do."""


class Imprecise(UserWarning):
    """The answers of a private program differ from its model's by more than 1 % of their range. It says how far, and what helps."""


class FaintOutput(UserWarning):
    """The outputs of a model are smaller than fixed point resolves. The message says how small they are, and what to do."""


class InputError(ProtocolError, ValueError):
    """An input of a query was refused before anything was sent."""


class AggregationError(ProtocolError):
    """A secure aggregation cannot be set up, or an owner or the server refuses to go on with it. The message says why."""


class ClusterError(ProtocolError):
    """The workers do not form a cluster, or cannot be reached."""


class WorkerUnreachable(ClusterError):
    """Nobody answers at a worker's address, and no worker could be started there."""


class WorkerLost(ClusterError):
    """A worker went away, or did not answer in time, while it was needed."""


class Altered(ClusterError):
    """What one server sent is not what the other received, or they were not sent the same. No answer was opened."""


class VaultError(ProtocolError):
    """A file of shares cannot be used: it is damaged, truncated or another party's; or its folder cannot."""


class CheckpointError(ProtocolError):
    """A training cannot be resumed from its folder, or the folder holds a training that is not to be resumed."""


class ServingError(ProtocolError):
    """The workers refuse a request."""


class UnknownModel(ServingError):
    """No model of that name is shared at this worker."""


class NameTaken(ServingError):
    """A model of that name is shared there already."""


class NotOwner(ServingError):
    """The caller is not the one who shared the model."""


class NotServed(ServingError):
    """The model is not served now, or not with this kind of answer."""


class QuotaSpent(ServingError):
    """The requests or the examples that the owner allowed have been answered, or fewer examples are left than were asked for."""


class Busy(ServingError):
    """Others are served now, or this client has too much under way. Nothing was spent.

    Attributes:
        seconds: after which to ask again.
    """

    def __init__(self, why: str, seconds: float) -> None:
        super().__init__(why, seconds)
        self.why, self.seconds = why, seconds

    def __str__(self) -> str:
        return f"busy, retry in {self.seconds:g} s: {self.why}"


class Resuming(Busy):
    """The workers of a model that stays when its owner has gone come together again: one of them was lost. Nothing was spent.

    Attributes:
        seconds: after which to ask again.
    """

    def __str__(self) -> str:
        return f"{self.why}; retry in {self.seconds:g} s"


class BudgetSpent(ServingError):
    """Fewer noisy answers are left for this client than it asked for. The message says how many."""


class OutsideCalibration(ServingError):
    """Inputs are unlike the samples on which the model was calibrated, and have left its windows: they have no answer.

    Attributes:
        indices: the places of these inputs in the query, from 0.
        answers: those to the other inputs, in the rows of a float64 array in which the rows of `indices` are NaN.
    """

    answers: Any = None

    def __init__(self, why: str, *indices: int) -> None:
        super().__init__(why, *indices)
        self.why, self.indices = why, indices

    def __str__(self) -> str:
        return self.why


class TicketRefused(ServingError):
    """A ticket is forged, was used before, has expired, or belongs to another model."""


class TooLarge(ServingError):
    """A model or a request does not fit the memory set aside for it."""


class KeepsNothing(ServingError):
    """The worker was started without a folder for shares."""


class UnknownData(ServingError):
    """No shares of that name are kept at this worker, or the three workers do not keep the same."""


class NotGranted(ServingError):
    """The caller has no right to the data of that name."""


class Diverged(ServingError):
    """In training, numbers have left the range in which fixed point is right. The model is as it was before."""

    def __init__(self, epoch: int) -> None:
        super().__init__(
            f"training left fixed point in epoch {epoch}: activations beyond +-512, weights beyond +-16,384, or gradients that are too"
            " large, with Adam beyond +-128; the model is as it was before: after the last epoch, or the last checkpoint. Scale features"
            " and targets to about 1, and use a smaller learning rate"
        )
