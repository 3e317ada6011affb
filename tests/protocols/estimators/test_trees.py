"""Trees in the simulator: the splits of plain numpy, accuracy beside scikit-learn, on its data sets, raw and scaled, of others too."""

import numpy as np
import pytest
import tree_oracle
from simulated_run import SimulatedRun, stored
from sklearn import datasets, ensemble
from training_deployment import Trainers

from protocols import GradientBoostingClassifier, GradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
from protocols.errors import InputError
from protocols.estimators.trees import boosting, forest
from protocols.estimators.trees.bins import Bins, Quantiles
from protocols.training.trees import Boosting


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    monkeypatch.setattr(boosting, "Run", SimulatedRun)
    monkeypatch.setattr(forest, "Run", SimulatedRun)


def cancer():
    return datasets.load_breast_cancer(return_X_y=True)


def some_digits(n=400):
    x, y = datasets.load_digits(return_X_y=True)
    return x[:n], y[:n]


def spread(tree, bins):
    """The numbers of its splits, as the oracle has them."""
    known = {
        (feature, threshold): 1 + at for at, (feature, threshold) in enumerate(zip(bins.features, bins.thresholds.tolist(), strict=True))
    }
    return [known.get(split, 0) for split in zip(tree.feature.tolist(), tree.threshold.tolist(), strict=True)]


def compared(ours, x, y, w=None, bins=None, **settings):
    """Boosted trees beside those of the oracle: every split, every leaf."""
    bins = Bins.of(x, ours.max_bins) if bins is None else bins
    terms = {"rate": ours.learning_rate, "penalty": ours.reg_lambda, "weight": ours.min_child_weight} | settings
    loss = terms.pop("loss", "crossentropy")
    splits, leaves, scores = tree_oracle.boost(
        bins.bits(x).astype(float), y, loss, ours.n_estimators, ours.max_depth, base=ours.init_, w=w, **terms
    )
    for trees, expected, values in zip(ours.estimators_, splits, leaves, strict=True):
        for tree, one, value in zip(trees, expected, values, strict=True):
            assert spread(tree, bins) == one.tolist()
            np.testing.assert_allclose(tree.value[:, 0], value, atol=1e-4 * max(1, np.abs(value).max()))
    return scores


async def test_breast_cancer_has_the_splits_of_the_clear_and_the_accuracy_of_scikit_learn():
    x, y = cancer()
    ours = await GradientBoostingClassifier(object(), n_estimators=8, learning_rate=0.3, max_bins=16).fit(x, y)
    scores = compared(ours, x, y[:, None] * 1.0)
    np.testing.assert_allclose(ours.decision_function(x), scores[:, 0], atol=1e-4)
    theirs = ensemble.HistGradientBoostingClassifier(max_iter=8, learning_rate=0.3, max_depth=3, max_bins=16, l2_regularization=1.0).fit(
        x, y
    )
    assert abs(ours.score(x, y) - theirs.score(x, y)) < 0.012
    assert ours.score(x, y) > 0.98


async def test_digits_have_the_splits_of_the_clear_in_a_tree_for_each_class():
    x, y = some_digits()
    ours = await GradientBoostingClassifier(object(), n_estimators=3, learning_rate=0.5, max_depth=2, max_bins=8).fit(x, y)
    assert [len(trees) for trees in ours.estimators_] == [10] * 3
    compared(ours, x, np.eye(10)[y])
    theirs = ensemble.HistGradientBoostingClassifier(
        max_iter=3, learning_rate=0.5, max_depth=2, max_bins=8, l2_regularization=1.0, min_samples_leaf=1
    ).fit(x, y)
    assert abs(ours.score(x, y) - theirs.score(x, y)) < 0.03


@pytest.mark.long
async def test_all_digits():
    x, y = datasets.load_digits(return_X_y=True)
    ours = await GradientBoostingClassifier(object(), n_estimators=10, learning_rate=0.3, max_bins=16).fit(x[:1200], y[:1200])
    compared(ours, x[:1200], np.eye(10)[y[:1200]])
    theirs = ensemble.HistGradientBoostingClassifier(max_iter=10, learning_rate=0.3, max_depth=3, max_bins=16, l2_regularization=1.0)
    assert ours.score(x[1200:], y[1200:]) > theirs.fit(x[:1200], y[:1200]).score(x[1200:], y[1200:]) - 0.02


@pytest.mark.parametrize("scaled", [False, True])
async def test_numbers_are_boosted_as_in_the_clear_whatever_their_scale(scaled):
    x, y = datasets.load_diabetes(return_X_y=True)
    x, y = (x, y) if scaled else (x * 10.0 ** np.arange(-4, 6), y * 1e5 - 1e7)
    ours = await GradientBoostingRegressor(object(), n_estimators=6, learning_rate=0.3, max_bins=12, min_child_weight=5).fit(x, y)
    at = ours._targets
    compared(ours, x, ((y - at.center) * at.factor)[:, None], loss="mse")
    theirs = ensemble.HistGradientBoostingRegressor(
        max_iter=6, learning_rate=0.3, max_depth=3, max_bins=12, l2_regularization=1.0, min_samples_leaf=5
    ).fit(x, y)
    assert abs(ours.score(x, y) - theirs.score(x, y)) < 0.02


@pytest.mark.parametrize("settings", [{"reg_lambda": 0.0, "min_child_weight": 0.1}, {"reg_lambda": 50.0}, {"learning_rate": 1.0}], ids=str)
async def test_penalties_of_all_strengths(settings):
    x, y = cancer()
    ours = await GradientBoostingClassifier(object(), n_estimators=4, max_bins=8, max_depth=2, **settings).fit(x, y)
    compared(ours, x, y[:, None] * 1.0)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("settings", [{}, {"n_estimators": 1, "learning_rate": 0.01}], ids=str)
async def test_a_few_examples_and_small_steps(classes, settings):
    """Sums of Hessians are little beside penalties then, and scores smaller than where the exponential ends."""
    for n in (classes, 6):
        x, y = np.random.default_rng(n).normal(size=(n, 3)), np.arange(n) % classes
        ours = await GradientBoostingClassifier(object(), **{"n_estimators": 2, "max_depth": 2, "max_bins": 8} | settings).fit(x, y)
        compared(ours, x, np.eye(classes)[y] if classes > 2 else y[:, None] * 1.0)


async def test_weights_of_examples_and_classes():
    x, y = cancer()
    w = np.random.default_rng(0).integers(0, 4, len(x)).astype(float)
    ours = await GradientBoostingClassifier(object(), n_estimators=2, max_bins=8, max_depth=2, class_weight={0: 3.0}).fit(x, y, w)
    compared(ours, x, y[:, None] * 1.0, w * np.where(y == 0, 3.0, 1.0))
    ours = await GradientBoostingRegressor(object(), n_estimators=2, max_bins=8, max_depth=2).fit(x, x[:, 3], w)
    at = ours._targets
    compared(ours, x, ((x[:, 3] - at.center) * at.factor)[:, None], w, loss="mse")


async def test_data_of_others_are_binned_and_grown_without_being_seen():
    x, y = cancer()
    x = (x - x.mean(0)) / x.std(0)
    w = np.random.default_rng(0).uniform(0.2, 1.0, len(x))
    given = stored("x", x), stored("y", y), stored("w", w)
    ours = await GradientBoostingClassifier(object(), n_estimators=2, max_bins=8, max_depth=2).fit(*given)
    fine = np.round(x * 2.0**16) / 2.0**16
    used = sorted({(f, t) for trees in ours.estimators_ for f, t in zip(trees[0].feature, trees[0].threshold, strict=True) if f >= 0})
    for feature, threshold in used:  # each is a quantile of eighths, or nearly
        part = (fine[:, feature] <= threshold).mean() * 8
        assert abs(part - round(part)) <= 1 / 8 + 8 / len(x)
    here = await GradientBoostingClassifier(object(), n_estimators=2, max_bins=8, max_depth=2).fit(x, y, w)
    assert abs(ours.score(x, y) - here.score(x, y)) < 0.015


async def test_targets_of_others():
    x, y = datasets.load_diabetes(return_X_y=True)
    y = (y - y.mean()) / y.std()
    ours = await GradientBoostingRegressor(object(), n_estimators=3, max_bins=8, max_depth=2).fit(x, stored("y", y))
    here = await GradientBoostingRegressor(object(), n_estimators=3, max_bins=8, max_depth=2).fit(x, y)
    np.testing.assert_allclose(ours.predict(x), here.predict(x), atol=1e-3)
    far = np.where(np.arange(len(y)) == 3, 17.0, y)
    for estimator in (GradientBoostingRegressor, RandomForestRegressor):
        with pytest.raises(InputError, match=r"beyond \+-16: have its owner scale targets"):
            await estimator(object(), n_estimators=1, max_bins=4, max_depth=1).fit(x, stored("y", far))


def drawn(ours, x, y, seen):
    """A forest beside the oracle, on the draws that were placed."""
    bins, (draws, allowed) = Bins.of(x, ours.max_bins), seen
    for at, tree in enumerate(ours.estimators_):
        nodes = None if allowed is None else allowed[at].reshape(-1, x.shape[1])[:, list(bins.features)] > 0
        d = draws[at].astype(float) * 2.0**-16
        splits, leaves, _ = tree_oracle.grow(
            bins.bits(x).astype(float), d[:, None] * y, d, ours.max_depth, 0.0, ours.min_samples_leaf, 2.0**-40, nodes
        )
        assert spread(tree, bins) == splits.tolist()
        np.testing.assert_allclose(tree.value, leaves, atol=1e-5)


@pytest.fixture
def seen(monkeypatch):
    """What a fit places."""
    found = []

    class Seeing(SimulatedRun):
        async def grown(self, plan, data, placed, compared, memory):
            found[:] = [placed["draws"], placed.get("allowed")]
            return await super().grown(plan, data, placed, compared, memory)

    monkeypatch.setattr(forest, "Run", Seeing)
    return found


@pytest.mark.parametrize("settings", [{}, {"max_features": None, "bootstrap": False, "n_estimators": 1}, {"min_samples_leaf": 20}], ids=str)
async def test_a_forest_has_the_trees_of_the_clear(settings, seen):
    x, y = datasets.load_wine(return_X_y=True)
    terms = {"n_estimators": 3, "max_bins": 8, "max_depth": 3, "random_state": 0} | settings
    ours = await RandomForestClassifier(object(), **terms).fit(x, y)
    drawn(ours, x, np.eye(3)[y], seen)
    assert ours.score(x, y) > 0.85
    again = await RandomForestClassifier(object(), **terms).fit(x, y)
    np.testing.assert_allclose(ours.predict_proba(x), again.predict_proba(x), atol=1e-6)


async def test_a_forest_for_numbers(seen):
    x, y = datasets.load_diabetes(return_X_y=True)
    ours = await RandomForestRegressor(object(), n_estimators=6, max_bins=8, max_depth=3, min_samples_leaf=3, random_state=1).fit(x, y)
    at = ours._targets
    drawn(ours, x, ((y - at.center) * at.factor)[:, None] / at.reach, seen)
    theirs = ensemble.RandomForestRegressor(6, max_depth=3, min_samples_leaf=3, random_state=0).fit(x, y)
    assert abs(ours.score(x, y) - theirs.score(x, y)) < 0.07


async def test_a_forest_is_as_good_as_that_of_scikit_learn():
    x, y = cancer()
    ours = await RandomForestClassifier(object(), n_estimators=10, max_bins=8, max_depth=4, random_state=0).fit(x[:400], y[:400])
    theirs = ensemble.RandomForestClassifier(100, max_depth=4, random_state=0).fit(x[:400], y[:400])
    assert ours.score(x[400:], y[400:]) > theirs.score(x[400:], y[400:]) - 0.03


async def test_nothing_is_split_where_nothing_is_gained():
    x = np.random.default_rng(0).normal(size=(40, 2))
    ours = await GradientBoostingRegressor(object(), n_estimators=2, max_bins=4, max_depth=2).fit(x, np.full(40, 7.5))
    assert all((tree.feature == -1).all() for trees in ours.estimators_ for tree in trees)
    np.testing.assert_allclose(ours.predict(x), 7.5)
    ours = await RandomForestClassifier(object(), n_estimators=2, max_bins=4, max_depth=2).fit(np.ones((40, 2)), np.arange(40) % 2)
    assert all((tree.feature == -1).all() for tree in ours.estimators_)
    np.testing.assert_allclose(ours.predict_proba(np.ones((3, 2))).sum(1), 1.0)


async def test_the_most_confident_mistakes_do_not_wrap_around():
    """Labels that no feature explains, a rate of 1 and no penalty: values of leaves as large as they can be."""
    x = np.repeat(np.eye(4), 8, 0)
    y = np.arange(32) % 8 == 0
    ours = await GradientBoostingClassifier(
        object(), n_estimators=12, learning_rate=1.0, reg_lambda=0.0, min_child_weight=0.001, max_bins=4, max_depth=2
    ).fit(x, np.where(np.arange(32) < 8, True, y))
    assert np.isfinite(ours.predict_proba(x)).all()
    assert max(np.abs(tree.value).max() for trees in ours.estimators_ for tree in trees) <= 64 + 1e-3
    assert ours.score(x, np.where(np.arange(32) < 8, True, y)) > 0.9


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"x": "nan"}, r"x has NaN or infinite values in columns \[1\]"),
        ({"x": "text"}, "x is made of <U1: numbers are needed"),
        ({"y": "short"}, "569 of x, 566 of y: they must be as many"),
        ({"y": "one"}, "y has one label only, 1: labels of at least two classes"),
        ({"y": "parts"}, "fractional values"),
        ({"w": -1.0}, "sample_weight has values below 0"),
        ({"max_depth": 11}, "max_depth=11; a whole number from 1 to 10"),
        ({"max_depth": None}, "max_depth=None; a whole number from 1 to 10"),
        ({"n_estimators": 0}, "n_estimators=0"),
        ({"max_bins": 1}, "max_bins=1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0; a number above 0"),
        ({"reg_lambda": float("nan")}, "reg_lambda=nan"),
        (
            {"reg_lambda": 0.0, "min_child_weight": 0.0},
            "over the largest weight of an example, do not fit 569 examples: their sum must be at least",
        ),
        ({"class_weight": {5: 1.0}}, r"class_weight names \[5\]"),
    ],
    ids=str,
)
async def test_what_cannot_be_is_refused(change, match):
    x, y = cancer()
    settings = {name: value for name, value in change.items() if name not in ("x", "y", "w")}
    w = np.full(len(x), change["w"]) if "w" in change else None
    match change:
        case {"x": "nan"}:
            x[4, 1] = np.nan
        case {"x": "text"}:
            x = np.full(x.shape, "a")
        case {"y": "short"}:
            y = y[:-3]
        case {"y": "one"}:
            y = np.ones(len(y), int)
        case {"y": "parts"}:
            y = y + 0.5
    with pytest.raises(InputError, match=match):
        await GradientBoostingClassifier(object(), **settings).fit(x, y, w)


@pytest.mark.parametrize(
    ("estimator", "settings", "match"),
    [
        (RandomForestClassifier, {"max_features": 31}, "max_features=31; from 1 to 30"),
        (RandomForestClassifier, {"max_features": "auto"}, "max_features='auto'"),
        (RandomForestClassifier, {"bootstrap": "yes"}, "bootstrap='yes'"),
        (RandomForestClassifier, {"random_state": 0.5}, "random_state=0.5"),
        (RandomForestRegressor, {"min_samples_leaf": 0}, "min_samples_leaf=0"),
    ],
)
async def test_what_a_forest_cannot_is_refused(estimator, settings, match):
    with pytest.raises(InputError, match=match):
        await estimator(object(), **settings).fit(*cancer())
    with pytest.raises(TypeError, match="has no setting 'criterion'"):
        estimator(object(), criterion="entropy")


@pytest.mark.parametrize("kind", ["normal", "skewed", "few values", "constant"])
def test_quantiles_are_found_by_counting(kind):
    rng = np.random.default_rng(0)
    x = {
        "normal": rng.normal(size=500),
        "skewed": np.exp(2 * rng.normal(size=500)),
        "few values": rng.integers(0, 3, 500) * 1.0,
        "constant": np.full(500, -511.0),
    }[kind]
    whole = np.round(x * 2**16).astype(np.int64)
    search, passes = Quantiles(1, 500, 8), 0
    while not search.done:
        probes, passes = search.probes(), passes + 1
        search.told(probes, (whole[:, None] <= probes[0]).sum(0)[None])
    assert passes <= 16
    counts = (x[:, None] <= search.bins().thresholds).sum(0)
    if kind == "few values":
        assert counts.tolist() == [(x <= 0).sum(), (x <= 1).sum()]
    elif kind == "constant":
        assert counts.tolist() == [500]
    else:
        assert np.abs(counts - 500 * np.arange(1, 8) / 8).max() <= 500 / 64


@pytest.mark.parametrize(("depth", "rounds"), [(1, 81), (2, 125)])
def test_rounds_follow_from_settings_alone(depth, rounds):
    plan = Boosting(100, 1, "binary_crossentropy", 50, 100, depth, 1, 0.1, 1.0, 1.0, 1.0, 1.0)
    given = {name: np.zeros(shape, np.uint64) for name, shape in (plan.shapes | plan.states).items()}
    given |= {"x": np.tri(50, 100, dtype=np.uint64), "y": np.zeros((50, 1), np.uint64)}
    found = Trainers(plan.circuit(50)).run(given)
    assert found.rounds == rounds
    assert found.sent == Trainers(plan.circuit(50), "other").run(given | {"x": np.ones((50, 100), np.uint64)}).sent
