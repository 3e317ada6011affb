"""What the estimators run on shares: sums over all examples, logistic and log-linear regression, clusters. Start with `moments.py`.

Each is a plan as `protocols.training.step.Plan` is one: servers, dealer and terms of a run treat all of them alike.
"""

from protocols.training.regression.clusters import Clusters
from protocols.training.regression.logistic import Columns, Logistic
from protocols.training.regression.loglinear import LogLinear
from protocols.training.regression.moments import Moments

__all__ = ["Clusters", "Columns", "LogLinear", "Logistic", "Moments"]
