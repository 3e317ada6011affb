"""PCA, k-means, Poisson and gamma regression at workers, on arrays and on what others have stored."""

import numpy as np
from sklearn import cluster as theirs
from sklearn import datasets, decomposition, linear_model

from protocols import PCA, GammaRegressor, KMeans, PoissonRegressor


async def test_components(cluster):
    x = datasets.load_iris().data
    for given in (x, await cluster.store("x", x)):
        ours = await PCA(cluster, n_components=2).fit(given)
        np.testing.assert_allclose(ours.explained_variance_, decomposition.PCA(2).fit(x).explained_variance_, rtol=1e-3)


async def test_centres(cluster):
    x = datasets.load_iris().data
    expected = theirs.KMeans(3, init=x[[0, 60, 120]], n_init=1, tol=0).fit(x)
    for given in (x, await cluster.store("x", x)):
        ours = await KMeans(cluster, n_clusters=3, init=x[[0, 60, 120]], tol=0).fit(given)
        np.testing.assert_allclose(ours.cluster_centers_, expected.cluster_centers_, atol=1e-3)


async def test_means_of_counts_and_of_amounts(cluster):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    y = rng.poisson(np.exp(x[:, 0] + 1)) + 1.0
    stored = await cluster.store("x", x), await cluster.store("y", y)
    for ours, expected in ((PoissonRegressor, linear_model.PoissonRegressor), (GammaRegressor, linear_model.GammaRegressor)):
        reference = expected(tol=1e-9).fit(x, y)
        for given in ((x, y), stored):
            np.testing.assert_allclose((await ours(cluster).fit(*given)).coef_, reference.coef_, atol=3e-3)
