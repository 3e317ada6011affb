"""How much a result reveals about one person: differentially private training and its accounting. Knows no network and no parties.

Start with `engine.py`. Nothing here imports TensorFlow before a model is made private.
"""

from privacy import audit
from privacy.accounting import Accountant, calibrate
from privacy.clipping import AdaptiveClipping, Clipping, FlatClipping, PerLayerClipping
from privacy.engine import PrivacyEngine
from privacy.errors import (
    BudgetSpent,
    InsecureNoise,
    LedgerUnusable,
    ModelChanged,
    ModelRefused,
    PrivacyError,
    SamplingRefused,
    SettingError,
)
from privacy.ledger import Ledger, Release
from privacy.mechanisms import DPSGD, CentralGaussian, ClippedGaussian, DistributedGaussian, LocalGaussian, TreeGaussian
from privacy.queries import mechanism
from privacy.randomness.noise import GaussianNoise

__all__ = [
    "DPSGD",
    "Accountant",
    "AdaptiveClipping",
    "BudgetSpent",
    "CentralGaussian",
    "ClippedGaussian",
    "Clipping",
    "DistributedGaussian",
    "FlatClipping",
    "GaussianNoise",
    "InsecureNoise",
    "Ledger",
    "LedgerUnusable",
    "LocalGaussian",
    "ModelChanged",
    "ModelRefused",
    "PerLayerClipping",
    "PrivacyEngine",
    "PrivacyError",
    "Release",
    "SamplingRefused",
    "SettingError",
    "TreeGaussian",
    "audit",
    "calibrate",
    "mechanism",
]
