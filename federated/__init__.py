"""Who trains with whom, and when: federated rounds of Keras models over the actors of `actors`.

Start reading in `federation.py` (the aggregator, what users write), then `rounds.py` (one round without a network) and `owner.py` (the
other side). `strategy.py`, `averaging.py` and `robust.py`: what becomes of the updates. Importing this package does not import Keras.
"""

from federated.aggregation.aggregation import Aggregate, Aggregation, PlainMean
from federated.aggregation.secure_aggregation import SecureAggregation
from federated.aggregation.shared_aggregation import SharedAggregation
from federated.consent.admission import Policy
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
from federated.machines.aggregator import Aggregator
from federated.machines.joining import JoiningOwners, joining_owners
from federated.machines.membership import stay_joined
from federated.machines.node import computing_cluster
from federated.models.blueprint import blueprint_digest
from federated.models.weights import Frozen
from federated.owners.giver import Giver, OwnGiver
from federated.owners.hiding import Hiding
from federated.owners.holding import Holding
from federated.owners.masker import Masker, OwnMasker, Prepared
from federated.owners.owner import DataOwner, Owner
from federated.rounds.gathering import Gathering
from federated.rounds.outcome import Outcome
from federated.runs.federation import Federation
from federated.runs.history import History
from federated.simulation.engine import Engine, ThreadEngine
from federated.simulation.partition import Part, partition
from federated.simulation.process_engine import ProcessEngine
from federated.simulation.ray_engine import RayEngine
from federated.simulation.simulated import SimulatedOwners, simulated_owners
from federated.strategies.averaging import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedProx, FedSGD, FedYogi
from federated.strategies.corrected import SCAFFOLD, FedDyn
from federated.strategies.fedbuff import FedBuff
from federated.strategies.personal import Ditto, FedBN, PersonalLayers
from federated.strategies.robust import Bulyan, CoordinateMedian, Krum, MultiKrum, TrimmedMean
from federated.strategies.strategy import State, Strategy
from federated.strategies.updates import Asked, OwnerUpdate, Updates
from federated.strategies.weighted import FedNova, QFedAvg
from federated.tasks.update import Bound, Evaluation, LocalTraining, Task, Update, Weights
from federated.trainers.trained import OwnTrainer, Trained
from privacy import DPSGD, CentralGaussian, DistributedGaussian, LocalGaussian, TreeGaussian

__all__ = [
    "DPSGD",
    "SCAFFOLD",
    "Aggregate",
    "Aggregation",
    "Aggregator",
    "Asked",
    "Bound",
    "Bulyan",
    "CentralGaussian",
    "ClusterFileError",
    "CoordinateMedian",
    "DataError",
    "DataOwner",
    "DistributedGaussian",
    "Ditto",
    "Engine",
    "Evaluation",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedBN",
    "FedBuff",
    "FedDyn",
    "FedNova",
    "FedProx",
    "FedSGD",
    "FedYogi",
    "FederatedError",
    "Federation",
    "FederationClosed",
    "Frozen",
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
    "OwnTrainer",
    "Owner",
    "OwnerDropped",
    "OwnerFailed",
    "OwnerLate",
    "OwnerUpdate",
    "Part",
    "PersonalLayers",
    "PlainMean",
    "Policy",
    "Prepared",
    "ProcessEngine",
    "QFedAvg",
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
    "Trained",
    "TreeGaussian",
    "TrimmedMean",
    "Update",
    "UpdateHeldBack",
    "UpdateRejected",
    "Updates",
    "Weights",
    "blueprint_digest",
    "computing_cluster",
    "joining_owners",
    "partition",
    "simulated_owners",
    "stay_joined",
]
