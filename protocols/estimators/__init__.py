"""Linear and logistic regression on data that nobody sees, with scikit-learn's interface. Start with `linear.py`.

    model = await LogisticRegression(cluster, C=10.0).fit(x, y)
    model.coef_, model.predict_proba(new_rows)

`x` and `y` are what `Cluster.store` or `Cluster.load` gave, or arrays, which are stored first and forgotten by the workers afterwards. The
fitted coefficients are opened to this process and to nobody else, so that `predict` is plain arithmetic here.

`fit` is awaited like everything in this library. With the blocking cluster of `protocols.keras_hook` it blocks and returns the estimator,
as in scikit-learn. scikit-learn is not needed; `sklearn.base.clone` and `get_params` work.
"""

from protocols.errors import PrecisionWarning
from protocols.estimators.linear import LinearRegression, Ridge
from protocols.estimators.logistic import LogisticRegression
from protocols.estimators.loglinear import GammaRegressor, PoissonRegressor
from protocols.estimators.settings import ConvergenceWarning

__all__ = [
    "ConvergenceWarning",
    "GammaRegressor",
    "LinearRegression",
    "LogisticRegression",
    "PoissonRegressor",
    "PrecisionWarning",
    "Ridge",
]
