"""PCA and k-means in the simulator, beside scikit-learn, on its data sets, raw and scaled, and on what others have stored."""

import numpy as np
import pytest
from simulated_run import SimulatedRun, stored
from sklearn import cluster, datasets, decomposition
from sklearn.metrics import adjusted_rand_score

from protocols import PCA, KMeans
from protocols.errors import InputError
from protocols.estimators.unsupervised import kmeans, pca
from protocols.training.regression.clusters import COLUMNS


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    monkeypatch.setattr(pca, "Run", SimulatedRun)
    monkeypatch.setattr(kmeans, "Run", SimulatedRun)


@pytest.mark.parametrize("loader", [datasets.load_iris, datasets.load_wine, datasets.load_breast_cancer, datasets.load_diabetes])
async def test_components_are_those_of_scikit_learn(loader):
    x = loader().data
    ours, theirs = await PCA(object(), n_components=3).fit(x), decomposition.PCA(3).fit(x)
    for name in ("explained_variance_", "explained_variance_ratio_", "singular_values_", "mean_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-6 * x.std())
    signs = np.sign((ours.components_ * theirs.components_).sum(1))[:, None]
    np.testing.assert_allclose(ours.components_ * signs, theirs.components_, atol=2e-5)
    largest = np.abs(ours.components_).argmax(1)
    assert (ours.components_[np.arange(3), largest] > 0).all()
    far = np.abs(theirs.transform(x)).max()
    np.testing.assert_allclose(ours.transform(x) * signs.T, theirs.transform(x), atol=1e-4 * far)
    np.testing.assert_allclose(ours.inverse_transform(ours.transform(x)), theirs.inverse_transform(theirs.transform(x)), atol=1e-4 * far)


async def test_components_of_what_others_have_stored():
    x = datasets.load_iris().data
    ours, theirs = await PCA(object()).fit(stored("x", x)), decomposition.PCA().fit(x)
    np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_, rtol=1e-3)
    np.testing.assert_allclose(np.abs((ours.components_ * theirs.components_).sum(1)), 1.0, atol=1e-4)
    constant = await PCA(object(), n_components=1).fit(np.c_[x[:, 0], np.full(len(x), 1e9)])
    np.testing.assert_allclose(constant.components_, [[1.0, 0.0]], atol=1e-9)


def same(ours, theirs, atol):
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, atol=atol)
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-3)
    assert ours.counts_.tolist() == np.bincount(theirs.labels_, minlength=len(ours.counts_)).tolist()


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("shared", [False, True])
async def test_centres_from_the_same_start_are_those_of_scikit_learn(scaled, shared):
    x = datasets.load_iris().data
    x = (x - x.mean(0)) / x.std(0) if scaled else x
    start = x[[0, 60, 120]]
    theirs = cluster.KMeans(3, init=start, n_init=1, tol=0).fit(x)
    ours = await KMeans(object(), n_clusters=3, init=start, tol=0).fit(stored("x", x) if shared else x)
    same(ours, theirs, 1e-3)
    assert (ours.predict(x) == theirs.labels_).mean() > 0.99
    np.testing.assert_allclose(ours.transform(x), theirs.transform(x), atol=1e-2)


async def test_raw_tables_of_any_scale():
    x = datasets.load_wine().data * 1e4 + 1e6
    start = x[[0, 60, 120]]
    theirs = cluster.KMeans(3, init=start, n_init=1, tol=0).fit(x)
    ours = await KMeans(object(), n_clusters=3, init=start, tol=0).fit(x)
    same(ours, theirs, 1e-3 * x.std())


async def test_random_starts():
    x, y = datasets.make_blobs(150, centers=[[0, 0], [6, 0], [0, 6]], random_state=0)
    ours = await KMeans(object(), n_clusters=3, random_state=1).fit(x)
    assert adjusted_rand_score(y, ours.predict(x)) > 0.95
    again = await KMeans(object(), n_clusters=3, random_state=1).fit(x)
    np.testing.assert_allclose(ours.cluster_centers_, again.cluster_centers_, atol=1e-3)


async def test_a_centre_without_examples_stays_and_little_time_is_told():
    x = datasets.load_iris().data
    ours = await KMeans(object(), n_clusters=2, init=[x.mean(0), [20.0] * 4], n_init=1).fit(x)
    assert ours.counts_.tolist() == [150, 0]
    np.testing.assert_allclose(ours.cluster_centers_[1], 20.0, atol=1e-4)
    with pytest.warns(UserWarning, match="KMeans has not converged in 1 iterations"):
        await KMeans(object(), n_clusters=3, init=x[:3], max_iter=1).fit(x)


async def test_the_largest_numbers_do_not_wrap_around():
    """As many columns as there may be, all at the edge of what can be stored."""
    x = np.full((6, COLUMNS), 511.9)
    x[3:] *= -1
    init = np.vstack([np.full(COLUMNS, 500.0), np.full(COLUMNS, -500.0)])
    ours = await KMeans(object(), n_clusters=2, init=init).fit(stored("x", x))
    assert ours.counts_.tolist() == [3, 3]
    np.testing.assert_allclose(ours.cluster_centers_, x[[0, 3]], atol=1e-3)


@pytest.mark.parametrize(
    ("estimator", "settings", "x", "match"),
    [
        (PCA, {"n_components": 5}, None, "n_components=5; at most 4 are possible"),
        (PCA, {"n_components": 0.5}, None, "n_components=0.5"),
        (PCA, {}, [[1.0, np.nan], [0.0, 0.0]], "NaN"),
        (PCA, {}, [[1.0, 2.0]], "one example"),
        (KMeans, {"n_clusters": 1}, None, "n_clusters=1"),
        (KMeans, {"init": "k-means++"}, None, "on shares there is 'random'"),
        (KMeans, {"n_clusters": 3, "init": np.zeros((2, 4))}, None, r"init has shape \(2, 4\); \(3, 4\)"),
        (KMeans, {"tol": -1}, None, "tol=-1"),
        (KMeans, {}, [["a"], ["b"]], "numbers are needed"),
        (KMeans, {"n_clusters": 3}, [[0.0], [1.0]], "no more centres than examples"),
    ],
    ids=str,
)
async def test_what_cannot_be_is_refused(estimator, settings, x, match):
    with pytest.raises(InputError, match=match):
        await estimator(object(), **settings).fit(datasets.load_iris().data if x is None else x)
    with pytest.raises(InputError, match="no targets and no weights"):
        estimator(object()).fit([[1.0]], [1])
