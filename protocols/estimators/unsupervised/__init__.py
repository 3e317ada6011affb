"""Estimators without targets on data that nobody sees, with scikit-learn's interface: PCA and k-means. Start with `pca.py`."""

from protocols.estimators.unsupervised.kmeans import KMeans
from protocols.estimators.unsupervised.pca import PCA

__all__ = ["PCA", "KMeans"]
