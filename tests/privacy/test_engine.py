"""The engine on real models: what it clips, samples, records and refuses."""

import math
import subprocess
import sys
from pathlib import Path

import dp_accounting
import keras
import numpy as np
import pytest
import tensorflow as tf

from gradient_oracle import clipped_sum, each_gradient, flat_weights
from privacy import (
    AdaptiveClipping,
    BudgetSpent,
    GaussianNoise,
    ModelChanged,
    ModelRefused,
    PrivacyEngine,
    SamplingRefused,
    SettingError,
)
from privacy.randomness.noise import Grid
from privacy.sampling import PoissonSampler
from privacy.step import PrivateStep

layers = keras.layers


class Silent:
    """A source of noise that gives none, and remembers what it was asked for."""

    def __init__(self):
        self.asked = []

    def rounded(self, shape, sigma):
        self.asked.append((shape, sigma))
        return np.zeros(shape)

    def discrete(self, shape, sigma):
        return self.rounded(shape, sigma).astype(np.int64)


def small(*between, width=4, classes=3):
    return keras.Sequential([keras.Input((width,)), *between, layers.Dense(classes)])


def compiled(model, optimizer=None, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(1.0), **{"loss": loss, "metrics": ["accuracy"], **options})
    return model


def data(count, width=4, seed=0):
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, count)
    return (random.normal(size=(count, width)) + 2 * np.eye(3, width)[y]).astype(np.float32), y


def private(model, engine=None, *, z=1.0, clip=1.0, **options):
    return (engine or PrivacyEngine(noise=Silent())).make_private(model, noise_multiplier=z, max_grad_norm=clip, **options)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, as it saves
def test_business_as_usual(tmp_path):
    x, y = data(300)
    engine = PrivacyEngine(accountant="pld")
    model = engine.make_private(
        keras.Sequential([layers.Dense(8, activation="relu"), layers.Dense(3, activation="softmax")]),
        noise_multiplier=1.1,
        max_grad_norm=1.0,
    )
    assert engine.epsilon(delta=1e-5) == 0.0
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x, y, batch_size=32, epochs=3, validation_data=(x[:50], y[:50]), verbose=0)
    assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert history.epoch == [0, 1, 2]
    assert engine.accountant.events == (
        (dp_accounting.PoissonSampledDpEvent(PoissonSampler(300, 32).probability, dp_accounting.GaussianDpEvent(1.1)), 30),
    )
    assert 0.5 < engine.epsilon(delta=1e-5) < 5.0
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), expected, rtol=1e-6)
    loaded.fit(x, y, verbose=0)  # an ordinary model
    assert sum(count for _, count in engine.accountant.events) == 30


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop", "adafactor", "lion"])
@pytest.mark.sample(2)
def test_it_learns_with_any_optimizer(optimizer):
    x, y = data(600)
    model = compiled(private(small(), PrivacyEngine("rdp"), z=0.6), optimizer)
    model.optimizer.learning_rate = 1.0 if optimizer == "sgd" else 0.1
    model.fit(x, y, batch_size=100, epochs=5, verbose=0)
    assert model.evaluate(x, y, verbose=0)[1] > 0.6


def update(model, x, y, **options):
    """What one step of everything (q = 1) takes from the weights, times the size of the batch."""
    before = flat_weights(model)
    model.fit(x, y, batch_size=len(x), epochs=1, verbose=0, **options)
    return (before - flat_weights(model)) * len(x)


@pytest.mark.parametrize("physical", [None, 1, 3, 7, 100])
@pytest.mark.sample(2)
def test_one_step_is_the_clipped_sum_in_any_number_of_parts(physical):
    x, y = data(7)
    model = compiled(private(small(layers.Dense(5, activation="tanh")), clip=0.3, max_physical_batch_size=physical))
    wanted = clipped_sum(each_gradient(model, x, y), 0.3)
    np.testing.assert_allclose(update(model, x, y), wanted, atol=1e-5)


def test_what_an_interrupted_step_has_summed_up_is_forgotten(monkeypatch):
    x, y = data(7)
    model = compiled(private(small(), clip=0.3, max_physical_batch_size=2))
    wanted = clipped_sum(each_gradient(model, x, y), 0.3)
    with monkeypatch.context() as patch:
        patch.setattr(PrivateStep, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.fit(x, y, batch_size=7, verbose=0)
    np.testing.assert_allclose(update(model, x, y), wanted, atol=1e-5)


def interrupted(*_):
    raise KeyboardInterrupt


def test_the_weight_of_an_example_multiplies_its_loss_before_clipping():
    x, y = data(6)
    model = compiled(private(small(), clip=0.5))
    w = np.array([0.0, 0.1, 0.2, 1.0, 5.0, 1.0], np.float32)
    wanted = clipped_sum(each_gradient(model, x, y) * w[:, None], 0.5)
    np.testing.assert_allclose(update(model, x, y, sample_weight=w), wanted, atol=1e-5)


def test_weight_regularizers_are_added_after_clipping():
    x, y = data(6)
    model = compiled(
        private(keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))]), clip=0.1)
    )
    kernel, bias = model.get_weights()
    penalty = np.concatenate([0.2 * kernel.reshape(-1), 0 * bias])
    wanted = clipped_sum(each_gradient(model, x, y) - penalty, 0.1) + len(x) * penalty
    np.testing.assert_allclose(update(model, x, y), wanted, atol=1e-5)


class Noisy(layers.Layer):
    """A layer of the user: weights, and randomness, without a rule."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 4))
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x, training=False):
        return keras.ops.matmul(keras.random.dropout(x, 0.5, seed=self.seeds), self.w)


STOCHASTIC = {
    "dropout": [layers.Dense(8), layers.Dropout(0.5), layers.Dense(8)],
    "gaussian": [layers.GaussianDropout(0.5), layers.Dense(8), layers.GaussianNoise(1.0)],
    "alpha": [layers.Dense(8), layers.AlphaDropout(0.5)],
    "spatial": [layers.Reshape((2, 2)), layers.Conv1D(4, 2, padding="same"), layers.SpatialDropout1D(0.5), layers.Flatten()],
    "gru": [layers.Reshape((2, 2)), layers.GRU(4, dropout=0.5)],
    "recurrent": [layers.Reshape((2, 2)), layers.LSTM(4, dropout=0.5, recurrent_dropout=0.3)],
    "own": [Noisy()],
    "twice": [layers.Dropout(0.3), Noisy(), layers.Dropout(0.3)],
}


@pytest.mark.parametrize(("kind", "clipping"), [*((kind, "flat") for kind in STOCHASTIC), ("dropout", "per_layer"), ("own", "per_layer")])
@pytest.mark.sample(3)
def test_one_example_moves_the_sum_by_at_most_the_clip(kind, clipping):
    between = [layer.from_config(layer.get_config() | {"name": f"between_{i}"}) for i, layer in enumerate(STOCHASTIC[kind])]
    model = compiled(private(small(*between), clip=0.05, clipping=clipping))
    x, y = data(8)
    norms = [np.linalg.norm(update(model, 10 * x[i : i + 1], y[i : i + 1])) for i in range(len(x))]
    assert max(norms) <= 0.05 * (1 + 1e-5)
    assert max(norms) > 0.04  # the clip was reached


def test_each_layer_gets_its_share():
    x, y = data(5)
    model = compiled(private(small(layers.Dense(6, activation="tanh")), clip=0.2, clipping="per_layer"))
    gradients = each_gradient(model, x, y)
    cut = 4 * 6 + 6
    wanted = np.concatenate([clipped_sum(part, 0.2 / np.sqrt(2)) for part in (gradients[:, :cut], gradients[:, cut:])])
    np.testing.assert_allclose(update(model, x, y), wanted, atol=1e-5)


def test_an_example_that_is_not_finite_adds_nothing():
    x, y = data(6)
    model = compiled(private(small(), clip=0.5))
    wanted = clipped_sum(each_gradient(model, x[:4], y[:4]), 0.5)
    x[4, 1], x[5, 2] = np.inf, np.nan
    np.testing.assert_allclose(update(model, x, y), wanted, atol=1e-5)


def test_the_noise_has_the_variance_that_is_accounted_for():
    x, y = data(20, width=300)
    model = compiled(private(small(layers.Dense(100), width=300), PrivacyEngine("rdp"), z=2.0, clip=0.5))
    noise = update(model, x, y, sample_weight=np.zeros(20))  # no gradients
    assert len(noise) > 30_000
    assert abs(noise.std() / (2.0 * 0.5) - 1) < 0.03  # 7 standard errors
    assert abs(noise.mean()) < 0.04
    kernel = noise[:30_000].reshape(300, 100)
    assert np.abs(np.corrcoef(kernel[:, :10], rowvar=False) - np.eye(10)).max() < 0.4


def test_the_step_is_recorded_before_it_is_computed():
    class Broken:
        def rounded(self, shape, sigma):
            raise OSError("no randomness")

    engine = PrivacyEngine("rdp", noise=Broken())
    model = compiled(private(small(), engine))
    with pytest.raises(OSError, match="no randomness"):
        model.fit(*data(20), batch_size=5, verbose=0)
    assert [count for _, count in engine.accountant.events] == [1]


def test_batches_that_may_be_empty():
    engine = PrivacyEngine("rdp")
    model = compiled(private(small(), engine))
    history = model.fit(*data(30), batch_size=1, epochs=2, verbose=0)  # a third of the batches is empty
    assert np.isfinite(history.history["loss"]).all()
    assert [count for _, count in engine.accountant.events] == [60]


def test_an_epoch_of_empty_batches_only_adds_noise():
    engine = PrivacyEngine("rdp")
    model = compiled(private(small(), engine))
    x, y = data(100_000)
    before = flat_weights(model)
    model.fit(x, y, batch_size=1, steps_per_epoch=2, verbose=0)
    assert (flat_weights(model) != before).all()


def test_a_schedule_of_the_noise():
    noise = Silent()
    engine = PrivacyEngine("rdp", noise=noise)
    model = compiled(private(small(), engine, z=keras.optimizers.schedules.PiecewiseConstantDecay([1], [2.0, 1.0]), clip=0.5))
    model.fit(*data(40), batch_size=10, epochs=1, verbose=0)
    assert [(event.event.noise_multiplier, count) for event, count in engine.accountant.events] == [(2.0, 2), (1.0, 2)]
    assert {sigma for _, sigma in noise.asked} == {Grid.of(0.5, z, 15, fineness=20, most=20).sigma for z in (2.0, 1.0)}


def test_a_schedule_that_ends_in_no_noise_is_refused_before_the_step():
    engine = PrivacyEngine("rdp")
    model = compiled(private(small(), engine, z=lambda step: 1.0 - step))
    with pytest.raises(SettingError, match="step 1 is 0"):
        model.fit(*data(40), batch_size=10, verbose=0)
    assert engine.accountant.events == ()


def test_adaptive_clipping_finds_the_quantile_and_pays_for_it():
    keras.utils.set_random_seed(0)
    noise = Silent()
    engine = PrivacyEngine("rdp", noise=noise)
    rule = AdaptiveClipping(quantile=0.7, learning_rate=0.3, count_noise=4.0)
    model = compiled(private(small(), engine, z=1.0, clip=50.0, clipping=rule), keras.optimizers.SGD(0.0))
    x, y = data(200)
    model.fit(x, y, batch_size=200, epochs=60, verbose=0)
    norms = np.linalg.norm(each_gradient(model, x, y), axis=1)
    gradients = [asked for asked in noise.asked if asked[0] == 15][-1]
    counts = [asked for asked in noise.asked if asked[0] != 15][-1]
    assert counts == ((1,), math.ceil(Grid.of(0.5, 8.0, 1).sigma))
    z_delta = (1.0 - 8.0**-2) ** -0.5
    clip = engine._trainings[0].clip
    assert abs(clip / np.quantile(norms, 0.7) - 1) < 0.1
    assert abs(gradients[1] / Grid.of(clip, z_delta, 15, fineness=20, most=20).sigma - 1) < 0.02  # the step before had another clip
    assert engine.accountant.events == ((dp_accounting.GaussianDpEvent(1.0), 60),)
    assert abs(z_delta**-2 + 8.0**-2 - 1.0) < 1e-12  # both together cost what z does: Theorem 1


def test_a_count_that_costs_more_than_everything_is_refused():
    model = compiled(private(small(), z=10.0, clipping=AdaptiveClipping(count_noise=5.0)))
    with pytest.raises(SettingError, match="above noise_multiplier / 2"):
        model.fit(*data(40), batch_size=10, verbose=0)


def test_a_target_is_met_and_not_passed():
    x, y = data(200)
    engine = PrivacyEngine("pld")
    plan = {"target_epsilon": 2.0, "target_delta": 1e-5, "epochs": 2, "batch_size": 40, "examples": 200, "max_grad_norm": 1.0}
    model = compiled(engine.make_private_with_epsilon(small(), **plan))
    with pytest.raises(SamplingRefused, match="calibrated for 200"):
        model.fit(x[:100], y[:100], verbose=0)
    with pytest.raises(SamplingRefused, match="batches of 40"):
        model.fit(x, y, batch_size=20, verbose=0)
    with pytest.raises(BudgetSpent, match="15 steps after 0"):
        model.fit(x, y, epochs=3, verbose=0)
    assert engine.accountant.events == ()
    model.fit(x, y, epochs=1, verbose=0)
    model.fit(x, y, epochs=2, initial_epoch=1, verbose=0)
    assert 1.9 < engine.epsilon(delta=1e-5) <= 2.0
    with pytest.raises(BudgetSpent):
        model.fit(x, y, verbose=0)


@pytest.mark.long
def test_a_second_target_counts_what_was_spent_before():
    x, y = data(200)
    engine = PrivacyEngine("rdp")
    plan = {"target_delta": 1e-5, "epochs": 1, "batch_size": 40, "examples": 200, "max_grad_norm": 1.0}
    compiled(engine.make_private_with_epsilon(small(), target_epsilon=1.0, **plan)).fit(x, y, verbose=0)
    compiled(engine.make_private_with_epsilon(small(), target_epsilon=2.0, **plan)).fit(x, y, verbose=0)
    assert 1.9 < engine.epsilon(delta=1e-5) <= 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier is 0.0"),
        ({"noise_multiplier": -1.0}, "noise_multiplier is -1.0"),
        ({"noise_multiplier": float("nan")}, "noise_multiplier is nan"),
        ({"max_grad_norm": 0.0}, "max_grad_norm is 0.0"),
        ({"max_grad_norm": float("inf")}, "max_grad_norm is inf"),
        ({"max_physical_batch_size": 0}, "max_physical_batch_size is 0"),
        ({"clipping": "round"}, "'flat', 'per_layer', 'adaptive' or a Clipping"),
    ],
)
def test_settings_that_make_no_sense(options, message):
    with pytest.raises(SettingError, match=message):
        PrivacyEngine().make_private(small(), **{"noise_multiplier": 1.0, "max_grad_norm": 1.0, **options})


@pytest.mark.parametrize("delta", [0.0, -1e-5, 1.0])
def test_a_delta_that_makes_no_sense(delta):
    with pytest.raises(SettingError, match="delta is"):
        PrivacyEngine().epsilon(delta=delta)
    with pytest.raises(SettingError, match="target_delta is"):
        PrivacyEngine().make_private_with_epsilon(
            small(), target_epsilon=1.0, target_delta=delta, epochs=1, batch_size=1, examples=2, max_grad_norm=1.0
        )


def test_another_accountant_is_refused():
    with pytest.raises(ValueError, match="gdp"):
        PrivacyEngine("gdp")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 41}, "shorter than its batch"),
        ({"batch_size": -1}, "at least 1"),
        ({"class_weight": {0: 2.0}, "sample_weight": np.ones(40)}, "class_weight and sample_weight"),
        ({"class_weight": {0: 2.0}, "y": {"a": np.zeros(40)}}, "several targets"),
        ({"validation_split": 0.99}, "leaves 0 of 40"),
        ({"validation_split": 1.5}, "validation_split=1.5"),
        ({"x": tf.data.Dataset.from_tensor_slices((np.zeros((40, 4)), np.zeros(40))).batch(10), "y": None}, "sampled by itself"),
        ({"sample_weight": np.ones((40, 1))}, "one weight an example"),
        ({"y": None}, "y is missing"),
        ({"y": np.zeros(39)}, "39, 40"),
        ({"x": iter([1])}, "not an array"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_data_that_cannot_be_sampled(options, message):
    x, y = data(40)
    engine = PrivacyEngine()
    model = compiled(private(small(), engine))
    with pytest.raises(SamplingRefused, match=message):
        model.fit(**{"x": x, "y": y, "batch_size": 10, "verbose": 0, **options})
    assert engine.accountant.events == ()


def test_batches_that_were_not_sampled_here():
    x, y = data(10)
    model = compiled(private(small()))
    with pytest.raises(SamplingRefused, match="not sampled here"):
        model.train_on_batch(x, y)


class Mixing(layers.Layer):
    def call(self, x):
        return x - keras.ops.mean(x, 0)


class Remembering(layers.Layer):
    def build(self, shape):
        self.mean = self.add_weight(shape=shape[1:], trainable=False, initializer="zeros")

    def call(self, x):
        self.mean.assign(keras.ops.mean(x, 0))
        return x


class OwnStep(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


def refused_at_once():
    yield "BatchNormalization", small(layers.BatchNormalization()), "GroupNormalization or LayerNormalization"
    yield "spectral", small(layers.SpectralNormalization(layers.Dense(3))), "SpectralNormalization"
    yield "stateful", keras.Sequential([keras.Input(batch_shape=(2, 3, 4)), layers.LSTM(3, stateful=True)]), "stateful"
    yield "activity", small(layers.Dense(3, activity_regularizer="l2")), "activity regularizer"
    yield "half", small(layers.Dense(3, dtype="mixed_float16")), "float16"
    yield "own step", OwnStep([keras.Input((4,)), layers.Dense(3)]), "train_step"
    yield "nothing to train", keras.Sequential([keras.Input((4,)), layers.Dense(3, trainable=False)]), "no weights to train"


@pytest.mark.parametrize(("model", "message"), [pytest.param(model, message, id=name) for name, model, message in refused_at_once()])
def test_models_that_cannot_be_private(model, message):
    engine = PrivacyEngine()
    found = engine.validate(model)
    assert len(found) == 1
    with pytest.raises(ModelRefused, match=message):
        private(model, engine)


def test_every_reason_is_named():
    found = PrivacyEngine().validate(
        small(layers.BatchNormalization(name="first"), layers.Dense(3), layers.BatchNormalization(name="second"))
    )
    assert [one.path for one in found] == ["first (BatchNormalization)", "second (BatchNormalization)"]


def test_frozen_batch_normalization_is_a_fixed_function():
    model = compiled(private(small(layers.BatchNormalization(trainable=False))))
    model.fit(*data(20), batch_size=10, verbose=0)


@pytest.mark.parametrize(("layer", "message"), [(Mixing(), "depends on the others"), (Remembering(), "stores something of the batch")])
def test_layers_of_the_user_that_leak_are_found_when_the_model_is_built(layer, message):
    engine = PrivacyEngine()
    model = compiled(private(small(layer), engine))
    with pytest.raises(ModelRefused, match=message):
        model.fit(*data(20), batch_size=10, verbose=0)
    assert engine.accountant.events == ()


def test_a_model_that_was_changed():
    x, y = data(20)
    model = compiled(private(small(layers.Dense(3))))
    model.layers[0].trainable = False
    with pytest.raises(ModelChanged, match="make_private again"):
        model.fit(x, y, batch_size=10, verbose=0)
    compiled(private(model)).fit(x, y, batch_size=10, verbose=0)
    model.add(layers.Dense(3))
    with pytest.raises(ModelChanged):
        model.fit(x, y, batch_size=10, verbose=0)


@pytest.mark.long
def test_a_model_that_makes_layers_as_it_is_built_and_has_two_outputs():
    class Attends(keras.Model):
        def __init__(self):
            super().__init__()
            self.embed, self.attend = layers.Embedding(5, 4), layers.MultiHeadAttention(2, 2)
            self.pool, self.first, self.second = layers.GlobalAveragePooling1D(), layers.Dense(3), layers.Dense(1)

        def call(self, x):
            rows = self.embed(x)
            pooled = self.pool(self.attend(rows, rows))
            return {"kind": self.first(pooled), "size": self.second(pooled)}

    random = np.random.default_rng(0)
    x, y = random.integers(0, 5, (30, 6)), {"kind": random.integers(0, 3, 30), "size": random.random((30, 1))}
    engine = PrivacyEngine("rdp")
    model = private(Attends(), engine)
    loss = {"kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "size": "mse"}
    model.compile("adam", loss, loss_weights={"kind": 1.0, "size": 0.5}, metrics={"kind": ["accuracy"]})
    for _ in range(2):
        history = model.fit(x, y, batch_size=15, verbose=0).history
        assert set(history) == {"loss", "kind_loss", "size_loss", "kind_accuracy"}
        assert abs(history["loss"][0] - history["kind_loss"][0] - 0.5 * history["size_loss"][0]) < 0.05  # Keras weighs batches otherwise
    assert {line.split()[1] for line in engine.report(model).splitlines()} == {"Embedding", "EinsumDense", "Dense"}


def test_not_compiled():
    with pytest.raises(ModelRefused, match="not compiled"):
        private(small()).fit(*data(20), verbose=0)


def test_compiled_again():
    x, y = data(20)
    model = compiled(private(small()))
    model.fit(x, y, batch_size=20, verbose=0)
    compiled(model, keras.optimizers.SGD(0.0))
    assert (update(model, x, y) == 0).all()


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (keras.callbacks.EarlyStopping(monitor="loss"), "'loss'"),
        (keras.callbacks.ReduceLROnPlateau(monitor="accuracy"), "'accuracy'"),
        (keras.callbacks.ModelCheckpoint("x.keras", save_best_only=True, monitor="loss"), "'loss'"),
        (keras.callbacks.CSVLogger("x.csv"), "writes down"),
        (keras.callbacks.BackupAndRestore("x"), "has not seen"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_callbacks_that_would_let_values_without_noise_out(callback, message):
    engine = PrivacyEngine()
    model = compiled(private(small(), engine))
    with pytest.raises(ModelRefused, match=message):
        model.fit(*data(20), batch_size=10, verbose=0, callbacks=[callback])
    assert engine.accountant.events == ()


def test_other_callbacks_work():
    x, y = data(40)
    seen = []
    model = compiled(private(small()))
    stop = keras.callbacks.EarlyStopping(monitor="val_loss", patience=0, min_delta=100.0)
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    model.fit(x, y, batch_size=10, epochs=9, verbose=0, validation_data=(x, y), callbacks=[stop, watch])
    assert seen == [0, 1]


def test_the_report_tells_how_each_layer_is_handled():
    engine = PrivacyEngine()
    model = private(small(layers.Reshape((2, 2)), layers.LSTM(3, dropout=0.5), Noisy()), engine)
    lines = engine.report(model).splitlines()
    assert [line.split()[1] for line in lines] == ["LSTM", "Noisy", "Dense"]
    assert "it drops inputs" in lines[0]
    assert "there is no rule for Noisy" in lines[1]
    assert "book-keeping" in lines[2]


def test_importing_privacy_does_not_import_tensorflow():
    code = "import sys, privacy; privacy.PrivacyEngine(); print({'tensorflow', 'keras'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert shown.stdout.strip() == "set()"


def test_noise_by_default_is_that_of_the_operating_system():
    assert isinstance(PrivacyEngine()._noise, GaussianNoise)
