"""What can go wrong in `federated`.

FederatedError
 +-- SettingError        a setting that makes no sense, alone or together with another (also a ValueError)
 +-- DataError           data that cannot be split or trained on (also a ValueError)
 +-- ModelRefused        a Keras model that cannot be sent to owners, or a blueprint that cannot be built (also a ValueError)
 +-- UpdateRejected      an update that does not count: wrong shapes, not finite, an old round, a second one, late
 +-- UpdateHeldBack      an owner does not do what it is asked: its policy or ledger forbids it, or a value is too large to be hidden
 +-- BaseMissing         an owner does not have what a task leaves out, and asks for it once
 +-- OwnerDropped        an owner gave no update in this round
 +-- OwnerLate           an owner has not answered in time
 +-- OwnerFailed         something that is not of this library failed at an owner; what, is in its log
 +-- RunExists           a run folder has a run already, or one of other settings (also a ValueError)
 +-- StepFailed          a strategy raised something, or gave weights that cannot be used; the round fails
 +-- FederationClosed    a federation was used outside of its `async with` block
 +-- ClusterFileError    a cluster.toml that cannot be used, or code that it names and that cannot be (also a ValueError)
 +-- KeysError           certificates that cannot be made, or cannot be used
 +-- JoinRefused         an aggregator does not take this owner

`UpdateRejected`, `OwnerDropped` and `OwnerLate` cost one owner one round: they end up in the outcome of the round and are not raised
to the user.
"""

from __future__ import annotations

from actors import portable_error


class FederatedError(Exception):
    """The root of all errors of `federated`."""


@portable_error
class SettingError(FederatedError, ValueError):
    """A setting makes no sense, alone or together with another."""


@portable_error
class DataError(FederatedError, ValueError):
    """Data cannot be split, or not be trained on."""


@portable_error
class ModelRefused(FederatedError, ValueError):
    """A Keras model cannot be sent to owners, or an owner cannot build it."""


class UpdateRejected(FederatedError):
    """An update does not count. The message says why, and shows no value of it."""


@portable_error
class UpdateHeldBack(FederatedError):
    """An owner does not do what it is asked, or does not give its update. The message shows no value of it."""


@portable_error
class BaseMissing(FederatedError):
    """An owner does not have the blueprint and the weights that a task names by their digest only."""


@portable_error
class OwnerDropped(FederatedError):
    """An owner gave no update in this round."""


@portable_error
class OwnerLate(FederatedError):
    """An owner has not answered in time."""


@portable_error
class OwnerFailed(FederatedError):
    """Something failed at an owner. The message tells the kind of failure only: the text, which may quote data, is in the owner's log."""


class StepFailed(FederatedError):
    """A strategy raised something, or gave weights that cannot be used."""


class RunExists(FederatedError, ValueError):
    """A run folder has a run already, or one of other settings."""


class FederationClosed(FederatedError):
    """A federation was used outside of its `async with` block."""


class ClusterFileError(FederatedError, ValueError):
    """A cluster.toml cannot be used, or the code that it names cannot."""


class KeysError(FederatedError):
    """Certificates cannot be made, or cannot be used. The message shows no key."""


@portable_error
class JoinRefused(FederatedError):
    """An aggregator does not take an owner: it is not on the list, or it is not the one that its certificate says."""
