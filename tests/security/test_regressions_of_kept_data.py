"""Regressions on data that their owners have left with the workers: of several owners, and within what these allow."""

import numpy as np
import pytest
from sklearn import linear_model

from inner_workers import inner_workers
from protocols import GradientBoostingRegressor, KMeans, LinearRegression, LogisticRegression, PoissonRegressor, RandomForestRegressor, Use
from protocols.errors import NotGranted

ROWS = 24


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 3))
    return x, x @ [[1.0], [-2.0], [0.5]] + rng.normal(size=(ROWS, 1))


@pytest.mark.parametrize("equals", [False, True])
async def test_rows_and_columns_of_several_owners(tmp_path, equals):
    x, y = data()
    theirs = linear_model.LinearRegression().fit(x, y)
    async with inner_workers(tmp_path, equals=equals) as (_, cluster):
        parts = {"north.x": x[:10], "north.y": y[:10], "south.x": x[10:], "south.y": y[10:], "lab.x": x[:, :2], "ward.x": x[:, 2:]}
        grants = [(await cluster.deposit(name, part)).to_give() for name, part in parts.items()]
        targets = await cluster.load("north.y", "south.y", grants=grants)
        for names, axis in ((("north.x", "south.x"), 0), (("lab.x", "ward.x"), 1)):
            ours = await LinearRegression(cluster).fit(await cluster.load(*names, axis=axis, grants=grants), targets)
            np.testing.assert_allclose(ours.coef_, theirs.coef_[0], atol=1e-3)
            np.testing.assert_allclose(ours.intercept_, theirs.intercept_[0], atol=1e-3)


async def test_weights_of_others_do_not_leave_a_single_example(tmp_path):
    """Whoever asks for several examples in a step is not asked for one with a weight of 1 among others with 0."""
    x, y = data()
    one = np.eye(ROWS)[3]
    async with inner_workers(tmp_path) as (inner, cluster):
        grant = (await cluster.deposit("ward", x, use=Use(min_batch=8))).to_give()
        kept = await cluster.load("ward", grants=grant)
        for honest in range(3):
            before = [dict(worker.holdings.stretches) for worker in inner]
            for place, worker in enumerate(inner):
                if place != honest:
                    worker.holdings.stretches.clear()
            for model, targets in ((LinearRegression(cluster), y), (LogisticRegression(cluster), (y[:, 0] > 0).astype(int))):
                with pytest.raises(NotGranted, match="without sample_weight and class_weight"):
                    await model.fit(kept, targets, one + 1e-3)
            for worker, stretches in zip(inner, before, strict=True):
                worker.holdings.stretches.update(stretches)
        close = linear_model.LinearRegression().fit(x, y)
        np.testing.assert_allclose((await LinearRegression(cluster).fit(kept, y)).coef_, close.coef_, atol=1e-3)
        with pytest.raises(NotGranted, match="a step has 5 examples"):
            await LogisticRegression(cluster, batch_size=5).fit(kept, (y[:, 0] > 0).astype(int))


async def test_sums_and_coefficients_go_to_those_only_whom_the_owner_names(tmp_path):
    x, y = data()
    async with inner_workers(tmp_path) as (_, cluster):
        grant = (await cluster.deposit("ward", x, use=Use(reveal_to=("somebody else",)))).to_give()
        kept = await cluster.load("ward", grants=grant)
        for model, targets in (
            (LinearRegression(cluster), y),
            (LogisticRegression(cluster), (y[:, 0] > 0).astype(int)),
            (LogisticRegression(cluster, learning_rate=0.1, max_iter=1), (y[:, 0] > 0).astype(int)),
        ):
            with pytest.raises(NotGranted, match="opened to somebody else only"):
                await model.fit(kept, targets)


@pytest.mark.parametrize("equals", [False, True])
async def test_trees_of_several_owners_and_not_where_single_examples_may_be_left(tmp_path, equals):
    x, y = data()
    async with inner_workers(tmp_path, equals=equals) as (inner, cluster):
        parts = {"lab": x[:, :2], "ward": x[:, 2:], "y": y}
        grants = [(await cluster.deposit(name, part)).to_give() for name, part in parts.items()]
        together, targets = await cluster.load("lab", "ward", axis=1, grants=grants), await cluster.load("y", grants=grants)
        for estimator in (GradientBoostingRegressor, RandomForestRegressor):
            ours = await estimator(cluster, n_estimators=3, max_bins=4, max_depth=2, **SEEDS.get(estimator, {})).fit(together, targets)
            assert ours.score(x, y[:, 0]) > 0.3
        grant = (await cluster.deposit("several", x, use=Use(min_batch=8))).to_give()
        kept = await cluster.load("several", grants=grant)
        for honest in range(3):
            before = [dict(worker.holdings.stretches) for worker in inner]
            for place, worker in enumerate(inner):
                if place != honest:
                    worker.holdings.stretches.clear()
            for estimator in (GradientBoostingRegressor, RandomForestRegressor):
                with pytest.raises(NotGranted, match="and no trees, clusters, or"):
                    await estimator(cluster, n_estimators=1, max_bins=4, max_depth=1).fit(kept, y[:, 0])
            with pytest.raises(NotGranted, match="and no trees, clusters, or"):
                await KMeans(cluster, n_clusters=2, init=np.eye(3)[:2]).fit(kept)
            with pytest.raises(NotGranted, match="and no trees, clusters, or"):
                await PoissonRegressor(cluster).fit(kept, np.arange(1.0, ROWS + 1))
            for worker, stretches in zip(inner, before, strict=True):
                worker.holdings.stretches.update(stretches)


SEEDS = {RandomForestRegressor: {"random_state": 0}, GradientBoostingRegressor: {"learning_rate": 0.5}}
