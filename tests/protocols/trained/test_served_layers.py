"""Every layer that is trained, served as it lies, beside Keras of the same weights; numbers at the edge of what is assumed, and beyond."""

from functools import partial

import keras
import numpy as np
import pytest
from keras import layers, ops
from trained_networks import compiled, data, on_shares

from protocols.errors import ModelError, UnsupportedLayer
from protocols.lowering import lower
from protocols.lowering.forms import check_predicts
from protocols.lowering.scales.checking import RING_BITS
from protocols.mpc import encoding, plaintext
from protocols.mpc.circuit import meaning
from protocols.mpc.engine.loops import costs
from protocols.mpc.operations.wires import Given
from protocols.mpc.program import infer
from protocols.owner.compiled import weights
from protocols.trained.writer import AssumedWriter
from protocols.training.networks.draft import StepDraft
from protocols.training.networks.normalisation import standardised
from tests.protocols.trained.test_served_networks import Case
from tests.protocols.training.test_layers import INDICES, LAYERS, RANDOM, WORDS, attended, chain, dense, graph, transformed
from tests.protocols.training.test_realistic_networks import BATCH, made

ALL = LAYERS | RANDOM
OTHERWISE = ("a block that is told", "a block with a frozen part", "AlphaDropout")  # when they predict
DAILY = ("LayerNormalization", "UnitNormalization", "MultiHeadAttention, causal", "a mean of what is not masked", "a quotient", *OTHERWISE)


def words(model):
    return WORDS if model.input_shape[1:] in (INDICES, (3,)) else 0


@pytest.mark.parametrize("name", [name if name in DAILY else pytest.param(name, marks=pytest.mark.long) for name in ALL])
def test_a_layer_is_served_as_it_is_trained(name):
    model = compiled(ALL[name])
    if name in OTHERWISE:
        with pytest.raises(UnsupportedLayer, match=r"computes otherwise when it predicts .*reveal\(\) it"):
            check_predicts(model)
        return
    x, _ = data(model, words(model))
    case = Case(model, input_range=(0.0, WORDS - 1.0) if words(model) else (-5.0, 5.0), calibration=x)
    answers, outside = case.answers(x)
    assert not outside.any()
    np.testing.assert_allclose(answers, model.predict(x, verbose=0), atol=0.003)


@pytest.mark.long
@pytest.mark.parametrize("name", ["transformer", "text"])
def test_a_network_that_was_trained_on_shares_is_served_as_what_is_revealed_predicts(name):
    model, x, y = made(name)
    after, _ = on_shares(model, x[: 8 * BATCH], y[: 8 * BATCH], epochs=1, batch=BATCH)
    case, rest = Case(model, input_range=(0.0, 49.0), calibration=x[:64]), x[-32:]
    before = case.answers(rest)[0]
    model.set_weights(after)
    answers, outside = case.answers(rest)
    assert not outside.any()
    np.testing.assert_allclose(answers, model.predict(rest, verbose=0), atol=0.005)
    assert np.abs(answers - before).max() > 0.1


ROUNDS = {  # as it is trained; of a prediction by weights that are known, with what is calibrated looked at
    "LayerNormalization": (26, 13),
    "Softmax": (28, 20),
    "MultiHeadAttention": (34, 30),
    "a mean of what is not masked": (24, 16),
}


@pytest.mark.parametrize("name", ROUNDS)
@pytest.mark.sample(2)
def test_rounds(name):
    model = compiled(ALL[name])
    bounds = (0.0, WORDS - 1.0) if words(model) else (-5.0, 5.0)
    case, known = (
        make(model, input_range=bounds, calibration=data(model, words(model))[0]) for make in (Case, partial(lower, checked=True))
    )
    assert tuple(costs(program.ops, infer(program)).rounds for program in (case.program, known.program)) == ROUNDS[name]


# At the edge of what is assumed.


class Claims:
    """How large the numbers of a program are said to be, operation by operation, by whoever wrote it last."""

    def __init__(self, monkeypatch):
        put, reaching = AssumedWriter.put, AssumedWriter.reaching

        def noted_put(writer, op, scale, bounds):
            found = put(writer, op, scale, bounds)
            self._of(writer)[found.position] = bounds.largest
            return found

        def noted_reaching(writer, x, largest):
            self._of(writer)[x.position] = largest
            return reaching(writer, x, largest)

        self.largest, self._writer = {}, None
        monkeypatch.setattr(AssumedWriter, "put", noted_put)
        monkeypatch.setattr(AssumedWriter, "reaching", noted_reaching)

    def _of(self, writer):
        if writer is not self._writer:
            self._writer, self.largest = writer, {}
        return self.largest

    def check(self, case, x, arrays=None):
        """Answers, and the bits: where none is set, every number stays within what is said of it, and within the windows of operations."""
        answers, outside = case.answers(x, arrays)
        made, _ = case.made(arrays)
        for example in encoding.encoded(case.program, x[~outside]):
            values = plaintext.trace(case.program, made, example[None], rounding=_up)  # raises where a window is left
            for at, value in enumerate(values):
                if case.program.ops[at].__class__.__name__ != "Argmax":
                    found = np.abs(value.view(np.int64).astype(np.float64)).max()
                    assert found <= self.largest[at] * (1 + 1e-6) + 1, f"{case.program.ops[at]}"
        return answers, outside


def _up(shape):
    return np.ones(shape, np.uint64)


@pytest.fixture
def claims(monkeypatch):
    return Claims(monkeypatch)


def alone(shape, *hidden):
    """Layers between two that change nothing."""
    ends = [layers.Dense(shape[-1], use_bias=False) for _ in range(2)]
    model = keras.Sequential([layers.Input(shape), ends[0], *hidden, ends[1]])
    model.compile("sgd", "mse")
    for end in ends:
        end.set_weights([np.eye(shape[-1])])
    return model


NORMALISED = {
    "fine": (lambda: layers.LayerNormalization(epsilon=1e-6, center=False, scale=False), 8, 1e-6, True),
    "coarse": (lambda: layers.LayerNormalization(center=False, scale=False), 37, 1e-3, True),
    "without a mean": (lambda: layers.RMSNormalization(epsilon=1e-6), 12, 1e-6, False),
    "without an epsilon": (lambda: layers.UnitNormalization(), 8, 0.0, False),
}


@pytest.mark.parametrize("name", NORMALISED)
def test_rows_that_hardly_vary_or_are_large_are_normalised_or_told(name, claims):
    """Within 2^-10 of a value, and what a step of the inputs makes: 2^-16 / sqrt(v + epsilon)."""
    make, n, epsilon, centred = NORMALISED[name]
    random = np.random.default_rng(0)
    model = alone((n,), make())
    case = Case(model, input_range=(-2000.0, 2000.0), calibration=random.uniform(-900, 900, (64, n)))
    rows = [
        base + deviation * random.normal(size=n) for base in (0.0, 1.0, 300.0) for deviation in (0.0, 2.0**-16, 2.0**-12, 0.001, 0.1, 9)
    ]
    rows += [edge * random.permutation(np.resize([1.0, -1.0], n)) for edge in (300.0, 355.0, 365.0, 500.0, 520.0, 1999.0)]
    x = np.round(np.array(rows) * 2.0**16) * 2.0**-16
    answers, outside = claims.check(case, x)
    c = x - x.mean(1, keepdims=True) * centred
    v = (c**2).mean(1, keepdims=True) + epsilon
    v = np.maximum(v, 2.0**-60)
    exact = c / np.sqrt(v) / (1 if epsilon else n**0.5)
    tolerance = 2.0**-10 * np.abs(exact) + 2 * 2.0**-16 / np.sqrt(v) + 2.0**-12
    np.testing.assert_array_less(np.abs(answers - exact)[~outside], tolerance[~outside])
    largest = np.abs(x).max(1)
    assert not outside[(largest < 350) & (v[:, 0] > 2.0**-25)].any()
    assert outside[(largest > 512) | (v[:, 0] < 2.0**-27)].all()


@pytest.mark.parametrize("n", [3, 37, 512, 768, 2048, 3000, (1 << 17) + 2])
@pytest.mark.parametrize("centred", [True, False])
def test_numbers_in_a_normalisation_are_within_what_is_proved_of_them(n, centred):
    """Rows as large as they may be, in any pattern, and rows that vary by steps: no sum leaves the ring, and no window is left."""
    draft, random = StepDraft(), np.random.default_rng(0)
    given = draft.put(Given("x", (8, n), "wire"))
    standardised(draft, given, 1, 0.0, centred=centred)
    most = int(draft.within[given])
    assert most >= 2**16 * (128 if centred else 256) * 0.99
    few = 1 + (np.arange(n) >= n // 2048)
    x = np.array(
        [
            np.resize([most, -most], n),
            np.where(np.arange(n) == 0, -most, most),
            np.where(np.arange(n) < n // 3, -most, most),
            np.full(n, most),
            most - np.arange(n) % 2,
            np.where(few == 1, -most, most),
            np.arange(n) == n - 1,
            random.integers(-most, most + 1, n),
        ]
    )
    circuit = draft.circuit({str(at): at for at in range(len(draft.operations))})
    given = {"x": x.astype(np.int64).view(np.uint64)}
    for rounding in (_up, lambda shape: np.zeros(shape, np.uint64)):
        for name, value in meaning(circuit, given, rounding).items():
            found = np.abs(value.view(np.int64).astype(np.float64)).max()
            assert found <= min(draft.proved.get(int(name), np.inf), 2.0**RING_BITS), f"{draft.operations[int(name)]}"


def test_logits_of_a_softmax_are_right_or_told_however_large_they_are(claims):
    random = np.random.default_rng(0)
    case = Case(alone((3, 5), layers.Softmax()), input_range=(-2000.0, 2000.0))
    x = random.normal(size=(16, 3, 5)) * np.geomspace(0.01, 700, 16)[:, None, None]
    x[3], x[4], x[5, 0] = 175.0, -175.0, [175, -175, 175, 174, -175]
    answers, outside = claims.check(case, x)
    powers = np.exp(x - x.max(-1, keepdims=True))
    exact = powers / powers.sum(-1, keepdims=True)
    np.testing.assert_allclose(answers[~outside], exact[~outside].reshape(-1, 15), atol=0.003)
    largest = np.abs(x).max((1, 2))
    assert not outside[largest < 175.5].any()
    assert outside[largest > 182].all()


EDGES = {
    "a transformer's block": graph((3, 4), transformed),
    "attention, masked": graph((3, 4), attended("MultiHeadAttention", 2, 2, call=("use_causal_mask",))),
    "a quotient": graph((4,), lambda x: layers.Dense(3)(x) / (0.001 + ops.square(layers.Dense(3)(x)))),
    "normalised": chain((4,), dense(), lambda: layers.LayerNormalization(epsilon=1e-4), dense(5, "relu")),
    "a mean of words": chain((4,), lambda: layers.Embedding(5, 3, mask_zero=True), dense(4), layers.GlobalAveragePooling1D),
}


DAILY_EDGES = ("normalised",)


@pytest.mark.parametrize("name", [name if name in DAILY_EDGES else pytest.param(name, marks=pytest.mark.long) for name in EDGES])
def test_weights_up_to_the_edge_of_their_windows_give_answers_that_are_right_or_told(name, claims):
    """The weights before the last layer, larger and larger: whichever answer is not told is Keras', and no number is beyond its bound."""
    model, random = compiled(EDGES[name]), np.random.default_rng(0)
    embedded = name == "a mean of words"
    x = random.integers(5, size=(4, 4)).astype(np.float64) if embedded else random.uniform(-4, 4, (4, *model.input_shape[1:]))
    case = Case(model, input_range=(0.0, 4.0) if embedded else (-4.0, 4.0), calibration=x)
    *inner, kernel, bias = model.get_weights()

    def told(changed):
        """How many answers are told to mean nothing; None: the weights are refused when they are placed."""
        model.set_weights([*changed, kernel, bias])
        try:
            if case.made(weights(model))[1]:
                return None
        except ModelError:
            return None
        answers, outside = claims.check(case, x, weights(model))
        right = model.predict(x, verbose=0)
        np.testing.assert_allclose(answers[~outside], right[~outside], atol=0.01, rtol=0.004)
        return outside.sum()

    assert told(inner) == 0
    assert told([one * 30 for one in inner]) is not None
    assert told([one * 2.0**15 for one in inner]) is None
    found = []
    for at in range(len(inner)):  # one number as large as it may be
        changed = [one.copy() for one in inner]
        changed[at].reshape(-1)[0] = 0.9 * case.served.largest
        found.append(told(changed))
    assert None not in found
    assert max(found) > 0


def test_what_is_divided_by_is_not_small_or_it_is_told(claims):
    """1 / x for |x| from 2^-12 on, as long as that stays within activations."""
    x = keras.Input((4,))
    model = keras.Model(x, 1.0 / layers.Dense(4, use_bias=False)(x))
    model.compile("sgd", "mse")
    model.layers[1].set_weights([np.eye(4)])
    case = Case(model, input_range=(-600.0, 600.0), calibration=np.random.default_rng(0).uniform(1, 500, (32, 4)))
    rows = np.array([-599, -500, -1, -(2.0**-8), 0, 2.0**-13, 2.0**-12, 2.0**-10, 2.0**-8.5, 0.5, 1, 500, 513, 599])
    given = np.repeat(np.round(rows * 2**16)[:, None] / 2**16, 4, 1)
    answers, outside = claims.check(case, given)
    right = (given[:, 0] > 2.0**-8.9) & (given[:, 0] < 511)
    assert not outside[right].any()
    assert outside[~right].all()
    np.testing.assert_allclose(answers[right], 1 / given[right], rtol=0.002, atol=2.0**-14)
