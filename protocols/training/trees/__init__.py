"""Trees on shares: gradient boosting and random forests, grown level by level from histograms. Start with `boosting.py`.

Each is a plan as `protocols.training.step.Plan` is one: a step grows one tree, or one for each class, on all examples.
"""

from protocols.training.trees.binning import Binning, Counts
from protocols.training.trees.boosting import Boosting
from protocols.training.trees.forest import Forest

__all__ = ["Binning", "Boosting", "Counts", "Forest"]
