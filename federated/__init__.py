"""Who trains with whom, and when: federated rounds of Keras models over the actors of `actors`.

Start reading in `federation.py` (the aggregator, what users write), then `rounds.py` (one round without a network) and `owner.py` (the
other side). `strategy.py`, `averaging.py` and `robust.py`: what becomes of the updates. Importing this package does not import Keras.
"""

from federated.admission import Policy
from federated.aggregation import Aggregate, Aggregation, PlainMean
from federated.aggregator import Aggregator
from federated.averaging import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedProx, FedSGD, FedYogi
from federated.blueprint import blueprint_digest
from federated.engine import Engine, Holding, ThreadEngine
from federated.errors import (
    ClusterFileError,
    DataError,
    FederatedError,
    FederationClosed,
    JoinRefused,
    KeysError,
    ModelRefused,
    OwnerDropped,
    OwnerFailed,
    OwnerLate,
    RunExists,
    SettingError,
    StepFailed,
    UpdateHeldBack,
    UpdateRejected,
)
from federated.fedbuff import FedBuff
from federated.federation import Federation
from federated.gathering import Gathering
from federated.giver import Giver, OwnGiver
from federated.hiding import Hiding
from federated.history import History
from federated.joining import JoiningOwners, joining_owners
from federated.masker import Masker, OwnMasker, Prepared
from federated.membership import stay_joined
from federated.node import computing_cluster
from federated.outcome import Outcome
from federated.owner import DataOwner, Owner
from federated.partition import Part, partition
from federated.process_engine import ProcessEngine
from federated.ray_engine import RayEngine
from federated.robust import CoordinateMedian, Krum, MultiKrum, TrimmedMean
from federated.secure_aggregation import SecureAggregation
from federated.shared_aggregation import SharedAggregation
from federated.simulation import SimulatedOwners, simulated_owners
from federated.strategy import State, Strategy
from federated.update import Bound, Evaluation, LocalTraining, Task, Update, Weights
from privacy import DPSGD, CentralGaussian, DistributedGaussian, LocalGaussian, TreeGaussian

__all__ = [
    "DPSGD",
    "Aggregate",
    "Aggregation",
    "Aggregator",
    "Bound",
    "CentralGaussian",
    "ClusterFileError",
    "CoordinateMedian",
    "DataError",
    "DataOwner",
    "DistributedGaussian",
    "Engine",
    "Evaluation",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedBuff",
    "FedProx",
    "FedSGD",
    "FedYogi",
    "FederatedError",
    "Federation",
    "FederationClosed",
    "Gathering",
    "Giver",
    "Hiding",
    "History",
    "Holding",
    "JoinRefused",
    "JoiningOwners",
    "KeysError",
    "Krum",
    "LocalGaussian",
    "LocalTraining",
    "Masker",
    "ModelRefused",
    "MultiKrum",
    "Outcome",
    "OwnGiver",
    "OwnMasker",
    "Owner",
    "OwnerDropped",
    "OwnerFailed",
    "OwnerLate",
    "Part",
    "PlainMean",
    "Policy",
    "Prepared",
    "ProcessEngine",
    "RayEngine",
    "RunExists",
    "SecureAggregation",
    "SettingError",
    "SharedAggregation",
    "SimulatedOwners",
    "State",
    "StepFailed",
    "Strategy",
    "Task",
    "ThreadEngine",
    "TreeGaussian",
    "TrimmedMean",
    "Update",
    "UpdateHeldBack",
    "UpdateRejected",
    "Weights",
    "blueprint_digest",
    "computing_cluster",
    "joining_owners",
    "partition",
    "simulated_owners",
    "stay_joined",
]
