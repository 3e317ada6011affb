"""What can go wrong in `privacy`.

PrivacyError
 +-- SettingError        a setting that makes no sense, alone or together with another (also a ValueError)
 +-- ModelRefused        a model, loss, metric or callback that cannot be private, and why (also a ValueError)
 +-- ModelChanged        a model was changed after `make_private` (also a RuntimeError)
 +-- SamplingRefused     data, or a batch, that is not sampled the way that is accounted for (also a ValueError)
 +-- BudgetSpent         more steps than the budget pays for; nothing was computed
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
    """More steps than the budget pays for were asked for. Nothing was computed."""
