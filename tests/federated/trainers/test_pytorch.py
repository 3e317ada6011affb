"""Owners that train with PyTorch, beside torch's own training."""

from functools import partial

import numpy as np
import pytest

from federated import (
    IFCA,
    SCAFFOLD,
    CentralGaussian,
    DataError,
    Ditto,
    FedAvg,
    FedBN,
    FedDyn,
    Federation,
    FedNova,
    FedProx,
    PersonalLayers,
    QFedAvg,
    SecureAggregation,
    SettingError,
    partition,
    simulated_owners,
)
from federated.trainers.pytorch import TorchTrainer, accuracy

pytestmark = pytest.mark.long  # `make test-long` installs torch

RNG = np.random.default_rng(5)
Y = RNG.integers(0, 3, 60)
X = (RNG.normal(size=(60, 4)) + 2 * np.eye(3, 4)[Y]).astype(np.float32)


@pytest.fixture
def torch():
    import torch

    return torch


@pytest.fixture
def trainer(torch):
    def module():
        torch.manual_seed(3)
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3))

    def make(optimizer=None, module=module):
        optimizer = optimizer or partial(torch.optim.SGD, lr=0.1, momentum=0.9)
        return TorchTrainer(module, loss=torch.nn.CrossEntropyLoss(), optimizer=optimizer, metrics={"accuracy": accuracy})

    return make


async def played(trainer, parts, rounds=2, **settings):
    owners = simulated_owners(parts, trainer=trainer, evaluation=settings.pop("evaluation", None))
    async with Federation(**{"model": trainer.weights(), "owners": owners, "progress": False} | settings) as one:
        outcomes = [outcome async for outcome in one.rounds(rounds)]
        assert [outcome.failure for outcome in outcomes] == [None] * rounds, outcomes[0].dropped
        return one.weights, outcomes


def beside(torch, trainer, rounds, orders, proximal=0.0):
    """The same by hand: a new optimizer each round, the batches that the owner was given."""
    module = trainer.fitted(trainer.weights())
    for number in range(rounds):
        module.train()
        optimizer, anchors = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9), [p.detach().clone() for p in module.parameters()]
        for x, y in orders[number]:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(module(x), y)
            loss = loss + proximal / 2 * sum(((p - a) ** 2).sum() for p, a in zip(module.parameters(), anchors, strict=True))
            loss.backward()
            optimizer.step()
    return [value.numpy() for value in module.state_dict().values()]


@pytest.mark.parametrize("proximal", [0.0, 0.5])
async def test_one_owner_trains_as_torch_does(torch, trainer, proximal, monkeypatch):
    from federated.trainers import pytorch

    orders, take = [], pytorch._Pairs.take
    monkeypatch.setattr(pytorch._Pairs, "take", lambda self, rows: (orders.append(take(self, rows)), orders[-1])[1])
    strategy = FedProx(batch_size=16, mu=proximal) if proximal else FedAvg(batch_size=16)
    one = trainer()
    weights, _ = await played(one, [(X, Y)], strategy=strategy)
    expected = beside(torch, one, 2, [orders[:4], orders[4:]], proximal)
    counted = one.weights()[6]
    for i, (a, b) in enumerate(zip(weights, expected, strict=True)):
        if b.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        else:
            assert i == 6
            assert a == counted == 0  # batches that BatchNorm has seen: an integer stays


async def test_hidden_sums_and_noise_go_with_torch(trainer):
    parts, strategy = partition(X, Y, owners=4), FedAvg(local_epochs=10)  # until BatchNorm knows the statistics
    plain, outcomes = await played(trainer(), parts, 3, evaluation=parts, strategy=strategy)
    assert outcomes[2].metrics["val_accuracy"] > 0.8
    assert outcomes[2].metrics["loss"] < outcomes[0].metrics["loss"]
    hidden, _ = await played(trainer(), parts, 3, aggregation=SecureAggregation(clip=8.0), strategy=strategy)
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(plain, hidden, strict=True))
    clipped = CentralGaussian(clip_norm=0.01, noise_multiplier=1e-6, delta=1e-3)
    one = trainer()
    noisy, _ = await played(one, parts, 1, privacy=clipped)
    moved = [a - b for a, b in zip(noisy, one.weights(), strict=True) if a.dtype.kind == "f"]
    assert np.sqrt(sum((a.astype(np.float64) ** 2).sum() for a in moved)) == pytest.approx(0.01, rel=0.3)


async def test_data_sets_are_taken(torch, trainer):
    tensors = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    one, other = [await played(trainer(), [data]) for data in (tensors, (torch.from_numpy(X), torch.from_numpy(Y)))]
    assert all(np.array_equal(a, b) for a, b in zip(one[0], other[0], strict=True))


async def test_dropout_differs_between_owners_and_is_repeated_by_seed(torch, trainer):
    def module():
        torch.manual_seed(1)
        return torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 3))

    first, again = [(await played(trainer(module=module), [(X, Y)] * 2, seed=4))[0] for _ in range(2)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    other, _ = await played(trainer(module=module), [(X, Y)] * 2, seed=5)
    assert not np.array_equal(first[0], other[0])


def test_what_is_refused(torch, trainer):
    with pytest.raises(SettingError, match=r"float16"):
        trainer(module=lambda: torch.nn.Linear(2, 2).half())
    with pytest.raises(SettingError, match="bfloat16"):
        trainer(module=lambda: torch.nn.Linear(2, 2).bfloat16())
    with pytest.raises(SettingError, match="requires a gradient"):
        trainer(module=lambda: torch.nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(SettingError, match="not those of this module"):
        trainer().fitted([np.zeros(2)])

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([(X[0], Y[0])])

    for data in (X, (X, Y[:5]), (np.array(["a"]), Y[:1]), (X[:0], Y[:0]), Stream()):
        with pytest.raises(DataError):
            trainer()(data)


# Methods of training: the same federation once with torch and once with Keras, from the same weights.

UNLIKE = [(X[:, :3][label == Y], np.float32(label) + X[:, 3:][label == Y]) for label in range(3)]
WHOLE = {"local_epochs": 3, "batch_size": None}
METHODS = [
    SCAFFOLD(**WHOLE),
    FedDyn(alpha=0.1, **WHOLE),
    FedNova(**WHOLE),
    QFedAvg(q=0.5, **WHOLE),
    Ditto(near=0.5, **WHOLE),
    IFCA(**WHOLE),
]


@pytest.mark.parametrize("strategy", METHODS, ids=lambda one: type(one).__name__)
async def test_methods_of_training_are_those_of_keras(torch, strategy):
    import keras

    one = TorchTrainer(lambda: torch.nn.Linear(3, 1), loss=torch.nn.MSELoss(), optimizer=partial(torch.optim.SGD, lr=0.05))
    start = one.weights()

    def model():
        made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        made.set_weights([start[0].T, start[1]])
        made.compile(keras.optimizers.SGD(0.05), "mse")
        return made

    found, outcomes = await played(one, UNLIKE, rounds=3, strategy=strategy, evaluation=UNLIKE)
    async with Federation(model=model, owners=simulated_owners(UNLIKE, evaluation=UNLIKE), strategy=strategy, progress=False) as federation:
        others = [outcome async for outcome in federation.rounds(3)]
        kernel, bias = federation.weights
    np.testing.assert_allclose(found[0], kernel.T, atol=2e-5)
    np.testing.assert_allclose(found[1], bias, atol=2e-5)
    assert outcomes[-1].metrics["val_loss"] == pytest.approx(others[-1].metrics["val_loss"], rel=1e-4)
    assert np.abs(found[0] - start[0]).max() > 0.01


async def test_layers_of_the_owners_own(torch, trainer):
    one = trainer()
    names = list(one.fitted(one.weights()).state_dict())
    for strategy, own in ((FedBN(), "1."), (PersonalLayers(layers=("3",)), "3.")):
        kind = PersonalLayers(layers=("BatchNorm1d",)) if isinstance(strategy, FedBN) else strategy
        weights, _ = await played(one, partition(X, Y, owners=3, seed=1), strategy=kind)
        moved = [name for name, new, old in zip(names, weights, one.weights(), strict=True) if not np.array_equal(new, old)]
        assert moved
        assert not any(name.startswith(own) for name in moved)


async def test_what_a_method_is_not_derived_for_is_held_back(torch, trainer):
    for strategy, make in ((SCAFFOLD(), trainer()), (FedDyn(), trainer())):  # with momentum; with statistics of BatchNorm
        owners = simulated_owners([(X, Y)], trainer=make)
        async with Federation(model=make.weights(), owners=owners, strategy=strategy, progress=False) as federation:
            (outcome,) = [each async for each in federation.rounds(1)]
        assert outcome.failure
        assert "stochastic gradient descent" in outcome.failure or "statistics without a gradient" in outcome.failure
