"""A network cut into a frozen base and a head: both are one step of the whole; what ends a base, and who keeps what of it."""

import keras
import msgspec
import numpy as np
import pytest
from keras import layers
from training_deployment import SCALE, Trainers

from deployment import key
from protocols.datasets.dataset import DATASET_LIMIT, Dataset
from protocols.datasets.use import Stretch, Use
from protocols.errors import InputError
from protocols.mpc.circuit import deal_in_segments, evaluate, evaluate_in_segments
from protocols.mpc.engine.values import Affine
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.operations.wires import Given
from protocols.mpc.parties.exchange import Party
from protocols.mpc.parties.keystream import KeyStream
from protocols.mpc.parties.material import Expansion
from protocols.mpc.parties.simulator import simulate
from protocols.owner.compiled import plan as plan_of
from protocols.owner.compiled import weights
from protocols.storage.holdings import Holdings
from protocols.training.asked import FEATURES, BaseOutputs, SharedPrediction
from protocols.training.base import parts
from protocols.training.networks.layers import ConvolutionLayer, TakenLayer
from protocols.training.networks.random import DroppedLayer
from protocols.training.private.settings import Private
from protocols.training.step import step
from protocols.training.terms import TrainingTerms, check, check_made

BATCH = 4
SHAPE = (6, 6, 1)


def base(x):
    part = keras.Sequential([layers.Input(SHAPE), layers.Conv2D(3, 3), layers.BatchNormalization(), layers.ReLU()])
    part.layers[1].set_weights([np.random.default_rng(7).uniform(0.5, 2, 3) for _ in range(4)])
    part.trainable = False
    return part(x)


def mean(x):
    return layers.GlobalAveragePooling2D()(x)


def dropped(x):
    return layers.Dense(3)(layers.Dropout(0.5)(mean(base(x))))


def normalised(x):
    return layers.Dense(3)(layers.BatchNormalization()(mean(base(x))))


def of_two(x):
    made = base(x)
    return layers.Add()([layers.Dense(3)(mean(made)), layers.Dense(3)(layers.Flatten()(layers.MaxPooling2D()(made)))])


def of_the_input_too(x):
    return layers.Add()([layers.Dense(3)(mean(base(x))), layers.Dense(3)(layers.Flatten()(x))])


def frozen_behind(x):
    """What is frozen behind the head is computed in each step."""
    return layers.Dense(3)(layers.Dense(4, "relu", trainable=False)(layers.Dense(5, "relu")(mean(base(x)))))


BASES = {
    "a chain": (lambda x: layers.Dense(3)(mean(base(x))), 3),
    "a dropout": (dropped, 3),
    "a normalisation by the batch": (normalised, 3),
    "two values": (of_two, 3 + 12),
    "the input, too": (of_the_input_too, 36 + 3),
    "frozen behind": (frozen_behind, 3),
    "a penalty": (lambda x: layers.Dense(3)(layers.ActivityRegularization(0.5, 0.1)(mean(base(x)))), 3),
}
"""Networks, and how many features their bases give."""


def made(network):
    keras.utils.set_random_seed(1)
    start = keras.Input(SHAPE)
    model = keras.Model(start, network(start))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    return model


def given(model, plan, batch=BATCH):
    rng = np.random.default_rng(3)
    values = {name: encode(number, SCALE) for name, number in zip(plan.shapes, weights(model), strict=True)}
    values |= {name: np.zeros(shape, np.uint64) for name, shape in plan.states.items()}
    return values | {"x": encode(rng.normal(size=(batch, 36)), SCALE), "y": encode(rng.normal(size=(batch, 3)), SCALE)}


@pytest.mark.parametrize("name", BASES)
def test_base_and_head_are_one_step_of_the_network(name):
    network, count = BASES[name]
    model = made(network)
    plan = plan_of(model)
    values, cut = given(model, plan), parts(plan, BATCH)
    features = Trainers(SharedPrediction(cut.base).circuit(BATCH)).outputs(values)
    whole = Trainers(step(plan, BATCH)).outputs(values)
    head = Trainers(step(cut.head, BATCH)).outputs(values | {"x": features["outputs"]})
    assert cut.base.outputs == cut.head.inputs == count
    assert not any(isinstance(node, ConvolutionLayer) for node in cut.head.layers)
    assert not any(isinstance(node, DroppedLayer) for node in cut.base.layers)
    assert any(isinstance(node, TakenLayer) for node in cut.head.layers) == (name in ("two values", "the input, too"))
    for weight in plan.trained:
        moved = decode(whole[weight] - values[weight], SCALE)
        assert np.abs(moved).max() > 1e-3 or "normalisation" in name
        np.testing.assert_allclose(decode(head[weight] - values[weight], SCALE), moved, atol=4e-4 if "normalisation" in name else 1e-4)
    assert not features["outside"].any()
    assert not head["outside"].any()


@pytest.mark.parametrize(
    "network",
    [
        lambda x: layers.Dense(3)(layers.Flatten()(layers.Rescaling(0.5)(x))),
        lambda x: layers.Dense(3)(layers.Dense(4, "relu", trainable=False)(layers.Dense(4)(layers.Flatten()(x)))),
        lambda x: layers.Dense(3)(mean(base(layers.Conv2D(1, 1)(x)))),
        lambda x: layers.Dense(3)(mean(base(layers.Dropout(0.5)(x)))),
    ],
    ids=["nothing frozen", "frozen behind", "a base behind a layer", "a base behind a dropout"],
)
def test_what_has_no_base_is_not_cut(network):
    assert parts(plan_of(made(network)), BATCH) is None


def test_features_that_no_array_may_hold_are_computed_in_each_step():
    plan = plan_of(made(BASES["a chain"][0]))
    most = DATASET_LIMIT // (8 * 3)
    assert parts(plan, most) is not None
    assert parts(plan, most + 1) is None


@pytest.mark.parametrize("segment", [None, 4096], ids=["whole", "in segments"])
def test_each_server_keeps_its_half_of_the_mask_and_the_dealer_both(segment):
    """Servers know m = x + lambda and nothing else alike; no output has the features."""
    model = made(BASES["a chain"][0])
    plan = plan_of(model)
    cut = parts(plan, BATCH)
    values, circuit = given(model, plan), BaseOutputs(cut.base).circuit(BATCH)
    keys, masks, held = (key("first"), key("second")), {}, ({}, {})
    for op in circuit.ops:
        if isinstance(op, Given):
            halves = [KeyStream(key(f"{op.name}{i}")).words(op.shape) for i in (0, 1)]
            value = values[op.name].reshape(op.shape)
            masks[op.name] = halves[0] + halves[1]
            for i in (0, 1):
                share = halves[0] if i == 0 else value - halves[0]
                held[i][op.name] = Affine(value + masks[op.name], {"R": halves[i]}) if op.kind == "wire" else share
    of_dealer, of_servers, pieces = {}, ({}, {}), circuit.segments(segment)
    dealt = list(deal_in_segments(circuit, pieces, masks, keys, of_dealer))
    runs = {}
    for i in (0, 1):
        half = Expansion(keys[i])

        async def supply(number, i=i, half=half):
            return half.material(pieces[number].layout, 1, dealt[number] if i else None)

        if segment is None:
            runs[i] = evaluate(Party(i), circuit, half.material(circuit.layout, 1, dealt[0] if i else None), held[i], wires=of_servers[i])
        else:
            runs[i] = evaluate_in_segments(Party(i), circuit, pieces, supply, held[i], of_servers[i])
    results = simulate(runs).results
    first, second = (of_servers[i][FEATURES] for i in (0, 1))
    assert len(pieces) > 1 or segment is None
    assert set(results[0]) == {"outside"}
    np.testing.assert_array_equal(first.a, second.a)
    np.testing.assert_array_equal(of_dealer[FEATURES], first.mask + second.mask)
    expected = keras.Model(model.inputs, model.layers[-2].output).predict(decode(values["x"], SCALE).reshape(BATCH, *SHAPE), verbose=0)
    np.testing.assert_allclose(decode(first.a - of_dealer[FEATURES], SCALE), expected, atol=3e-4)


def test_of_a_private_training_nothing_is_looked_at_in_its_base():
    plan = plan_of(made(BASES["a chain"][0]))
    private = msgspec.structs.replace(plan, private=Private(1.0, 1.0, BATCH))
    cut = parts(private, BATCH)
    circuit = BaseOutputs(cut.base).circuit(BATCH)
    assert isinstance(circuit.ops[circuit.outputs["outside"]], Given)


def test_who_may_be_told_of_features_is_who_may_be_told_of_examples_and_of_weights():
    holdings, mine, open_to = Holdings(), b"mine", Use(min_batch=2, reveal_to=("ann", "bob"))
    holdings.stretches[b"theirs"] = [Stretch(3, open_to), Stretch(4, Use())]
    of_weights = Use(min_batch=9, reveal_to=("bob", "eve"))
    assert holdings.allowed([mine], 7, Use()) == []
    assert holdings.allowed([b"theirs"], 7, Use()) == holdings.stretches[b"theirs"]
    assert holdings.allowed([mine], 7, of_weights) == [Stretch(7, Use(reveal_to=("bob", "eve")))]
    assert holdings.allowed([b"theirs"], 7, of_weights) == [
        Stretch(3, Use(min_batch=2, reveal_to=("bob",))),
        Stretch(4, Use(reveal_to=("bob", "eve"))),
    ]
    holdings.stretches[b"others"] = [Stretch(2, Use(reveal_to=("ann",))), Stretch(5, Use(min_batch=4))]
    assert holdings.allowed([b"theirs", mine, b"others"], 7, Use()) == [
        Stretch(2, Use(min_batch=2, reveal_to=("ann",))),
        Stretch(1, Use(min_batch=4, reveal_to=("ann", "bob"))),
        Stretch(4, Use(min_batch=4)),
    ]


def test_a_run_is_held_as_what_it_has_made_only():
    cut = parts(plan_of(made(BASES["a chain"][0])), 5)
    x = Dataset("x", (5, 36), "numbers", b"x", b"ids")
    terms = TrainingTerms(b"run", BaseOutputs(cut.base), x, None, 2, b"0" * 16, 1 << 20, False, "net")
    check(terms)
    rows = np.concatenate(terms.rows(0))
    laid = terms.stored([np.stack([part, part], 1).astype(np.uint64) for part in terms.rows(0)])
    np.testing.assert_array_equal(laid[:, 0], np.arange(5))
    assert list(rows) != list(range(5))
    with pytest.raises(InputError, match="nothing of each"):
        terms.stored([np.zeros((4, 3), np.uint64)])
    array = np.zeros((5, 3), np.uint64)
    check_made(terms, Dataset("x", (5, 3), "numbers", b"new", b"ids"), array)
    for wrong in ({"shape": (5, 4)}, {"records": b""}, {"binary": True}, {"content": "labels"}):
        with pytest.raises(InputError, match="is to be held"):
            check_made(terms, msgspec.structs.replace(Dataset("x", (5, 3), "numbers", b"new", b"ids"), **wrong), array)
