"""What a user's own classes, and objects that were changed by hand, would lose on the way to owners is refused by name; nothing else is."""

import pathlib
import random
import threading
import time
import types
import uuid

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from federated import FedAvg, Federation, ModelRefused, simulated_owners
from federated.models.blueprint import draw
from privacy.keras_models import internals

registered = keras.saving.register_keras_serializable("lost settings")
X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(8, 2)).astype(np.float32)


@registered
class Scale(layers.Layer):
    """Its configuration has no factor."""

    def __init__(self, factor=1.0, **more):
        super().__init__(**more)
        self.factor = factor

    def call(self, x):
        return x * self.factor

    def get_config(self):
        return super().get_config()


@registered
class Whole(layers.Layer):
    """Its configuration has all; it counts its calls, which is no setting."""

    def __init__(self, factor=1.0, **more):
        super().__init__(**more)
        self.factor, self.calls = factor, 0

    def call(self, x):
        self.calls += 1
        return x * self.factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@registered
class Closed(layers.Layer):
    """Has its factor where no attribute shows it: in a list that its call reads through a function."""

    def __init__(self, factor=1.0, **more):
        super().__init__(**more)
        held = [factor]
        self.held = lambda: held[0]

    def call(self, x):
        return x * self.held()

    def get_config(self):
        return super().get_config()


@registered
class Of(layers.Layer):
    """Layers in it, and things of other kinds that no configuration has."""

    def __init__(self, width=2, **more):
        super().__init__(**more)
        self.width, self.number, self.made = width, uuid.uuid4().hex, time.time()
        self.lock, self.cache, self.chance = threading.Lock(), {}, np.random.default_rng()
        self.blocks = [layers.Dense(width), layers.Dropout(0.5)]

    def build(self, shape):
        self.blocks[0].build(shape)
        self.noted = [len(shape)]

    def call(self, x, training=False):
        self.cache[len(self.cache)] = 1
        for block in self.blocks:
            x = block(x)
        return x

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@registered
class Placed(Of):
    """Settings of other kinds: a path, an object, a function."""

    def __init__(self, place=".", times=1.0, width=2, **more):
        super().__init__(width, **more)
        self.place, self.settings = pathlib.Path(place), types.SimpleNamespace(times=times)


@registered
class Multiplied:
    """A function with a setting."""

    def __init__(self, times=1.0):
        self.times = times

    def __call__(self, x):
        return self.times * x

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@registered
class Drawn(Of):
    """Projects by numbers that are drawn when it is made, and are no weights."""

    def __init__(self, **more):
        super().__init__(**more)
        self.projection = np.random.default_rng().normal(size=(4, 4))

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.cast(self.projection, "float32"))


@registered
class InTraining(Closed):
    def call(self, x, training=False):
        return x * self.held() if training else x


@registered
class Loss(keras.losses.Loss):
    def __init__(self, factor=1.0, **more):
        super().__init__(**more)
        self._factor = factor

    def call(self, y, outputs):
        return self._factor * keras.ops.mean((y - outputs) ** 2, axis=-1)


@registered
class WholeLoss(Loss):
    def get_config(self):
        return {**super().get_config(), "factor": self._factor}


@registered
class Penalty(keras.regularizers.Regularizer):
    def __init__(self, rates=(0.0,)):
        self.rates = np.array(rates)

    def __call__(self, x):
        return float(self.rates.sum()) * keras.ops.sum(x**2)

    def get_config(self):
        return {}


@registered
class Within(keras.constraints.Constraint):
    def __init__(self, limit=1.0):
        self.limit = limit

    def __call__(self, x):
        return keras.ops.clip(x, -self.limit, self.limit)


@registered
class Slower(keras.optimizers.SGD):
    def __init__(self, share=1.0, **more):
        super().__init__(**more)
        self.share = share

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient * self.share, variable, learning_rate)


@registered
class WholeSlower(Slower):
    def get_config(self):
        return {**super().get_config(), "share": self.share}


@registered
class Above(keras.metrics.MeanMetricWrapper):
    def __init__(self, threshold=0.5, name="above", **more):
        super().__init__(lambda y, outputs: keras.ops.cast(outputs > threshold, "float32"), name=name, **more)
        self.threshold = threshold

    def get_config(self):
        return {"name": self.name}


@registered
class Rate(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, rate=0.1):
        self.rate = rate

    def __call__(self, step):
        return self.rate

    def get_config(self):
        return {}


def model(*within, last=None, optimizer=None, loss="mse", **more):
    keras.utils.set_random_seed(1)
    built = keras.Sequential([layers.Input((4,)), *within, last or layers.Dense(2, name="last")])
    built.compile(optimizer or keras.optimizers.SGD(0.1), loss, **more)
    return built


def changed(change, built=None):
    built = built or model()
    change(built)
    return built


def patch(name, of=lambda built: built):
    """A model of which an object has a method of its own, which does what that of its class does."""

    def change(built):
        plain = getattr(of(built), name)
        setattr(of(built), name, lambda *args, **kwargs: plain(*args, **kwargs))

    return lambda: changed(change)


def adapted():
    words = layers.StringLookup()
    words.adapt(np.array(["a", "b"]))
    built = keras.Sequential([layers.Input((3,), dtype="string"), words, layers.Embedding(5, 2), layers.Flatten(), layers.Dense(1)])
    built.compile("sgd", "mse")
    return built


LOST = {
    "a layer": (lambda: model(Scale(3.0, name="it")), r"layer 'it' \(Scale\): factor is 3.0 here and 1.0 in the copy: write a get_config"),
    "a layer in a model in it": (lambda: model(model(Scale(3.0), last=layers.Dense(3))), r"\(Scale\): factor is 3.0 here"),
    "a layer in a wrapper": (
        lambda: keras_wrapped(Scale(3.0)),
        r"\(Scale\): factor is 3.0 here",
    ),
    "a path": (lambda: model(Placed(place="/there")), r"\(Placed\): place is '/there' here and '.' in the copy"),
    "an object of settings": (lambda: model(Placed(times=3.0)), r"\(Placed\): settings is"),
    "an activation": (
        lambda: model(layers.Dense(2, activation=Multiplied(3.0))),
        r"activation of layer .* \(Multiplied\): times is 3.0 here and 1.0",
    ),
    "numbers that were drawn": (lambda: model(Drawn()), "what it gives in inference is something here"),
    "a loss": (lambda: model(loss=Loss(3.0)), r"\(Loss\): _factor is 3.0 here and 1.0 in the copy"),
    "a loss in a list": (lambda: model(loss=[Loss(3.0)]), r"\(Loss\): _factor is 3.0 here"),
    "a regularizer": (lambda: model(last=layers.Dense(2, kernel_regularizer=Penalty([0.1, 0.2]))), r"\(Penalty\): rates is"),
    "a regularizer of outputs": (lambda: model(last=layers.Dense(2, activity_regularizer=Penalty([0.3]))), r"\(Penalty\): rates is"),
    "a constraint": (lambda: model(last=layers.Dense(2, bias_constraint=Within(0.1))), r"\(Within\): limit is 0.1 here and 1.0"),
    "an optimizer": (lambda: model(optimizer=Slower(0.5)), r"optimizer 'slower\w*' \(Slower\): share is 0.5 here and 1.0"),
    "an optimizer that scales": (
        lambda: model(optimizer=keras.optimizers.LossScaleOptimizer(Slower(0.5))),
        r"inner_optimizer of .* \(Slower\): share is 0.5 here",
    ),
    "a metric": (lambda: model(metrics=[Above(0.7)]), r"metric 'above' \(Above\): .*threshold is 0.7 here and 0.5"),
    "a weighted metric": (lambda: model(weighted_metrics=[Above(0.7)]), r"\(Above\): .*threshold is 0.7 here and 0.5"),
    "a schedule": (lambda: model(optimizer=keras.optimizers.Adam(Rate(0.3))), r"schedule \(Rate\): rate is 0.3 here and 0.1"),
    "the class of the model": (lambda: subclassed(Times, times=3.0), r"model 'times\w*' \(Times\): times is 3.0 here and 1.0"),
    "what no attribute shows": (
        lambda: model(Closed(3.0)),
        "what it gives in inference is something here and another by up to .* in the copy: write a get_config",
    ),
    "what shows in training only": (
        lambda: model(InTraining(3.0)),
        "its loss, or its weights, after a step of training is something here and another by up to",
    ),
    "call of the model": (patch("call"), "says call, which its configuration does not"),
    "train_step of the model": (patch("train_step"), "says train_step, which its configuration does not"),
    "call of a layer": (
        patch("call", lambda built: built.layers[-1]),
        r"layer 'last' \(Dense\): its method call is one of this object alone",
    ),
    "update_step of the optimizer": (
        patch("update_step", lambda built: built.optimizer),
        r"\(SGD\): its method update_step is one of this",
    ),
    "call of the loss": (
        lambda: changed(lambda built: setattr(built.loss, "call", lambda y, p: 2 * (y - p)), model(loss=keras.losses.MeanSquaredError())),
        r"\(MeanSquaredError\): its method call is one of this object alone",
    ),
    "a regularizer that was put on a weight": (
        lambda: changed(lambda built: setattr(built.layers[-1].kernel, "regularizer", keras.regularizers.L2(0.3))),
        "regularizer of .*kernel",
    ),
    "another regularizer of the same kind": (
        lambda: changed(
            lambda built: setattr(built.layers[-1].kernel, "regularizer", keras.regularizers.L2(0.3)),
            model(last=layers.Dense(2, kernel_regularizer="l2")),
        ),
        r"regularizer of weight .*kernel' \(L2\): l2 is 0.3 here and 0.01 in the copy: say it to its constructor",
    ),
    "another constraint of the same kind": (
        lambda: changed(
            lambda built: setattr(built.layers[-1].kernel, "constraint", keras.constraints.MaxNorm(0.3)),
            model(last=layers.Dense(2, kernel_constraint="max_norm")),
        ),
        r"constraint of weight .*kernel' \(MaxNorm\): max_value is 0.3 here and 2",
    ),
    "a factor that was set later": (
        lambda: changed(lambda built: setattr(built.layers[0], "factor", 5.0), model(Scale())),
        "factor is 5.0",
    ),
    "supports_masking": (
        lambda: changed(lambda built: setattr(built.layers[-1], "supports_masking", None), model()),
        "supports_masking is None here and True",
    ),
    "a loss that Keras goes on with": (
        lambda: changed(lambda built: built.compile("sgd", None), model(last=layers.Dense(2, activity_regularizer="l2"))),
        "its loss is one here and none in the copy",
    ),
    "words that were learnt": (adapted, r"\(StringLookup\): its vocabulary is of 3 words here and of 1 in the copy"),
}


def keras_wrapped(layer):
    built = keras.Sequential([layers.Input((3, 4)), layers.TimeDistributed(layer), layers.Flatten(), layers.Dense(2)])
    built.compile("sgd", "mse")
    return built


def state(built):
    variables = [*built.variables, *built.optimizer.variables]
    common = internals.common_seed()
    drawn = (random.getstate(), np.random.get_state()[1].tolist(), None if common is None else np.array(common.state).tolist())
    mind = [
        {name: value for name, value in vars(layer).items() if isinstance(value, (int, float, str, bool))}
        for layer in internals.layers_within(built)
    ]
    return [np.array(one).tolist() for one in variables], drawn, mind, built.optimizer.built, [m.name for m in built.metrics]


@pytest.mark.parametrize("name", LOST)
def test_what_would_be_lost_is_refused_by_name(name):
    build, reason = LOST[name]
    built = build()
    before = state(built)
    with pytest.raises(ModelRefused, match=reason):
        draw(built)
    assert state(built) == before


async def test_it_is_refused_before_anything_is_sent():
    asked = []

    class Owner:
        name = "owner"

        async def train(self, task):
            asked.append(task)

    with pytest.raises(ModelRefused, match=r"factor is 3\.0 here"):
        async with Federation(model=lambda: model(Scale(3.0)), owners=[Owner()], progress=False):
            raise AssertionError
    assert asked == []


# No false alarm.


@registered
class Noisy(layers.Layer):
    """Draws from generators that nobody can seed for it, and from Keras' common one."""

    def call(self, x, training=False):
        return x + tf.random.normal(tf.shape(x)) + keras.random.normal(keras.ops.shape(x)) if training else x


@registered
class Own(keras.Model):
    """A subclass of layers, with a step of its own, and metrics of its own."""

    def __init__(self, width=3, **more):
        super().__init__(**more)
        self.width = width
        self.hidden, self.drop, self.last = layers.Dense(width), layers.Dropout(0.5), layers.Dense(2)
        self.tracked = keras.metrics.Mean(name="loss")
        self.steps_made = 0

    def build(self, shape):
        self.hidden.build(shape)
        self.last.build((*shape[:-1], self.width))
        self.built = True

    def call(self, x, training=False):
        return self.last(self.drop(self.hidden(x), training=training))

    @property
    def metrics(self):
        return [self.tracked]

    def train_step(self, data):
        x, y = data
        self.steps_made += 1
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self(x, training=True) - y) ** 2)
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables, strict=True))
        self.tracked.update_state(loss)
        return {"loss": self.tracked.result()}

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@registered
class Times(Own):
    """Its configuration has not all of its settings."""

    def __init__(self, times=1.0, **more):
        super().__init__(**more)
        self.times = times

    def call(self, x, training=False):
        return self.times * super().call(x, training=training)


def subclassed(kind=Own, **settings):
    keras.utils.set_random_seed(1)
    built = kind(width=5, **settings)
    built.build((None, 4))
    built.compile("adam")
    return built


def several(form):
    """Two inputs, two outputs, in dicts or lists, one of them of integers."""
    first, second = layers.Input((4,), name="a"), layers.Input((3,), dtype="int32", name="b")
    x = layers.Concatenate()([Whole(2.0)(first), layers.Flatten()(layers.Embedding(7, 2)(second))])
    outputs = {"p": layers.Dense(2, name="p")(x), "q": layers.Dense(3, name="q", activation="softmax")(x)}
    inputs = {"a": first, "b": second}
    built = keras.Model(inputs, outputs) if form == "dicts" else keras.Model(list(inputs.values()), list(outputs.values()))
    losses = {"p": WholeLoss(2.0), "q": "sparse_categorical_crossentropy"}
    built.compile("adam", losses if form == "dicts" else list(losses.values()), loss_weights=[1.0, 2.0] if form != "dicts" else None)
    return built


def recurrent():
    steps = layers.Input((None, 4))
    x = layers.LSTM(3, return_sequences=True, dropout=0.2, recurrent_dropout=0.2)(layers.Masking()(Whole(2.0)(steps)))
    x = layers.Bidirectional(layers.GRU(2))(x)
    built = keras.Model(steps, layers.Dense(2)(x))
    built.compile("rmsprop", WholeLoss(0.5))
    return built


def images():
    pictures = layers.Input((None, None, 3))
    x = layers.Conv2D(2, 3, strides=2)(layers.RandomFlip()(Whole(2.0)(pictures)))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(layers.MaxPooling2D()(x)))
    built = keras.Model(pictures, layers.Dense(3)(x))
    built.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return built


def fitted(built, y=Y):
    built.fit(X, y, verbose=0)
    return built


KEPT = {
    "settings that are said": lambda: model(Whole(3.0), loss=WholeLoss(2.0), optimizer=WholeSlower(0.5)),
    "things that are no settings": lambda: model(Of(5)),
    "that were changed": lambda: changed(lambda built: setattr(built.layers[0], "factor", 4.0), model(Whole(3.0))),
    "of a dropout": lambda: changed(lambda built: setattr(built.layers[0], "rate", 0.5), model(layers.Dropout(0.1))),
    "of an optimizer": lambda: changed(lambda built: setattr(built.optimizer, "beta_1", 0.5), model(optimizer="adam")),
    "trained": lambda: fitted(
        model(Whole(3.0), layers.BatchNormalization(), optimizer="adam", metrics=["mae", keras.metrics.AUC()]), Y > 0
    ),
    "random": lambda: model(Whole(), layers.Dropout(0.5), layers.GaussianNoise(0.3), layers.GaussianDropout(0.2), layers.AlphaDropout(0.1)),
    "random with seeds": lambda: model(Whole(), layers.Dropout(0.5, seed=3), layers.GaussianNoise(0.3, seed=4)),
    "random beyond seeds": lambda: model(Noisy()),
    "mixed precision": lambda: model(
        Whole(3.0, dtype="mixed_float16"),
        layers.Dense(9, dtype="mixed_float16"),
        optimizer=keras.optimizers.LossScaleOptimizer(WholeSlower(0.5)),
    ),
    "float16": lambda: model(Whole(3.0, dtype="mixed_bfloat16"), layers.Dense(9, dtype="mixed_bfloat16", kernel_regularizer="l2")),
    "accumulating, with averages": lambda: model(
        Whole(), optimizer=keras.optimizers.AdamW(0.1, use_ema=True, gradient_accumulation_steps=2)
    ),
    "a subclass": subclassed,
    "a subclass that was trained": lambda: fitted(subclassed()),
    "dicts": lambda: several("dicts"),
    "lists": lambda: several("lists"),
    "recurrent": recurrent,
    "images of any size": images,
    "no loss": lambda: model(Whole(), last=layers.Dense(2, activity_regularizer="l2"), loss=None),
    "a penalty on a weight by hand that is the same": lambda: model(
        last=layers.Dense(2, kernel_regularizer=keras.regularizers.L1L2(0.1, 0.2))
    ),
}


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.sample(8)
def test_what_arrives_whole_is_no_false_alarm(name):
    built = KEPT[name]()
    before = state(built)
    draw(built)
    assert state(built) == before


async def test_metrics_of_the_aggregator_are_those_of_its_labels():
    """Made-up labels must not tell the model's metrics what labels look like: 'accuracy' is of numbers of classes here."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 4)).astype(np.float32), rng.integers(0, 2, 32)

    def built():
        return model(Whole(2.0), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])

    owners = simulated_owners([(x, y)])
    async with Federation(model=built, owners=owners, strategy=FedAvg(), evaluation=(x, y), progress=False) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
        found = federation.model.predict(x, verbose=0).argmax(-1)
    assert outcome.metrics["test_accuracy"] == pytest.approx(np.mean(found == y))
