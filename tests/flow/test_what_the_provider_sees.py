"""The third party receives nothing that depends on an input, a weight or an answer: everything that it is sent is recorded, twice.

The crypto provider, and in the same way the one of three equals that helps with a model.
"""

import asyncio
import contextlib
import inspect
from typing import get_type_hints

import msgspec
import numpy as np
import pytest

from actors import ActorRef, ActorSystem, message
from protocols import Cluster, Worker, connect, share
from protocols.compute_server import ComputeServer
from protocols.crypto_provider import CryptoProvider
from protocols.training.holdings import Holdings
from protocols.training.training_dealer import TrainingDealer
from protocols.training.training_server import TrainingServer


class Recorder(CryptoProvider):
    """Writes down the arguments of every message before it is handled, and what it gave away itself."""

    def __init__(self, log: list, issued: set[bytes]) -> None:
        super().__init__()
        self.log, self.issued = log, issued

    def note(self) -> None:
        for shared in self._models.values():
            self.issued.update(value for hosting in shared.hostings for value in (hosting.model, hosting.authority, hosting.owner))
            self.issued.update(shared.requests._open)


def _recording(name: str, base: type = CryptoProvider):
    handler = getattr(base, name)

    async def record(self, *arguments):
        self.note()
        self.log.append((name, arguments))
        return await handler(self, *arguments)

    record.__name__, record.__qualname__, record.__module__ = name, f"Recorder.{name}", handler.__module__
    record.__annotations__ = get_type_hints(handler, include_extras=True)
    record.__signature__ = inspect.signature(handler)
    return message(reentrant=True)(record)


MESSAGES = ["open", "serve", "answered", "prepared", "remove", "request", "more", "remaining", "settle", "knows"]


def canonical(log: list, issued: set[bytes], addresses: list[str]) -> list:
    """The log with random identifiers numbered by first appearance, sorted where servers race each other.

    Nothing hides among the identifiers: all of them are the provider's own, sent back to it.
    """
    seen: dict[bytes, int] = {}

    def plain(value):
        if isinstance(value, bytes):
            assert value in issued
            return f"identifier {seen.setdefault(value, len(seen))}, {len(value)} bytes"
        if isinstance(value, msgspec.Struct):
            return [type(value).__name__, *(plain(getattr(value, field)) for field in value.__struct_fields__)]
        if isinstance(value, tuple | list):
            return [plain(one) for one in value]
        if isinstance(value, ActorRef):
            return "a reference"
        if isinstance(value, str) and value in addresses:
            return f"address {addresses.index(value)}"
        assert isinstance(value, str | int | float | bool | None), type(value)
        return value

    return sorted((name, str(plain(arguments))) for name, arguments in log)


async def recorded(model, images, equals: bool) -> tuple[list, np.ndarray]:
    """Everything the third party was sent while a model was shared, asked, and removed; and the answers."""
    log: list = []
    issued: set[bytes] = set()
    async with (
        ActorSystem(listen="ws://127.0.0.1:0") as first,
        ActorSystem(listen="ws://127.0.0.1:0") as second,
        ActorSystem(listen="ws://127.0.0.1:0") as third,
    ):
        for system in (first, second):
            await system.spawn(ComputeServer, name="server")
            await system.spawn(CryptoProvider, name="provider")
        as_server = await third.spawn(ComputeServer, name="server")
        await third.spawn(RecordingProvider, log, issued, name="provider")
        workers = [Worker(system.address) for system in (first, second, third)]
        async with Cluster(*workers) if equals else Cluster(*workers[:2], crypto_provider=workers[2]) as cluster:
            assert not cluster.children
            assert cluster.addresses_for("b").crypto_provider == workers[2].url
            async with await share(model, cluster, name="b") as shared, connect(cluster, "b") as remote:
                serving = asyncio.create_task(shared.serve(2))
                while not await shared.prepared("label"):
                    await asyncio.sleep(0)
                answers = await remote.query(images[:3])
                await remote.query(images[:3], reveal="label")
                await serving
                assert await as_server.names() == []
        # `prepared` is this test's own waiting; how many answers one wait of the owner sees is a matter of timing
        counted = [(name, arguments) for name, arguments in log if name not in ("prepared", "answered")]
        return canonical(counted, issued, [worker.url for worker in workers]), answers


RecordingProvider = type("RecordingProvider", (Recorder,), {name: _recording(name) for name in MESSAGES})


def test_every_message_of_the_provider_is_recorded():
    handlers = {name for name in vars(CryptoProvider) if not name.startswith("_") and name != "stopped"}
    assert handlers == set(MESSAGES)


class DealerRecorder(TrainingDealer):
    """The same for the third party of training."""

    def __init__(self, log: list, holdings: Holdings) -> None:
        super().__init__(holdings)
        self.log = log

    def note(self) -> None:
        """It issues no identifiers: the owner's are random."""


TRAINING_MESSAGES = ["store", "begin", "epoch", "end", "forget"]
RecordingDealer = type("RecordingDealer", (DealerRecorder,), {name: _recording(name, TrainingDealer) for name in TRAINING_MESSAGES})


def test_every_message_of_the_training_dealer_is_recorded():
    handlers = {name for name in vars(TrainingDealer) if not name.startswith("_") and name != "stopped"}
    assert handlers == set(TRAINING_MESSAGES)


async def recorded_training(seed: int, equals: bool) -> tuple[list, list[np.ndarray]]:
    """What the third party was sent, random bytes and stored summands by their shapes only; and the weights after training."""
    import keras

    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)], name="b")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(seed)
    log: list = []
    async with contextlib.AsyncExitStack() as stack:
        systems = [await stack.enter_async_context(ActorSystem(listen="ws://127.0.0.1:0")) for _ in range(3)]
        for system in systems:
            holdings = Holdings()
            for actor, name in ((ComputeServer, "server"), (CryptoProvider, "provider")):
                await system.spawn(actor, name=name)
            await system.spawn(TrainingServer, holdings, name="training")
            dealer = (RecordingDealer, log) if system is systems[2] else (TrainingDealer,)
            await system.spawn(*dealer, holdings, name="training-dealer")
        workers = [Worker(system.address) for system in systems]
        cluster = Cluster(*workers) if equals else Cluster(*workers[:2], crypto_provider=workers[2])
        async with cluster:
            assert cluster.addresses_for("b").crypto_provider == workers[2].url
            x = await cluster.store("x", rng.uniform(size=(20, 4)))
            y = await cluster.store("y", rng.integers(3, size=20), classes=3)
            async with await share(model, cluster) as shared:
                async for _ in shared.fit(x, y, epochs=2, batch_size=10, shuffle=False):
                    pass
                trained = (await shared.reveal()).get_weights()
    return sorted((name, str(_shapes(arguments, [worker.url for worker in workers]))) for name, arguments in log), trained


def _shapes(value, addresses: list[str]):
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, np.ndarray):
        return f"words {value.shape}"
    if isinstance(value, msgspec.Struct):
        return [type(value).__name__, *(_shapes(getattr(value, field), addresses) for field in value.__struct_fields__)]
    if isinstance(value, dict):
        return {key: _shapes(one, addresses) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_shapes(one, addresses) for one in value]
    if isinstance(value, ActorRef):
        return "a reference"
    return addresses.index(value) if value in addresses else value


@pytest.mark.parametrize("equals", [False, True])
async def test_nothing_of_training_depends_on_data_or_weights(equals):
    """All that the third party gets is public or random. Among equals it also has two summands of stored data, which are uniform
    (`test_preprocessing.py`), in its part as a server.
    """
    first, weights = await recorded_training(1, equals)
    second, others = await recorded_training(2, equals)
    assert not np.allclose(weights[0], others[0], atol=0.01)
    assert first == second
    assert {name for name, _ in first} == {"begin", "epoch", "end"} | ({"store"} if not equals else set())


@pytest.fixture
def other_model(model):
    """Other weights, same program."""
    import keras

    other = keras.models.clone_model(model)
    other.set_weights([np.roll(w, 1, axis=-1) for w in model.get_weights()])
    return other


@pytest.mark.parametrize("equals", [False, True])
async def test_nothing_depends_on_inputs(model, images, equals):
    first, answers = await recorded(model, images, equals)
    second, others = await recorded(model, 1 - images, equals)
    assert not np.allclose(answers, others, atol=0.01)
    assert first == second


@pytest.mark.parametrize("equals", [False, True])
async def test_nothing_depends_on_weights(model, other_model, images, equals):
    first, answers = await recorded(model, images, equals)
    second, others = await recorded(other_model, images, equals)
    assert not np.allclose(answers, others, atol=0.01)
    if first != second:  # the program is public; it may differ in the windows, which follow the weights
        first, second = ([(n, a.partition("Program")[0]) for n, a in log] for log in (first, second))
    assert first == second
