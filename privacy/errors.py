"""What can go wrong in `privacy`.

PrivacyError
 +-- SettingError        a setting that makes no sense, alone or together with another (also a ValueError)
 +-- ModelRefused        a model, loss, metric or callback that cannot be private, and why (also a ValueError)
 +-- ModelChanged        a model was changed after `make_private` (also a RuntimeError)
 +-- SamplingRefused     data, or a batch, that is not sampled the way that is accounted for (also a ValueError)
 +-- BudgetSpent         more than the budget pays for; nothing was computed
 +-- LedgerUnusable      a file is no ledger, or one of other data

InsecureNoise           a warning: noise that everybody can make again
"""

from __future__ import annotations


class PrivacyError(Exception):
    """The root of all errors of `privacy`."""


class SettingError(PrivacyError, ValueError):
    """A setting makes no sense, alone or together with another."""


class ModelRefused(PrivacyError, ValueError):
    """A model, loss, metric or callback cannot be private. The message names each and says why."""


class ModelChanged(PrivacyError, RuntimeError):
    """A model was changed after `make_private`: what was checked is no longer what would be trained."""


class SamplingRefused(PrivacyError, ValueError):
    """Data, or a batch, is not sampled the way that is accounted for."""


class BudgetSpent(PrivacyError):
    """More was asked for than the budget pays for. Nothing was computed."""


class LedgerUnusable(PrivacyError, ValueError):
    """A file is no ledger, or it is one of other data, of another unit of privacy, or with another budget."""


class InsecureNoise(UserWarning):
    """Noise has a seed: everybody who knows it can make the same again and take it off."""
