"""The third party receives nothing that depends on an input, a weight or an answer: everything that it is sent is recorded, twice.

The crypto provider, and in the same way the one of three equals that helps with a model.
"""

import asyncio
import inspect
from typing import get_type_hints

import msgspec
import numpy as np
import pytest

from actors import ActorRef, message
from actors.messages.schema import messages_of
from inner_workers import inner_workers
from protocols import connect, share
from protocols.authority.membership import Membership
from protocols.authority.rights import digest_at, new_secret, right_at
from protocols.client import remote_model
from protocols.owner import placement
from protocols.storage.holdings import Holdings
from protocols.workers.crypto_provider import CryptoProvider
from protocols.workers.dealt_models import DealtModels
from protocols.workers.sessions import Sessions
from protocols.workers.training_dealer import TrainingDealer


class Recorder(CryptoProvider):
    """Writes down the arguments of every message before it is handled, and what it gave away itself."""

    def __init__(self, *given) -> None:
        super().__init__(*given)
        self.log: list = []
        self.issued: set[bytes] = set()

    def note(self) -> None:
        for shared in self._models.values():
            self.issued.update((shared.model, *shared.requests._open))


def _recording(name: str, base: type = CryptoProvider):
    handler = getattr(base, name)

    async def record(self, *arguments):
        self.note()
        self.log.append((name, arguments))
        return await handler(self, *arguments)

    record.__name__, record.__qualname__, record.__module__ = name, f"Recorder.{name}", handler.__module__
    record.__annotations__ = get_type_hints(handler, include_extras=True)
    record.__signature__ = inspect.signature(handler)
    return message(reentrant=True, by=messages_of(base)[name].by)(record)


MESSAGES = [
    *("open", "serve", "answered", "prepared", "remove", "check_keep", "keep", "standing"),
    *("request", "more", "remaining", "settle", "leaving", "knows", "drain"),
]


def canonical(log: list, known: set[bytes], addresses: list[str]) -> list:
    """The log with random bytes numbered by first appearance, sorted where servers race each other.

    Nothing hides among them: all are identifiers of the provider's own, sent back to it, or rights that follow from a secret that the
    operating system has drawn.
    """
    seen: dict[bytes, int] = {}

    def plain(value):
        if isinstance(value, bytes):
            assert value in known
            return f"identifier {seen.setdefault(value, len(seen))}, {len(value)} bytes"
        if isinstance(value, msgspec.Struct):
            return [type(value).__name__, *(plain(getattr(value, field)) for field in value.__struct_fields__)]
        if isinstance(value, tuple | list):
            return [plain(one) for one in value]
        if isinstance(value, ActorRef):
            return "a reference"
        if isinstance(value, str) and value in addresses:
            return f"address {addresses.index(value)}"
        assert value is msgspec.UNSET or isinstance(value, str | int | float | bool | None), type(value)
        return value

    return sorted((name, str(plain(arguments))) for name, arguments in log)


@pytest.fixture
def drawn(monkeypatch):
    """The secrets that owner and clients draw for rights."""
    secrets: list[bytes] = []

    def draw() -> bytes:
        secrets.append(new_secret())
        return secrets[-1]

    for module in (placement, remote_model):
        monkeypatch.setattr(module, "new_secret", draw)
    return secrets


async def recorded(model, images, equals: bool, drawn: list[bytes]) -> tuple[list, np.ndarray]:
    """Everything the third party was sent while a model was shared, asked, and removed; and the answers."""
    async with inner_workers(parts=[None, None, {"provider": RecordingProvider}], equals=equals) as (inner, cluster):
        third, urls = inner[2].actor("provider"), [worker.url for worker in cluster.workers]
        assert not cluster.children
        assert cluster.addresses_for("b").crypto_provider == urls[2]
        async with await share(model, cluster, name="b") as shared, connect(cluster, "b") as remote:
            serving = asyncio.create_task(shared.serve(2))
            while not await shared.prepared("label"):
                await asyncio.sleep(0)
            answers = await remote.query(images[:3])
            await remote.query(images[:3], reveal="label")
            await serving
            assert inner[2].actor("server")._entries == {}
    rights = {one for secret in drawn for place in range(3) for one in (right_at(secret, place), digest_at(secret, place))}
    assert len(drawn) % 3 == 0  # for the model, and for each of both requests
    # `prepared` is this test's own waiting; how many answers one wait of the owner sees is a matter of timing
    counted = [(name, arguments) for name, arguments in third.log if name not in ("prepared", "answered")]
    assert {name for name, _ in counted} == {"open", "serve", "remove", "request", "settle"}
    return canonical(counted, third.issued | rights, urls), answers


RecordingProvider = type("RecordingProvider", (Recorder,), {name: _recording(name) for name in MESSAGES})


def test_every_message_of_the_provider_is_recorded():
    handlers = {name for part in (CryptoProvider, DealtModels, Sessions) for name in vars(part) if not name.startswith("_")}
    handlers -= {"observed", "started", "stopped"}
    assert handlers == set(MESSAGES)


class DealerRecorder(TrainingDealer):
    """The same for the third party of training."""

    def __init__(self, cluster: Membership, holdings: Holdings) -> None:
        super().__init__(cluster, holdings)
        self.log: list = []

    def note(self) -> None:
        """It issues no identifiers: the owner's are random."""


TRAINING_MESSAGES = ["store", "begin", "epoch", "hold", "end", "forget"]
RecordingDealer = type("RecordingDealer", (DealerRecorder,), {name: _recording(name, TrainingDealer) for name in TRAINING_MESSAGES})


def test_every_message_of_the_training_dealer_is_recorded():
    handlers = {name for name in vars(TrainingDealer) if not name.startswith("_") and name != "stopped"}
    assert handlers == set(TRAINING_MESSAGES)


async def recorded_training(seed: int, equals: bool) -> tuple[list, list[np.ndarray]]:
    """What the third party was sent, random bytes and stored summands by their shapes only; and the weights after training."""
    import keras

    keras.utils.set_random_seed(seed)
    frozen = keras.layers.Dense(3, trainable=False)  # a base, whose outputs are held
    model = keras.Sequential([keras.layers.Input((4,)), frozen, keras.layers.Dense(3)], name="b")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(seed)
    async with inner_workers(parts=[None, None, {"training-dealer": RecordingDealer}], equals=equals) as (inner, cluster):
        log, urls = inner[2].actor("training-dealer").log, [worker.url for worker in cluster.workers]
        assert cluster.addresses_for("b").crypto_provider == urls[2]
        x = await cluster.store("x", rng.uniform(size=(20, 4)))
        y = await cluster.store("y", rng.integers(3, size=20), classes=3)
        async with await share(model, cluster) as shared:
            async for _ in shared.fit(x, y, epochs=2, batch_size=10, shuffle=False):
                pass
            trained = (await shared.reveal()).get_weights()
    return sorted((name, str(_shapes(arguments, urls))) for name, arguments in log), trained


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
    assert {name for name, _ in first} == {"begin", "epoch", "hold", "end"} | ({"store", "forget"} if not equals else set())


@pytest.fixture
def other_model(model):
    """Other weights, same program."""
    import keras

    other = keras.models.clone_model(model)
    other.set_weights([np.roll(w, 1, axis=-1) for w in model.get_weights()])
    return other


@pytest.mark.parametrize("equals", [False, True])
async def test_nothing_depends_on_inputs(model, images, equals, drawn):
    first, answers = await recorded(model, images, equals, drawn)
    second, others = await recorded(model, 1 - images, equals, drawn)
    assert not np.allclose(answers, others, atol=0.01)
    assert first == second


@pytest.mark.parametrize("equals", [False, True])
async def test_nothing_depends_on_weights(model, other_model, images, equals, drawn):
    first, answers = await recorded(model, images, equals, drawn)
    second, others = await recorded(other_model, images, equals, drawn)
    assert not np.allclose(answers, others, atol=0.01)
    if first != second:  # the program is public; it may differ in the windows, which follow the weights
        first, second = ([(n, a.partition("Program")[0]) for n, a in log] for log in (first, second))
    assert first == second
