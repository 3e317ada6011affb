"""What several parties can compute without seeing it.

Start reading at `program.py` (what is computed), `exchange.py` (how a protocol is written), `linear.py` and `selection.py` (the
protocols themselves), `dealer.py` (the third party's mathematics); then `shared_model.py` and `remote_model.py` for the flow. README.md
has a picture.

Importing this package imports neither TensorFlow nor Keras.
"""

from protocols.client.connection import connect
from protocols.client.remote_model import RemoteModel
from protocols.clusters.worker import Worker
from protocols.datasets.use import Use
from protocols.errors import ProtocolError
from protocols.estimators import (
    ConvergenceWarning,
    GammaRegressor,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    PrecisionWarning,
    Ridge,
)
from protocols.estimators.trees import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from protocols.estimators.unsupervised import PCA, KMeans
from protocols.noisy_answers import NoisyAnswers
from protocols.owner.cluster import Cluster
from protocols.owner.placement import share
from protocols.owner.shared_model import SharedModel

__all__ = [
    "PCA",
    "Cluster",
    "ConvergenceWarning",
    "GammaRegressor",
    "GradientBoostingClassifier",
    "GradientBoostingRegressor",
    "KMeans",
    "LinearRegression",
    "LogisticRegression",
    "NoisyAnswers",
    "PoissonRegressor",
    "PrecisionWarning",
    "ProtocolError",
    "RandomForestClassifier",
    "RandomForestRegressor",
    "RemoteModel",
    "Ridge",
    "SharedModel",
    "Use",
    "Worker",
    "connect",
    "share",
]
