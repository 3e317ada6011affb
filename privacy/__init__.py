"""How much a result reveals about one person: differentially private training and its accounting. Knows no network and no parties.

Start with `engine.py`. Nothing here imports TensorFlow before a model is made private.
"""

from privacy import audit
from privacy.accounting import Accountant, calibrate
from privacy.clipping import AdaptiveClipping, Clipping, FlatClipping, PerLayerClipping
from privacy.engine import PrivacyEngine
from privacy.errors import BudgetSpent, ModelChanged, ModelRefused, PrivacyError, SamplingRefused, SettingError
from privacy.mechanisms import CentralGaussian, ClippedGaussian, LocalGaussian
from privacy.noise import GaussianNoise

__all__ = [
    "Accountant",
    "AdaptiveClipping",
    "BudgetSpent",
    "CentralGaussian",
    "ClippedGaussian",
    "Clipping",
    "FlatClipping",
    "GaussianNoise",
    "LocalGaussian",
    "ModelChanged",
    "ModelRefused",
    "PerLayerClipping",
    "PrivacyEngine",
    "PrivacyError",
    "SamplingRefused",
    "SettingError",
    "audit",
    "calibrate",
]
