"""Trees on data that nobody sees, with scikit-learn's interface: gradient boosting and random forests. Start with `boosting.py`."""

from protocols.estimators.trees.boosting import GradientBoostingClassifier, GradientBoostingRegressor
from protocols.estimators.trees.forest import RandomForestClassifier, RandomForestRegressor

__all__ = ["GradientBoostingClassifier", "GradientBoostingRegressor", "RandomForestClassifier", "RandomForestRegressor"]
