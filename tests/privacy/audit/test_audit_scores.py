"""Canaries, scores and the membership attack."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from gradient_oracle import each_gradient, flat_weights
from privacy import PrivacyEngine, SamplingRefused, SettingError, audit

layers = keras.layers
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def data(count, width=20, classes=3, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(count, width)).astype(np.float32), random.integers(0, classes, count)


def small(width=20, classes=3, loss=SPARSE, activation=None):
    model = keras.Sequential([keras.Input((width,)), layers.Dense(16, activation="tanh"), layers.Dense(classes, activation=activation)])
    model.compile(keras.optimizers.SGD(0.5), loss)
    return model


# Canaries


def test_each_canary_is_included_by_a_coin_of_its_own():
    x, y = data(4000)
    one, two = (audit.Canaries.of(x, y).included for _ in range(2))
    assert one.shape == (4000,)
    assert abs(one.mean() - 0.5) < 0.05  # 6 standard errors
    assert abs(np.mean(one == two) - 0.5) < 0.05  # another secret every time
    assert abs(np.mean(one[1:] == one[:-1]) - 0.5) < 0.05


def test_a_seed_repeats_the_coins_and_the_labels():
    x, y = data(50)
    one, two, other = (audit.Canaries.mislabelled(x, y, seed=seed) for seed in (3, 3, 4))
    assert (one.included == two.included).all()
    assert (one.y == two.y).all()
    assert (one.included != other.included).any()


def test_the_included_canaries_are_added_and_no_others():
    x, y = data(30)
    spare = data(9, seed=1)
    canaries = audit.Canaries.of(*spare)
    mixed_x, mixed_y = canaries.mix(x, y)
    np.testing.assert_array_equal(mixed_x, np.concatenate([x, spare[0][canaries.included]]))
    np.testing.assert_array_equal(mixed_y, np.concatenate([y, spare[1][canaries.included]]))
    assert mixed_x.dtype == np.float32


def test_nests_of_inputs():
    x, y = data(9)
    canaries = audit.Canaries.of({"a": x, "b": 2 * x}, y)
    mixed, _ = canaries.mix({"a": x, "b": x}, y)
    np.testing.assert_array_equal(mixed["b"][9:], 2 * x[canaries.included])


def test_wrong_labels_are_wrong_and_of_every_other_class():
    x, y = data(600)
    for given in (y, y[:, None], y.astype(np.uint8)):
        canaries = audit.Canaries.mislabelled(x, given)
        assert canaries.y.shape == given.shape
        assert canaries.y.dtype == given.dtype
        assert (canaries.y != given).all()
        assert {(int(a), int(b)) for a, b in zip(given.ravel(), canaries.y.ravel(), strict=True)} == {
            (a, b) for a in range(3) for b in range(3) if a != b
        }
    one_hot = audit.Canaries.mislabelled(x, np.eye(3, dtype=np.float32)[y]).y
    assert (one_hot.sum(axis=1) == 1).all()
    assert (one_hot.argmax(axis=1) != y).all()


def test_noise_looks_like_the_examples():
    x, y = data(100, width=500)
    canaries = audit.Canaries.noise(3 + 2 * x, y, count=40)
    assert canaries.x.shape == (40, 500)
    assert canaries.x.dtype == np.float32
    assert abs(canaries.x.mean() - 3) < 0.1
    assert abs(canaries.x.std() - 2) < 0.1
    assert set(canaries.y) == {0, 1, 2}


def test_the_coins_are_not_shown():
    assert repr(audit.Canaries.of(*data(5))) == "<5 canaries>"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: audit.Canaries.of([1, 2], np.zeros(2)), SamplingRefused, "not an array"),
        (lambda: audit.Canaries.of(np.zeros((3, 2)), np.zeros(2)), SamplingRefused, "2, 3"),
        (lambda: audit.Canaries.mislabelled(np.zeros((3, 2)), np.zeros(3)), SettingError, "float64"),
        (lambda: audit.Canaries.mislabelled(np.zeros((3, 2)), np.zeros(3, int)), SettingError, "at least two"),
        (lambda: audit.Canaries.mislabelled(np.zeros((3, 2)), np.arange(3), classes=2), SettingError, "up to 2"),
        (lambda: audit.Canaries.mislabelled(np.zeros((0, 2)), np.arange(0)), SettingError, "are needed"),
        (lambda: audit.Canaries.noise(np.zeros((3, 2)), np.arange(3), count=0), SettingError, "0 canaries"),
        (lambda: audit.Canaries.noise(np.zeros((3, 2), int), np.arange(3), count=2), SettingError, "floating point"),
        (lambda: audit.Canaries.of(*data(5)).mix(*data(5, width=3)), SettingError, "shapes"),
        (lambda: audit.Canaries.of(*data(5)).mix({"a": data(5)[0]}, data(5)[1]), SettingError, "shapes"),
    ],
)
def test_canaries_that_make_no_sense(call, error, message):
    with pytest.raises(error, match=message):
        call()


# Scores

LOSSES = {
    "logits": (SPARSE, None, lambda y: y),
    "probabilities": ("sparse_categorical_crossentropy", "softmax", lambda y: y),
    "one-hot": (
        keras.losses.CategoricalCrossentropy(label_smoothing=0.1, from_logits=True),
        None,
        lambda y: np.eye(3, dtype=np.float32)[y],
    ),
    "regression": ("mse", None, lambda y: np.eye(3, dtype=np.float32)[y]),
    "sum": (keras.losses.MeanAbsoluteError(reduction="sum"), None, lambda y: np.eye(3, dtype=np.float32)[y]),
    "own": (lambda y, z: keras.ops.mean(keras.ops.square(y - z) ** 2, axis=-1), None, lambda y: np.eye(3, dtype=np.float32)[y]),
}


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.sample(2)
def test_loss_scores_are_what_evaluate_says_of_each_example_alone(kind):
    loss, activation, targets = LOSSES[kind]
    model = small(loss=loss, activation=activation)
    x, y = data(7)
    y = targets(y)
    alone = [model.evaluate(x[i : i + 1], y[i : i + 1], verbose=0) for i in range(7)]
    for batch_size in (3, 256):
        found = audit.loss_scores(model, x, y, batch_size=batch_size)
        np.testing.assert_allclose(found, np.negative(alone), rtol=1e-5)
        assert found.dtype == np.float64


def test_update_scores_are_products_with_the_gradients_at_the_start():
    model = small()
    x, y = data(12)
    gradients = each_gradient(model, x, y)
    start, before = [variable.numpy() for variable in model.trainable_variables], flat_weights(model)
    model.fit(*data(40, seed=1), epochs=2, verbose=0)
    after = flat_weights(model)
    for batch_size in (5, 256):
        found = audit.update_scores(model, start, x, y, batch_size=batch_size)
        np.testing.assert_allclose(found, gradients @ (before - after), rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(flat_weights(model), after)  # as it was


def test_scores_that_cannot_be_computed():
    x, y = data(4)
    model = small()
    with pytest.raises(SettingError, match="2 arrays"):
        audit.update_scores(model, [np.zeros(3), np.zeros(4)], x, y)
    with pytest.raises(SettingError, match="batch_size is 0"):
        audit.loss_scores(model, x, y, batch_size=0)
    with pytest.raises(SettingError, match="not compiled"):
        audit.loss_scores(keras.Sequential([keras.Input((20,)), layers.Dense(3)]), x, y)


# Whole audits of a model without privacy


def memorised(x, y):
    model = small(width=200)
    model.fit(x, y, epochs=40, batch_size=32, verbose=0)
    return model


def test_a_model_that_knows_its_examples_by_heart_is_caught():
    canaries = audit.Canaries.noise(*data(10, width=200), count=200)
    result = audit.audit_training(memorised, *data(50, width=200), canaries=canaries, delta=1e-5)
    assert (result.canaries, result.guesses) == (200, 50)
    assert result.epsilon > 0.8, result


class Silent:
    def rounded(self, shape, sigma):
        return np.zeros(shape)


@pytest.mark.parametrize(("noise", "caught"), [(Silent(), True), (None, False)])
def test_one_update_without_noise_is_caught_by_its_direction(noise, caught):
    """As in a federation: the global model before and after, one sum of everything."""
    engine, start = PrivacyEngine("pld", noise=noise), []

    def train(x, y):
        model = engine.make_private(small(width=800), noise_multiplier=10.0, max_grad_norm=1.0)
        start.extend(variable.numpy() for variable in model.trainable_variables)
        model.compile(keras.optimizers.SGD(1.0), SPARSE)
        model.fit(x, y, batch_size=len(x), verbose=0)
        return model

    def score(model, x, y):
        return audit.update_scores(model, start, x, y)

    canaries = audit.Canaries.mislabelled(*data(200, width=800, seed=5))
    result = audit.audit_training(train, *data(50, width=800), canaries=canaries, score=score, delta=1e-5, guesses=(50, 50))
    claim = engine.epsilon(delta=1e-5)
    assert 0.3 < claim < 0.4
    assert (result.epsilon > 2 * claim) == caught, result  # 4 standard errors: with the noise about 54 % are right


def test_guesses_that_make_no_sense_are_refused_before_the_training():
    with pytest.raises(SettingError, match="of 5 canaries"):
        audit.audit_training(None, *data(5), canaries=audit.Canaries.of(*data(5)), delta=1e-5, guesses=(5, 5))


# The membership attack


def slow_attack(members, others):
    """(fpr, tpr) for every threshold, and the AUC as the probability of a right order."""
    thresholds = sorted({*members, *others}, reverse=True)
    points = [(np.mean([s >= t for s in others]), np.mean([s >= t for s in members])) for t in thresholds]
    auc = np.mean([(a > b) + 0.5 * (a == b) for a in members for b in others])
    return [(0.0, 0.0), *points], auc


@pytest.mark.parametrize("ties", [False, True])
def test_the_curve_against_every_threshold(ties):
    random = np.random.default_rng(2)
    members, others = random.normal(0.7, 1, 60), random.normal(0, 1, 45)
    if ties:
        members, others = members.round(), others.round()
    attack = audit.MembershipAttack.of_scores(members, others)
    points, auc = slow_attack(members, others)
    np.testing.assert_allclose(np.stack([attack.fpr, attack.tpr], axis=1), points)
    assert attack.auc == pytest.approx(auc)
    assert attack.advantage == pytest.approx(max(t - f for f, t in points))
    for fpr in (0.0, 0.001, 0.1, 0.5, 1.0):
        assert attack.tpr_at(fpr) == pytest.approx(max(t for f, t in points if f <= fpr))


def test_extremes():
    perfect = audit.MembershipAttack.of_scores([3.0, 2.0], [1.0, 0.0])
    assert (perfect.auc, perfect.advantage, perfect.tpr_at(0.0)) == (1.0, 1.0, 1.0)
    blind = audit.MembershipAttack.of_scores([1.0, 1.0], [1.0])
    assert (blind.auc, blind.advantage, blind.tpr_at(0.01)) == (0.5, 0.0, 0.0)
    assert audit.MembershipAttack.of_scores([np.inf], [-np.inf]).auc == 1.0


def test_a_model_without_privacy_tells_its_members_and_one_with_little_does_not():
    members, others = data(150, width=200), data(150, width=200, seed=1)
    attack = audit.membership(memorised(*members), members=members, others=others)
    assert attack.auc > 0.9
    assert attack.advantage > 0.7
    model = PrivacyEngine("rdp").make_private(small(width=200), noise_multiplier=20.0, max_grad_norm=1.0)
    model.compile(keras.optimizers.SGD(0.5), SPARSE)
    model.fit(*members, batch_size=50, epochs=2, verbose=0)
    private = audit.membership(model, members=members, others=others)
    assert 0.3 < private.auc < 0.7
    assert (private.members, private.others) == (150, 150)
    assert "150 members, 150 others: AUC 0." in str(private)


@pytest.mark.parametrize(("members", "others"), [([], [1.0]), ([1.0], []), ([float("nan")], [1.0]), ([[1.0]], [1.0])])
def test_scores_that_make_no_sense(members, others):
    with pytest.raises(SettingError, match="are needed"):
        audit.MembershipAttack.of_scores(members, others)


def test_a_rate_that_makes_no_sense():
    with pytest.raises(SettingError, match=r"fpr is 1\.5"):
        audit.MembershipAttack.of_scores([1.0], [0.0]).tpr_at(1.5)


def test_a_plot_with_logarithmic_axes(tmp_path):
    figure = audit.MembershipAttack.of_scores([3.0, 2.0, 0.5], [1.0, 0.0]).plot(tmp_path / "roc.png")
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert (tmp_path / "roc.png").read_bytes()[:4] == b"\x89PNG"


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SettingError, match=r"confide\[plot\]"):
        audit.MembershipAttack.of_scores([1.0], [0.0]).plot()


def test_importing_the_audit_is_cheap():
    code = "import sys, privacy.audit; print({'tensorflow', 'keras', 'scipy', 'matplotlib'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert shown.stdout.strip() == "set()"
