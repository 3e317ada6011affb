"""Who trains with whom, and when: federated rounds of Keras models over the actors of `actors`.

Start reading in `federation.py` (the aggregator, what users write), then `rounds.py` (one round without a network) and `owner.py` (the
other side). `strategy.py`, `averaging.py` and `robust.py`: what becomes of the updates. Importing this package does not import Keras.
"""

from federated.aggregation import Aggregation, PlainMean, Tally
from federated.averaging import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedProx, FedYogi
from federated.errors import (
    ClusterFileError,
    DataError,
    FederatedError,
    FederationClosed,
    JoinRefused,
    KeysError,
    ModelRefused,
    OwnerDropped,
    SettingError,
    StepFailed,
    UpdateRejected,
)
from federated.federation import Federation
from federated.history import History
from federated.joining import JoiningOwners, joining_owners
from federated.membership import stay_joined
from federated.outcome import Outcome
from federated.owner import DataOwner, Owner
from federated.partition import Part, partition
from federated.robust import CoordinateMedian, Krum, MultiKrum, TrimmedMean
from federated.simulation import SimulatedOwners, simulated_owners
from federated.strategy import State, Strategy
from federated.update import Evaluation, LocalTraining, Task, Update, Weights

__all__ = [
    "Aggregation",
    "ClusterFileError",
    "CoordinateMedian",
    "DataError",
    "DataOwner",
    "Evaluation",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedProx",
    "FedYogi",
    "FederatedError",
    "Federation",
    "FederationClosed",
    "History",
    "JoinRefused",
    "JoiningOwners",
    "KeysError",
    "Krum",
    "LocalTraining",
    "ModelRefused",
    "MultiKrum",
    "Outcome",
    "Owner",
    "OwnerDropped",
    "Part",
    "PlainMean",
    "SettingError",
    "SimulatedOwners",
    "State",
    "StepFailed",
    "Strategy",
    "Tally",
    "Task",
    "TrimmedMean",
    "Update",
    "UpdateRejected",
    "Weights",
    "joining_owners",
    "partition",
    "simulated_owners",
    "stay_joined",
]
