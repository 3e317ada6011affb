"""How gradients move weights: the public settings of an optimizer and its operations on shares. Start with `update.py`."""

from protocols.training.networks.optimizers.adaptive import Adam, Adamax, Adaptive, Nadam
from protocols.training.networks.optimizers.clipping import Clip
from protocols.training.networks.optimizers.constraints import Constraint
from protocols.training.networks.optimizers.descent import GradientDescent, reach
from protocols.training.networks.optimizers.lion import Lion
from protocols.training.networks.optimizers.penalties import Penalty, penalised
from protocols.training.networks.optimizers.rates import Gradients, Shapes, changes, factor, rates
from protocols.training.networks.optimizers.squares import Adadelta, Adagrad, RMSprop
from protocols.training.networks.optimizers.update import Optimizer, exact, norms_of, pieces, prepared, update
from protocols.training.networks.optimizers.watching import watched_sums

__all__ = [
    "Adadelta",
    "Adagrad",
    "Adam",
    "Adamax",
    "Adaptive",
    "Clip",
    "Constraint",
    "GradientDescent",
    "Gradients",
    "Lion",
    "Nadam",
    "Optimizer",
    "Penalty",
    "RMSprop",
    "Shapes",
    "changes",
    "exact",
    "factor",
    "norms_of",
    "penalised",
    "pieces",
    "prepared",
    "rates",
    "reach",
    "update",
    "watched_sums",
]
