"""Schedules of the learning rate go on over rounds, as in one `fit` after the other."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from federated import DPSGD, FedAvg, FedBuff, Federation, FedSGD, ModelRefused, UpdateHeldBack, simulated_owners
from federated.consent.release import released
from federated.records.data import Data
from federated.schedules.continued import steps
from federated.tasks.update import LocalTraining

ONE = np.ones((64, 1), np.float32)
S = keras.optimizers.schedules


@keras.saving.register_keras_serializable("tests")
def plain(y, predictions):
    return keras.ops.mean(predictions)


def build(schedule, optimizer=keras.optimizers.SGD):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    model.compile(optimizer(schedule), plain)
    return model


DECAY = S.ExponentialDecay(1.0, 2, 0.1, staircase=True)
SCHEDULES = {
    "decay": DECAY,
    "warm-up": S.CosineDecay(0.0, 8, warmup_target=1.0, warmup_steps=4),
    "steps": S.PiecewiseConstantDecay([3, 5], [1.0, 0.5, 0.25]),
    "polynomial": S.PolynomialDecay(1.0, 6, 0.1),
}


def fitted(model, data, rounds=4, **more):
    """The weight after each `fit`."""
    found = []
    for _ in range(rounds):
        model.fit(*data, verbose=0, shuffle=False, **more)
        found.append(float(model.get_weights()[0][0, 0]))
    return found


async def played(model, owners, rounds=4, **more):
    """The weight after each round."""
    found = []
    async with Federation(model=model, owners=owners, progress=False, **more) as federation:
        async for outcome in federation.rounds(rounds):
            assert outcome.failure is None
            found.append(float(federation.model.get_weights()[0][0, 0]))
    return found


@pytest.mark.parametrize("name", SCHEDULES)
async def test_one_owner_moves_as_keras_does(name):
    found = await played(lambda: build(SCHEDULES[name]), simulated_owners([(ONE, ONE)]), strategy=FedAvg(batch_size=32))
    assert found == pytest.approx(fitted(build(SCHEDULES[name]), (ONE, ONE), batch_size=32), rel=1e-5)
    if name == "decay":
        assert -np.diff([1.0, *found]) == pytest.approx([2, 0.2, 0.02, 0.002], rel=1e-3)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras' word for the end of a generator
@pytest.mark.parametrize("kind", ["data set", "from a generator", "ragged", "two epochs", "asynchronous", "two owners"])
@pytest.mark.sample(2)
async def test_whatever_its_steps_are_made_of(kind):
    data, strategy, more, parts = (ONE, ONE), FedAvg(batch_size=32), {"batch_size": 32}, 1
    if kind in ("data set", "from a generator"):
        whole = tf.data.Dataset.from_tensor_slices((ONE, ONE)).batch(30)
        data, more = (whole if kind == "data set" else whole.filter(lambda x, y: True),), {}
    if kind == "ragged":
        data, strategy, more = (ONE[:40], ONE[:40]), FedAvg(batch_size=16), {"batch_size": 16}
    if kind == "two epochs":
        strategy, more = FedAvg(batch_size=32, local_epochs=2), {"batch_size": 32, "epochs": 2}
    if kind == "asynchronous":
        strategy = FedBuff(buffer=1, concurrency=1)
    if kind == "two owners":
        parts = 2  # of the same, so that their mean is each of them
    given = data if len(data) == 2 else data[0]
    if kind == "from a generator":  # Keras' own count goes one too far where it does not know the number of batches
        data = (whole,)
    found = await played(lambda: build(DECAY), simulated_owners([given] * parts), strategy=strategy)
    assert found == pytest.approx(fitted(build(DECAY), data, **more), rel=1e-5)


async def test_a_run_that_is_resumed_goes_on(tmp_path):
    found = []
    for _ in range(2):
        owners = simulated_owners([(ONE, ONE)])
        async with Federation(model=lambda: build(DECAY), owners=owners, folder=tmp_path, resume=True, progress=False) as federation:
            await federation.run(rounds=2 + len(federation.history))
            found.append(float(federation.model.get_weights()[0][0, 0]))
    assert found == pytest.approx(fitted(build(DECAY), (ONE, ONE))[1::2], rel=1e-5)


async def test_a_failed_round_does_not_count():
    owners = simulated_owners([(ONE, ONE)], dropouts={2: ["owner-0"], 3: ["owner-0"]})
    async with Federation(model=lambda: build(DECAY), owners=owners, progress=False) as federation:
        failed = [outcome.failure is not None async for outcome in federation.rounds(4)]
        assert failed == [False, True, True, False]
        assert federation.model.get_weights()[0][0, 0] == pytest.approx(fitted(build(DECAY), (ONE, ONE), 2)[-1], rel=1e-5)


async def test_moments_begin_anew_with_their_correction():
    """Adam's first step is as long as the rate, whatever came before: only the schedule goes on, and not the count of steps."""

    def model():
        return build(S.PiecewiseConstantDecay([2, 4], [0.1, 0.2, 0.4]), keras.optimizers.Adam)

    found = await played(model, simulated_owners([(ONE, ONE)]), 3, strategy=FedAvg(batch_size=None))
    rates = [0.1, 0.1, 0.1]  # a boundary is within the piece before
    assert -np.diff([1.0, *found]) == pytest.approx(rates, rel=1e-3)
    found = await played(model, simulated_owners([(ONE, ONE)]), 6, strategy=FedAvg(batch_size=None))
    assert -np.diff([1.0, *found])[3:] == pytest.approx([0.2, 0.2, 0.4], rel=1e-3)


@pytest.mark.long
async def test_dp_sgd_follows_it_too():
    """Its noise is small here: epsilon is not what is shown."""
    privacy = DPSGD(noise_multiplier=0.01, max_grad_norm=1.0, sampling_rate=1.0, delta=1e-5)

    def model():
        made = build(S.PiecewiseConstantDecay([0, 1], [1.0, 0.1, 0.01]))
        made.compile(made.optimizer, "mse")
        made.set_weights([np.full((1, 1), 50, np.float32)])
        return made

    found = await played(model, simulated_owners([(ONE, ONE)]), 3, privacy=privacy, strategy=FedAvg(batch_size=None))
    assert -np.diff([50.0, *found]) == pytest.approx([1, 0.1, 0.01], rel=0.1)


async def test_a_schedule_that_nobody_follows_is_refused():
    with pytest.raises(ModelRefused, match=r"asks for learning_rate schedule .* the training of FedSGD does not do that"):
        async with Federation(model=lambda: build(DECAY), owners=simulated_owners([(ONE, ONE)]), strategy=FedSGD()):
            raise AssertionError


@pytest.mark.parametrize(
    ("n", "batch", "least", "expected"), [(64, 32, 1, 2), (65, 32, 1, 3), (65, 32, 2, 2), (5, 32, 9, 1), (7, None, 1, 1), (40, 16, 8, 3)]
)
def test_steps_in_a_round(n, batch, least, expected):
    data = Data((np.ones((n, 1)), np.ones(n)))
    assert steps(LocalTraining(epochs=2, batch_size=batch), data, min_batch=least) == 2 * expected


# Models that were trained before.


def before(epochs, optimizer=keras.optimizers.SGD, schedule=DECAY):
    """A model that `fit` has trained, two steps an epoch."""
    model = build(schedule, optimizer)
    fitted(model, (ONE, ONE), epochs, batch_size=32)
    return model


OPTIMIZERS = {
    "sgd": keras.optimizers.SGD,
    "accumulating": lambda schedule: keras.optimizers.SGD(schedule, gradient_accumulation_steps=2),
    "loss scale": lambda schedule: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(schedule), initial_scale=1.0),
}


@pytest.mark.parametrize("name", ["decay", "warm-up"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.sample(2)
async def test_a_model_that_was_trained_goes_on_as_fit_does(name, optimizer):
    def model():
        return before(1, OPTIMIZERS[optimizer], SCHEDULES[name])

    found = await played(model, simulated_owners([(ONE, ONE)]), 2, strategy=FedAvg(batch_size=32))
    assert found == pytest.approx(fitted(model(), (ONE, ONE), 2, batch_size=32), rel=1e-5)


async def test_a_model_that_was_saved_and_loaded_goes_on(tmp_path):
    before(2).save(tmp_path / "it.keras")

    def model():
        return keras.models.load_model(tmp_path / "it.keras")

    strategy = FedBuff(buffer=1, concurrency=1)
    found = await played(model, simulated_owners([(ONE, ONE)]), 2, strategy=strategy)
    assert found == pytest.approx(fitted(model(), (ONE, ONE), 2, batch_size=32), rel=1e-5)


async def test_what_was_before_a_run_counts_once_when_it_is_resumed(tmp_path):
    """The second time the function gives a model that has gone further; the run goes on where it was."""
    found = []
    for epochs in (1, 3):
        owners = simulated_owners([(ONE, ONE)])
        run = Federation(model=lambda epochs=epochs: before(epochs), owners=owners, folder=tmp_path, resume=True, progress=False)
        async with run:
            await run.run(rounds=1 + len(run.history))
            found.append(float(run.model.get_weights()[0][0, 0]))
            assert int(run.model.optimizer.iterations) == 2
    assert found == pytest.approx(fitted(before(1), (ONE, ONE), 2, batch_size=32), rel=1e-5)


async def test_steps_between_rounds_count_too():
    """Those of the model's own optimizer, which knows of no round: it goes on from its own, and the next round after both."""
    async with Federation(model=lambda: before(1), owners=simulated_owners([(ONE, ONE)]), progress=False) as federation:
        weights = []
        for _ in range(2):
            weights += [float(federation.model.get_weights()[0][0, 0]) async for _ in federation.rounds(1)]
            weights += fitted(federation.model, (ONE, ONE), 1, batch_size=32)
    assert -np.diff([-1.0, *weights]) == pytest.approx([0.2, 0.2, 0.002, 0.02], rel=1e-3)


@pytest.mark.parametrize("begun", [-1, 1 << 62])
def test_steps_that_no_optimizer_has_made(begun):
    with pytest.raises(UpdateHeldBack, match="begun"):
        released(LocalTraining(begun=begun))
