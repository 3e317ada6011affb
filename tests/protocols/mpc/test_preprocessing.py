"""One contract for both forms of preprocessing, an external dealer and a helper among equals: same results, rounds and bytes from both."""

import asyncio
import os

import numpy as np
import pytest

from deployment import random_ring
from protocols.authority.seats import seats
from protocols.clusters.roles import helper_of, roles
from protocols.datasets.replicated import Component, Replicated, held_by, split
from protocols.errors import ClusterError, TicketRefused, UnknownModel
from protocols.link.keys import ExternalDealer, Helper, Keys, answered, server_key, third_party
from protocols.mpc import dealer, inference
from protocols.mpc.circuit import deal as deal_step
from protocols.mpc.circuit import evaluate as train
from protocols.mpc.engine.values import Affine
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.operations.argmax import Argmax
from protocols.mpc.operations.bilinear import MatMul
from protocols.mpc.operations.bits.blocks import blocks_for
from protocols.mpc.operations.bits.conjunction import unpack
from protocols.mpc.operations.moves import Reshape
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.weights import Conv2D, Dense, weight_masks
from protocols.mpc.operations.wires import AsShare, Given, Input, Open
from protocols.mpc.parties.exchange import Party
from protocols.mpc.parties.keystream import KeyStream
from protocols.mpc.parties.material import Material
from protocols.mpc.parties.pair import Agreement, Pair
from protocols.mpc.parties.simulator import Transcript, simulate
from protocols.mpc.plaintext import evaluate
from protocols.mpc.program import Program
from protocols.serving.hosting import HostedModel, Hosting
from protocols.training.networks import layers
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.optimizers import GradientDescent
from protocols.training.step import Plan, step

SCALE = 2.0**-FRACTION
SESSION = b"a session of 16b"
URLS = ("ws://a", "ws://b", "ws://c")
NAME = "b"
"""Of a model that the last worker helps with."""


class Parties:
    """The third party and both servers of one session, without a network; everything that travels between them is recorded."""

    def __init__(self, equals: bool) -> None:
        self.seats = seats(equals, NAME)
        self.pairs: list[Pair | None] = [None, None]
        self.travelled: list[bytes] = []
        self.asked: list[tuple[int, bool]] = []
        self.third = asyncio.run(third_party(equals, SESSION, [self._reached(0), self._reached(1)]))

    def _reached(self, party: int):
        async def agree(public: bytes | None) -> bytes | None:
            self.asked.append((party, public is not None))
            if public is None:
                return None
            mine, self.pairs[party] = answered(public, SESSION, party)
            self.travelled += [public, mine]
            return mine

        return agree

    def keys(self, *purpose) -> tuple[Keys, tuple[bytes, bytes]]:
        """The keys of a purpose, as the third party has them and as the servers have them."""
        keys = self.third.keys(*purpose)
        self.travelled += [key for key in keys.told if key is not None]
        first, second = (server_key(self.seats.equals, self.pairs[i], keys.told[i], *purpose) for i in (0, 1))
        return keys, (first, second)

    def hosted(self, program: Program) -> tuple[tuple[HostedModel, HostedModel], Keys]:
        """A program at both servers, and the keys of its weights as the third party has them."""
        weights, tickets = self.third.keys("weights"), self.third.keys("tickets")
        model, seal, equals = os.urandom(16), os.urandom(32), self.seats.equals
        hostings = [Hosting(NAME, program, i, equals, model, weights.told[i], tickets.told[i], seal) for i in (0, 1)]
        first, second = (HostedModel(hosting, pair) for hosting, pair in zip(hostings, self.pairs, strict=True))
        assert (first.ticket_key, second.ticket_key) == tickets.of
        return (first, second), weights

    def predict(self, program: Program, weights: list[np.ndarray], x: np.ndarray, *, chunks: int = 1) -> list[Transcript]:
        """Evaluates a program on shares, each time with the randomness of a new chunk."""
        models, keys = self.hosted(program)
        masks = [a + b for a, b in zip(*(weight_masks(key, program.weights) for key in keys.of), strict=True)]
        for model in models:
            model.load([w + mask for w, mask in zip(weights, masks, strict=True)])
        return [self._answered(models, masks, x) for _ in range(chunks)]

    def _answered(self, models, masks, x: np.ndarray) -> Transcript:
        program, chunk = models[0].hosting.program, os.urandom(16)
        keys = self.third.keys("chunk", chunk)
        dealing = dealer.deal(program, masks, keys.of, len(x))
        halves = [None, dealing.dealt]
        runs = {}
        for i, model in enumerate(models):
            material = model.prepared("logits", model.key(keys.told[i], "chunk", chunk), len(x), halves[i])
            runs[i] = inference.evaluate(Party(i), program, model.weights, material, x + dealing.input_mask)
        return simulate(runs)


ENGINES = {"external dealer": False, "helper among equals": True}


@pytest.fixture(params=ENGINES.values(), ids=ENGINES.keys())
def parties(request):
    return Parties(request.param)


def program(shape: tuple[int, ...], *ops, weights: tuple[tuple[int, ...], ...] = ()) -> Program:
    return Program((Input(), *ops), weights, shape, 1.0, (-1.0, 1.0), 1.0)


def bits(window: int) -> int:
    """Bits that are opened for each comparison: those of the node, see `protocols.mpc.operations.bits.blocks`."""
    return blocks_for(window).opened


# Programs with how far rounding may lead from the oracle, rounds, and bytes of an example and direction. An opened element has 8 bytes.
# Bits are opened in words of 64: for 70 elements 16 bytes for each bit of the node and for the selection, for 90 and 30 ANDs 16 and 8.
PROGRAMS = {
    "Dense": (program((6,), Dense(0, 0, 1), weights=((6, 4), (4,))), 0, 0, 0),
    "Conv2D": (program((6, 6, 2), Conv2D(0, 0, 1, strides=(2, 2)), weights=((3, 3, 2, 5), (5,))), 0, 0, 0),
    "Multiply": (program((7,), Multiply(0, 0)), 0, 0, 0),
    "MatMul": (program((6,), Reshape(0, (2, 3)), Reshape(0, (3, 2)), MatMul(1, 2)), 0, 0, 0),
    "Open": (program((6,), Dense(0, 0), Open(1), Dense(2, 1), weights=((6, 70), (70, 3))), 0, 1, 8 * 70),
    "Truncate": (program((6,), Dense(0, 0), Truncate(1, 6, 24), weights=((6, 70),)), 1, 1, 8 * 70),
    "Select": (program((6,), Dense(0, 0), Select(1, 6, 24), weights=((6, 70),)), 1, 3, 8 * 70 + 16 * (bits(24) + 1)),
    "Piecewise": (program((6,), AsShare(0), Piecewise(1, 0, 12, (0,), (-1, 1), (0, 0))), 0, 3, 8 * 6 + 8 * (bits(12) + 1)),
    "Argmax": (program((10,), AsShare(0), Argmax(1, 0, 24)), 0, 4, 8 * 45 + 8 * bits(24) + 8 * (2 + 1)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_equal_the_oracle_in_the_rounds_and_bytes_that_are_stated(parties, name):
    tested, rounding, rounds, sent = PROGRAMS[name]
    weights = [random_ring(shape, 500, f"{name}{i}") for i, shape in enumerate(tested.weights)]
    x = random_ring((5, *tested.input_shape), 500, name)
    [transcript] = parties.predict(tested, weights, x)
    expected = evaluate(tested, weights, x)
    if name == "Argmax":
        found = unpack(transcript.results[0] ^ transcript.results[1], 10)
        np.testing.assert_array_equal(found.argmax(1), x.view(np.int64).argmax(1))
        assert (found.sum(1) == 1).all()
    else:
        y = (transcript.results[0] + transcript.results[1]).view(np.int64)
        assert np.abs(y - expected.reshape(y.shape).view(np.int64)).max() <= rounding
    assert transcript.rounds == rounds
    assert [transcript.sent.get(way, 0) for way in ((0, 1), (1, 0))] == [5 * sent] * 2


def test_a_step_of_training_on_stored_data_equals_the_clear(parties):
    """One step of a linear model with squared error: W - rate * X^T (X W - Y) 2 / (n k), and the same rounds from both."""
    rng = np.random.default_rng(0)
    x, y, w = rng.uniform(-1, 1, (8, 5)), rng.uniform(-1, 1, (8, 3)), rng.uniform(-1, 1, (5, 3))
    linear = layers.ProductLayer((0,), layers.Weight("kernel0", (5, 3)))
    plan = Plan((linear,), (5,), 3, (layers.Variable("kernel0", (5, 3)),), "mse", GradientDescent(1.0))
    circuit = step(plan, 8)
    layout, (keys, theirs) = circuit.layout, parties.keys("step", 0)
    stored = {"x": encode(x, SCALE), "y": encode(y, SCALE)}
    given: tuple[dict, dict] = ({}, {})
    masks = {}
    for name, values in stored.items():
        masks[name], halves = _stored(parties, values)
        for mine, half in zip(given, halves, strict=True):
            mine[name] = half
    [weight] = [op for op in circuit.ops if isinstance(op, Given) and op.name in plan.shapes]
    for mine in given:
        mine |= {name: np.zeros(shape, np.uint64) for name, shape in plan.states.items()}
    share = KeyStream(os.urandom(16)).words((5, 3))
    given[0][weight.name], given[1][weight.name] = share, encode(w, SCALE) - share
    dealt = [None, deal_step(circuit, masks, keys.of)]
    runs = {i: train(Party(i), circuit, Material.of(layout, theirs[i], 1, dealt[i]), given[i]) for i in (0, 1)}
    transcript = simulate(runs)
    after = decode(transcript.results[0][weight.name] + transcript.results[1][weight.name], SCALE)
    np.testing.assert_allclose(after, w - x.T @ (x @ w - y) * 2 / 24, atol=0.001)
    assert transcript.sent[0, 1] == transcript.sent[1, 0]
    assert transcript.rounds == 1 + 6  # open the weights, check the activations; the update is done by then


def _stored(parties: Parties, values: np.ndarray) -> tuple[np.ndarray, tuple[Affine, Affine]]:
    """An array as it is stored in each form: the mask at the third party, and what each server has."""
    if parties.seats.helper is None:
        first, second = (KeyStream(os.urandom(16)).words(values.shape) for _ in range(2))
        masked = values + first + second
        return first + second, (Affine(masked, {"R": first}), Affine(masked, {"R": second}))
    components, helper = split(values, last=0), parties.seats.helper
    held = [Replicated(held_by(components, place), values.shape) for place in range(3)]
    rows = np.arange(len(values))
    first, second = (held[(helper + 1 + party) % 3].wire(helper, rows) for party in (0, 1))
    return held[helper].mask(), (first, second)


def test_both_ends_have_the_same_keys_and_no_two_purposes_share_one(parties):
    purposes = [("weights",), ("tickets",), ("chunk", b"a"), ("chunk", b"b"), ("step", 0), ("step", 1)]
    keys = [parties.keys(*purpose) for purpose in purposes]
    for third, servers in keys:
        assert third.of == servers
    assert len({key for _, servers in keys for key in servers}) == 2 * len(purposes)
    assert all(len(key) == 16 for _, servers in keys for key in servers)


def test_halves_differ_and_no_mask_serves_twice(parties):
    """What servers send has a new mask in each chunk, for the same input and weights."""
    tested, *_ = PROGRAMS["Open"]
    weights = [random_ring(shape, 500, f"{i}") for i, shape in enumerate(tested.weights)]
    seen = [t.seen_by(0)[0] for t in parties.predict(tested, weights, random_ring((5, 6), 500, "x"), chunks=2)]
    assert not np.isin(*seen).any()
    keys, _ = parties.keys("chunk", b"c")
    assert keys.of[0] != keys.of[1]


def test_a_new_session_has_new_keys(parties):
    """A party that is started again has lost its keys: whatever it agrees on then is new, also for a name that was there before."""
    anew = Parties(parties.seats.equals)
    assert not set(parties.keys("chunk", b"same")[1]) & set(anew.keys("chunk", b"same")[1])


def test_among_equals_no_key_travels_and_nobody_chooses_one():
    parties = Parties(True)
    assert isinstance(parties.third, Helper)
    _, servers = parties.keys("chunk", b"a")
    assert len(parties.travelled) == 4  # a public key each way for each server
    assert all(len(public) == 32 for public in parties.travelled)
    for key in servers:
        assert not any(key in public for public in parties.travelled)
    with pytest.raises(ClusterError, match="agree on the key"):
        server_key(True, parties.pairs[0], bytes(16), "chunk", b"b")
    with pytest.raises(ClusterError, match="agree on the key"):
        server_key(True, None, None, "chunk", b"b")


def test_among_equals_a_purpose_has_its_key_once_at_each_end():
    parties = Parties(True)
    _, servers = parties.keys("chunk", b"a")
    with pytest.raises(TicketRefused, match="used before"):
        parties.third.keys("chunk", b"a")
    for pair in parties.pairs:
        assert pair is not None
        with pytest.raises(TicketRefused, match="used before"):
            pair.key("chunk", b"a")
        assert not any(key.hex() in repr(pair) for key in servers)


def test_each_server_is_asked_once_and_told_no_public_key_of_an_external_dealer(parties):
    """It has to say its own public key for the seals in both forms."""
    assert parties.asked == [(0, parties.seats.equals), (1, parties.seats.equals)]
    assert parties.pairs == [None, None] or parties.seats.equals


def test_an_external_dealer_must_tell_a_key():
    assert isinstance(Parties(False).third, ExternalDealer)
    with pytest.raises(ClusterError, match="told no key"):
        server_key(False, None, None, "chunk", b"a")


def test_agreements_are_bound_to_session_and_role():
    mine, theirs = Agreement(), Agreement()
    same = mine.with_peer(theirs.public, b"s", 0), theirs.with_peer(mine.public, b"s", 0)
    assert same[0].key("x") == same[1].key("x")
    others = [theirs.with_peer(mine.public, *context).key("x") for context in ((b"s", 1), (b"t", 0))]
    assert same[0].key("y") not in others
    assert mine.with_peer(theirs.public, b"s", 0).key("x") not in others
    for bad in (b"", bytes(31), bytes(32)):  # the last one is a point of small order
        with pytest.raises(ClusterError, match="no public key"):
            mine.with_peer(bad, b"s", 0)


def test_the_helper_turns_with_the_name():
    helpers = [helper_of(f"model {i}") for i in range(300)]
    assert min(helpers.count(place) for place in range(3)) > 60
    assert {roles(URLS, helper).crypto_provider for helper in range(3)} == set(URLS)
    for helper in range(3):
        assert set(roles(URLS, helper).all) == set(URLS)
    for name in ("net", "small", "b"):  # what workers know by places, owners and clients know by addresses
        assert [URLS[place] for place in seats(True, name).all] == [*roles(URLS, helper_of(name)).all]


@pytest.mark.parametrize("last", range(3))
@pytest.mark.parametrize("helper", range(3))
def test_replicated_shares_are_a_masked_wire_for_any_helper(helper, last):
    x = random_ring((40, 30), 1000, "x")
    components = split(x, last)
    held = [Replicated(held_by(components, place), x.shape) for place in range(3)]
    rows = np.array([3, 0, 39])
    first, second = (held[(helper + 1 + party) % 3].wire(helper, rows) for party in (0, 1))
    np.testing.assert_array_equal(first.a, second.a)
    np.testing.assert_array_equal(first.parts["R"] + second.parts["R"], held[helper].mask()[rows])
    np.testing.assert_array_equal(first.a - first.parts["R"] - second.parts["R"], x[rows])
    with pytest.raises(UnknownModel, match="three equals"):
        held[helper].wire(helper, rows)
    with pytest.raises(UnknownModel, match="three equals"):
        held[helper].wire(None, rows)


def test_two_components_of_an_array_are_uniform_whatever_it_holds():
    for last in range(3):
        for component in split(np.zeros((64, 64), np.uint64), last):
            words = component.expanded((64, 64))
            ones = np.unpackbits(words.view(np.uint8)).mean()
            assert abs(ones - 0.5) < 5 * 0.5 / np.sqrt(64 * words.size)


def test_components_that_do_not_fit_are_refused():
    good = Component(bytes(16))
    for held in ({0: good}, {0: good, 3: good}, {0: good, 1: good, 2: good}):
        with pytest.raises(ValueError, match="two of 0, 1 and 2"):
            Replicated(held, (2, 2))
    for bad in (Component(), Component(words=np.zeros((2, 3), np.uint64))):
        with pytest.raises(ValueError, match="is needed"):
            Replicated({0: good, 1: bad}, (2, 2))
