"""Inputs of clients that send what they like: every ring element is cut into its range, exactly, before anything else happens."""

import keras
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keras import layers

from deployment import Deployment, key, random_ring
from protocols.errors import ModelError, ProgramError
from protocols.lowering import lower
from protocols.mpc.inference import layout
from protocols.mpc.numbers.fixed_point import encode
from protocols.mpc.operations.bits.blocks import blocks_for
from protocols.mpc.operations.bits.conjunction import unpack
from protocols.mpc.operations.clamp import ClampedInput
from protocols.mpc.operations.wires import AsShare, Input
from protocols.mpc.parties import discrete_gaussian
from protocols.mpc.parties.keystream import KeyStream
from protocols.mpc.parties.material import packed
from protocols.mpc.plaintext import evaluate
from protocols.mpc.program import Program, infer
from protocols.noisy_answers import NoisyAnswers

EDGES = [(0, 1 << 16), (-(1 << 16), 1 << 16), (7, 100), (-100, -7), (3, 3), (-1, 0), (-(1 << 62), 1 << 62)]


def clamped(low: int, high: int, elements: int = 7) -> Program:
    return Program((ClampedInput(low, high), AsShare(0)), (), (elements,), 1.0, (0.0, 1.0), 1.0)


def signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def around(*words: int) -> list[int]:
    """Each word and its neighbours, as ring elements."""
    return [(word + step) % 2**64 for word in words for step in (-2, -1, 0, 1, 2)]


@pytest.mark.parametrize(("low", "high"), EDGES)
def test_every_ring_element_is_cut_exactly(low, high):
    """The oracle is Python's integers. Where an element wraps around: at the edges, at the ends of the ring, opposite the edges."""
    powers = [1 << q for q in range(64)]
    special = around(0, low, high, 1 << 63, low + (1 << 63), high + (1 << 63), high - low, low - high, *powers, *(-p for p in powers))
    words = np.array(special + special[: -len(special) % 7], np.uint64).reshape(-1, 7)
    x = np.concatenate([words, KeyStream(key("anything")).words((300, 7)), random_ring((300, 7), 200, "small")])
    program = clamped(low, high)
    transcript = Deployment(program, []).run(x)
    y = (transcript.results[0] + transcript.results[1]).view(np.int64)
    expected = [[min(max(signed(int(word)), low), high) for word in row] for row in x]
    assert y.tolist() == expected
    assert evaluate(program, [], x).view(np.int64).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**64 - 1),
    st.integers(-(2**62), 2**62),
    st.integers(-(2**62), 2**62),
    st.binary(min_size=8, max_size=8),
)
@example(2**63, 0, 0, b"12345678")
def test_any_element_any_range_any_mask(word, a, b, salt):
    low, high = sorted((a, b))
    program = clamped(low, high, 1)
    transcript = Deployment(program, [], salt.hex()[:2]).run(np.array([[word]], np.uint64))
    [[y]] = (transcript.results[0] + transcript.results[1]).tolist()
    assert signed(y) == min(max(signed(word), low), high)


@pytest.mark.parametrize("elements", [1, 64, 100])
def test_three_rounds_and_the_bytes_that_are_stated(elements):
    program = clamped(0, 1 << 16, elements)
    transcript = Deployment(program, []).run(random_ring((2, elements), 1 << 20, "x"))
    blocks, words = blocks_for(65), 8 * packed(elements)
    sent = 8 * elements + (3 * blocks.opened + 2) * words
    dealt = 24 * elements + (blocks.monomials + 3 * blocks.products) * words
    assert transcript.rounds == 3
    assert transcript.sent == {(0, 1): 2 * sent, (1, 0): 2 * sent}
    assert 8 * layout(program).dealt == dealt
    if elements == 64:
        assert (sent / 64, dealt / 64) == (13.5, 416.75)


def planes(word_array: np.ndarray, elements: int) -> np.ndarray:
    """The bits of packed words that stand for elements, as -1 and 1: (runs, bits)."""
    return unpack(word_array.reshape(-1, 1), elements).reshape(len(word_array), -1).astype(np.float32) * 2 - 1


def ring_bits(words: np.ndarray) -> np.ndarray:
    return np.unpackbits(np.ascontiguousarray(words.reshape(len(words), -1)).view(np.uint8), axis=1).astype(np.float32) * 2 - 1


@pytest.mark.parametrize("party", [0, 1])
@pytest.mark.parametrize("sent", [5, 1 << 40, (1 << 63) + 3])
def test_a_server_sees_fresh_bits_only(party, sent):
    """As in `test_views.py`: whatever was sent, each opened bit is balanced, and independent of the others and of what the server held."""
    runs = 400
    program = clamped(0, 1 << 16, 1)
    deployment = Deployment(program, [])
    x = np.full((runs, 1), sent, np.uint64)
    transcript = deployment.run(x)
    received, given_away = transcript.seen_by(party), transcript.seen_by(1 - party)
    v = planes(np.moveaxis(received[0] ^ given_away[0], 1, 0).reshape(runs, -1), 1)
    e = planes(received[1] ^ given_away[1], 1)
    y, m = ring_bits(received[2] + given_away[2]), ring_bits(x + deployment.dealing(runs).input_mask)
    opened = np.hstack([m, v, e, y])
    fields = deployment.material(party, runs).fields
    held = [(ring_bits if name in ("sent", "lambda", "words") else lambda f: planes(f, 1))(field) for (_, name), field in fields.items()]
    limit = 7 / np.sqrt(runs)
    assert opened.shape[1] == 64 + 42 + 2 + 64
    assert np.abs(opened.mean(axis=0)).max() < limit
    among = opened.T @ opened / runs
    np.fill_diagonal(among, 0)
    assert np.abs(among).max() < limit
    assert np.abs(opened.T @ np.hstack(held) / runs).max() < limit


@pytest.mark.parametrize(("low", "high"), [(1, 0), (-(1 << 62) - 1, 0), (0, 1 << 63)])
def test_a_range_that_is_none_is_refused(low, high):
    with pytest.raises(ProgramError, match="cannot be cut into"):
        infer(clamped(low, high))


# Whole models: with the same randomness what was sent and what it is cut to give the same shares, bit for bit.


def sequential(*parts):
    keras.utils.set_random_seed(2)
    return keras.Sequential(parts)


def two_heads():
    keras.utils.set_random_seed(2)
    x = keras.Input((6,))
    return keras.Model(x, layers.Concatenate()([layers.Dense(2)(x[:, :3]), layers.Dense(2)(x)]))


def categories():
    keras.utils.set_random_seed(2)
    x = keras.Input((2,), dtype="int32")
    return keras.Model(x, layers.Dense(3)(layers.Flatten()(keras.ops.one_hot(x, 6))))


MODELS = {
    "dense": (lambda: sequential(layers.Input((6,)), layers.Dense(3)), (0.0, 1.0)),
    "negative range": (lambda: sequential(layers.Input((6,)), layers.Dense(4, activation="relu"), layers.Dense(3)), (-5.0, -1.0)),
    "a range far from 0": (lambda: sequential(layers.Input((6,)), layers.Rescaling(0.1, -100.0), layers.Dense(3)), (1000.0, 1001.0)),
    "a tiny range": (lambda: sequential(layers.Input((6,)), layers.Dense(3)), (-1e-4, 1e-4)),
    "token ids": (lambda: sequential(layers.Input((5,)), layers.Embedding(9, 4), layers.Flatten(), layers.Dense(3)), (0, 8)),
    "token ids that must be followed": (categories, (0, 5)),
    "image": (
        lambda: sequential(layers.Input((6, 6, 1)), layers.Conv2D(2, 3, activation="relu"), layers.Flatten(), layers.Dense(3)),
        (0.0, 1.0),
    ),
    "attention": (lambda: sequential(layers.Input((4, 3)), layers.LayerNormalization(), layers.Flatten(), layers.Dense(3)), (-1.0, 1.0)),
    "two readers of one input": (two_heads, (0.0, 255.0)),
}


@pytest.mark.parametrize("kind", ["label", "logits", "noisy"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.sample(8)
def test_an_answer_is_that_of_the_cut_input(name, kind):
    make, input_range = MODELS[name]
    answers = NoisyAnswers(clip=0.5, noise_multiplier=1.0, max_epsilon=1e5) if kind == "noisy" else None
    lowered = lower(make(), input_range=input_range, clients="malicious" if kind == "logits" else None, answers=answers)
    program = lowered.program.for_label() if kind == "label" else lowered.program
    low, high = (round(bound / program.input_scale) for bound in input_range)
    assert program.ops[0] == ClampedInput(low, high)
    shape = (12, *program.input_shape)
    x = KeyStream(key(name)).words(shape)
    x[:3] = random_ring((3, *shape[1:]), 4 * max(abs(low), abs(high)), name)
    x[3] = np.uint64(1 << 63)
    inside = x.view(np.int64).clip(low, high).view(np.uint64)
    assert (inside != x).any(axis=tuple(range(1, x.ndim))).all()
    deployment = Deployment(program, lowered.weights, "same")
    sent, cut = deployment.run(x).results, deployment.run(inside).results
    for party in (0, 1):
        np.testing.assert_array_equal(sent[party], cut[party])
    kept = encode(np.linspace(*input_range, x.size).reshape(x.shape), program.input_scale)
    unclamped = lower(make(), input_range=input_range, clients="semi-honest", answers=answers).program if answers is None else None
    if unclamped is not None and kind == "logits":  # inputs inside of the range stay as they are
        before = Deployment(unclamped, lowered.weights).output(kept).view(np.int64)
        assert np.abs(deployment.output(kept).view(np.int64) - before).max() * program.output_scale < 0.02


def test_labels_and_noisy_answers_are_clamped_unless_clients_are_believed():
    model = sequential(layers.Input((3,)), layers.Dense(2))
    noise = NoisyAnswers(clip=0.5, noise_multiplier=1.0, max_epsilon=1e5)
    first = {
        (clients, answers is not None): tuple(
            type(program.ops[0])
            for lowered in [lower(model, clients=clients, answers=answers)]
            for program in (lowered.program, lowered.program.for_label())
        )
        for clients in (None, "malicious", "semi-honest")
        for answers in (None, noise)
    }
    assert first == {
        (None, False): (Input, ClampedInput),
        (None, True): (ClampedInput, ClampedInput),
        ("malicious", False): (ClampedInput, ClampedInput),
        ("malicious", True): (ClampedInput, ClampedInput),
        ("semi-honest", False): (Input, Input),
        ("semi-honest", True): (Input, Input),
    }
    with pytest.raises(ModelError, match="clients='honest'"):
        lower(model, clients="honest")


def tutorial_cnn():
    return sequential(
        layers.Input((28, 28, 1)),
        layers.Conv2D(16, 3),
        layers.AveragePooling2D(2),
        layers.ReLU(),
        layers.Conv2D(32, 3),
        layers.AveragePooling2D(2),
        layers.ReLU(),
        layers.Conv2D(64, 3),
        layers.AveragePooling2D(2),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(10),
    )


def test_the_tutorials_network_needs_twelve_rounds_fifteen_and_with_a_label_sixteen_nineteen():
    x = np.zeros((1, 28, 28, 1), np.uint64)
    costs = {}
    for clients in ("semi-honest", "malicious"):
        lowered = lower(tutorial_cnn(), clients=clients)
        for reveal, program in (("logits", lowered.program), ("label", lowered.program.for_label())):
            transcript = Deployment(program, lowered.weights).run(x)
            costs[clients, reveal] = (transcript.rounds, transcript.sent[0, 1], 8 * layout(program).dealt)
    assert {kind: cost[0] for kind, cost in costs.items()} == {
        ("semi-honest", "logits"): 12,
        ("semi-honest", "label"): 16,
        ("malicious", "logits"): 15,
        ("malicious", "label"): 19,
    }
    for reveal in ("logits", "label"):
        more = np.subtract(costs["malicious", reveal], costs["semi-honest", reveal])
        words = 8 * packed(784)
        assert more.tolist() == [3, 8 * 784 + 44 * words, 24 * 784 + (2041 + 3 * 367) * words]


# What a client could do with elements outside of the range.


def one_sided(inputs: int = 12):
    """A model whose label is 0 on its whole range."""
    model = keras.Sequential([layers.Input((inputs,)), layers.Dense(2)])
    kernel = np.random.default_rng(3).normal(0, 0.3, (inputs, 2))
    model.set_weights([kernel, np.array([40.0, -40.0])])
    return model


@pytest.mark.parametrize("clients", [None, "malicious", "semi-honest"])
def test_labels_tell_nothing_of_weights(clients):
    """Ring elements 2^q e_j read bit after bit of each weight of a believed client's model; all labels are 0 where the input is cut."""
    lowered = lower(one_sided(), clients=clients)
    program = lowered.program.for_label()
    last = program.label or program.ops[-1]
    x = np.array([[1 << q if j == i else 0 for i in range(12)] for j in range(12) for q in range(last.drop + last.window)], np.uint64)
    x = np.concatenate([x, KeyStream(key("anything")).words((400, 12))])
    results = Deployment(program, lowered.weights).run(x).results
    labels = unpack(results[0] ^ results[1], 2).argmax(axis=1)
    assert set(labels.tolist()) == ({0} if clients != "semi-honest" else {0, 1})


MEMBERS, BOUND, CLASSES = 20, 1.0, 3


def ensemble(seed: int | None, changed: int = 0):
    """The mean of networks that end in [0, BOUND]; with a seed one member is another, of the same public program."""
    keras.utils.set_random_seed(1)
    x = keras.Input((4,))
    members = [[layers.Dense(16, activation="relu"), layers.Dense(CLASSES), layers.ReLU(max_value=BOUND)] for _ in range(MEMBERS)]
    outputs = []
    for first, second, end in members:
        outputs.append(end(second(first(x))))
    if seed is not None:
        rng = np.random.default_rng(seed)
        for layer in members[changed][:2]:
            layer.set_weights([rng.permutation(w.ravel()).reshape(w.shape) for w in layer.get_weights()])
    return keras.Model(x, layers.Average()(outputs))


CLAIMED = NoisyAnswers(clip=BOUND, noise_multiplier=7.0, max_epsilon=8.0, sensitivity=2 * BOUND * np.sqrt(CLASSES) / MEMBERS)


def bare(lowered, x: np.ndarray) -> np.ndarray:
    """What is under the noise, in steps."""
    deployment = Deployment(lowered.program, lowered.weights, "s")
    results = deployment.run(x).results
    y = results[0] + results[1]
    for party in (0, 1):
        y = y - discrete_gaussian.sample(KeyStream(deployment.noise_key(party)), lowered.program.ops[-1].sigma, y.shape)
    return y.view(np.int64).astype(np.float64)


def neighbours():
    """An ensemble, and others with the same program that differ from it in one member."""
    whole, found = lower(ensemble(None), answers=CLAIMED), []
    for changed in (0, 11):
        others = (lower(ensemble(seed, changed), answers=CLAIMED) for seed in range(60))
        found += [other for other in [next((other for other in others if other.program == whole.program), None)] if other]
    assert found
    return whole, found


def test_neighbouring_ensembles_are_no_further_apart_than_their_sensitivity_whatever_is_sent():
    whole, others = neighbours()
    claimed = CLAIMED.steps_apart(CLASSES, int(BOUND / whole.program.output_scale), whole.program.output_scale)
    anything = KeyStream(key("anything")).words((400, 4))
    powers = np.array([[1 << (q + 3 * j) % 64 for j in range(4)] for q in range(64)], np.uint64)
    corners = encode(np.array(np.meshgrid(*[[0.0, 1.0]] * 4)).reshape(4, -1).T, whole.program.input_scale)
    for other in others:
        for x in (anything, powers, ~powers, corners, random_ring((400, 4), 1 << 24, "near")):
            apart = np.linalg.norm(bare(whole, x) - bare(other, x), axis=1).max()
            assert apart <= claimed
    assert apart > 0


@pytest.mark.filterwarnings("ignore::protocols.errors.CoarseInput")  # the samples are tiny, so that sums of others leave the window
def test_a_sensitivity_that_would_not_hold_is_refused():
    with pytest.raises(ModelError, match=r'sensitivity=.* with clients="semi-honest"'):
        lower(ensemble(None), answers=CLAIMED, clients="semi-honest")
    deep = [layers.Dense(64, activation="relu", kernel_initializer="ones") for _ in range(6)]
    model = sequential(layers.Input((4,)), *deep, layers.Dense(3), layers.ReLU(max_value=BOUND))
    samples = np.random.default_rng(0).uniform(0, 1e-6, (20, 4))
    assert "calibrated" in {layer.source for layer in lower(model, calibration=samples).layers}
    with pytest.raises(ModelError, match="is right for inputs like the calibration samples only"):
        lower(model, calibration=samples, answers=CLAIMED)
