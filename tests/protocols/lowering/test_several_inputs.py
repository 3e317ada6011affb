"""Models with several inputs and outputs, in lists and dicts, each with its own range and dtype: the same answers as Keras."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from deployment import Deployment
from protocols.errors import InputError, ModelError
from protocols.lowering import lower
from protocols.mpc.encoding import encoded, rows
from protocols.mpc.inputs.structure import NamedShape, Structure
from protocols.mpc.numbers.fixed_point import decode
from protocols.selfcheck.comparison import compare

STEPS, FACTS = 6, 3
RANGES = {"token_ids": (0, 8), "mask": (0, 1), "facts": (np.array([0.0, -2.0, 100.0]), np.array([1.0, 2.0, 5000.0]))}


def named(*, dense=4):
    """Codes, their mask, and a table of mixed features: two outputs by name."""
    keras.utils.set_random_seed(0)
    tokens, mask = (layers.Input((STEPS,), dtype="int32", name=name) for name in ("token_ids", "mask"))
    facts = layers.Input((FACTS,), name="facts")
    x = layers.Embedding(9, 4)(tokens) * ops.cast(mask, "float32")[:, :, None]
    known = layers.Normalization(mean=[0.5, 0.0, 2000.0], variance=[0.1, 1.0, 1e6])(facts)
    both = layers.Concatenate()([ops.mean(x, axis=1), layers.Dense(dense, activation="relu")(known)])
    outputs = {"steps": layers.Dense(2)(x), "class": layers.Dense(3, activation="softmax")(both)}
    return keras.Model({"token_ids": tokens, "mask": mask, "facts": facts}, outputs)


def listed():
    """Two images and one output."""
    keras.utils.set_random_seed(0)
    first, second = layers.Input((5, 5, 1)), layers.Input((4,))
    return keras.Model([first, second], layers.Dense(2)(layers.Concatenate()([layers.Flatten()(layers.Conv2D(2, 2)(first)), second])))


def two_outputs():
    """One input, a list of outputs."""
    keras.utils.set_random_seed(0)
    x = layers.Input((4,))
    return keras.Model(x, [layers.Dense(2, activation="sigmoid")(x), layers.Reshape((2, 2))(x * 100)])


def examples(count=5):
    rng = np.random.default_rng(0)
    return {
        "facts": rng.uniform(*RANGES["facts"], (count, FACTS)),
        "token_ids": rng.integers(0, 9, (count, STEPS)),
        "mask": rng.integers(0, 2, (count, STEPS)),
    }


def answers(lowered, x):
    program = lowered.program
    shares = Deployment(program, lowered.weights).run(encoded(program, rows(program, x).astype(np.float64))).results
    found = decode(shares[0] + shares[1], program.output_scale)
    return program.outputs.cut(found) if isinstance(program.outputs, Structure) else found.reshape(-1, *program.output_shape)


@pytest.mark.parametrize("calibrated", [False, True])
def test_names_have_ranges_and_types_of_their_own(calibrated):
    model, x = named(), examples()
    lowered = lower(model, input_range=RANGES, calibration=x if calibrated else None)
    found, expected = answers(lowered, x), model({k: np.asarray(v, "float32" if k == "facts" else "int32") for k, v in x.items()})
    assert set(found) == {"steps", "class"}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=2e-3)
    assert lowered.program.label is None
    assert compare(model, lowered, calibration=x if calibrated else None).error < 0.01


def test_lists_are_taken_and_given():
    x = [np.random.default_rng(0).uniform(size=(3, *shape)) for shape in ((5, 5, 1), (4,))]
    model = listed()
    names = [one.name for one in model.inputs]
    for input_range in ((0, 1), dict.fromkeys(names, (0, 1)), {names[0]: (0, 1), names[1]: (-3, 3)}):
        lowered = lower(model, input_range=input_range, calibration=x)
        np.testing.assert_allclose(answers(lowered, x), model(x), atol=1e-3)
        assert lowered.program.label is not None
    found, model = answers(lower(two_outputs()), x[1]), two_outputs()
    assert isinstance(found, list)
    for one, expected in zip(found, model(x[1]), strict=True):
        np.testing.assert_allclose(one, expected, atol=3e-3)


def test_one_input_and_one_output_are_no_structure():
    program = lower(keras.Sequential([layers.Input((4,)), layers.Dense(2)])).program
    assert not isinstance(program.inputs, Structure)
    assert not isinstance(program.outputs, Structure)


@pytest.mark.parametrize(
    ("ranges", "complaint"),
    [
        ({"token_ids": (0, 8)}, r"has the names \['token_ids'\]; the inputs are"),
        ({**RANGES, "other": (0, 1)}, "'other'"),
        ({**RANGES, "facts": (np.zeros(4), np.ones(4))}, r"input_range of 'facts': a pair .* that fits \(3,\)"),
        ((np.zeros(3), np.ones(3)), "give it by name"),
    ],
)
def test_ranges_that_fit_no_input_are_refused(ranges, complaint):
    with pytest.raises(ModelError, match=complaint):
        lower(named(), input_range=ranges)


def test_what_does_not_fit_the_structure_is_refused():
    program = lower(named(), input_range=RANGES).program
    x = examples()
    wrong = {
        "are needed in a dict": list(x.values()),
        r"\['facts'\] were given": {"facts": x["facts"]},
        r"input 'mask' has shape \(5, 5\)": {**x, "mask": x["mask"][:, :5]},
        "5 examples, 4|4 examples|5, 4": {**x, "mask": x["mask"][:4]},
        "'facts' has dtype <U1": {**x, "facts": np.full((5, 3), "a")},
    }
    for complaint, given in wrong.items():
        with pytest.raises(InputError, match=complaint):
            rows(program, given)
    with pytest.raises(ModelError, match="calibration sample"):
        lower(named(), input_range=RANGES, calibration=x["facts"])
    deep = layers.Input((2,)), layers.Input((2,))
    with pytest.raises(ModelError, match="within others"):
        lower(keras.Model({"a": [deep[0]], "b": [deep[1]]}, layers.Dense(1)(deep[0] + deep[1])))


def test_a_row_is_what_was_joined():
    structure = Structure("dict", (NamedShape("a", (2, 2)), NamedShape("b", (3,))))
    values = {"b": np.arange(6).reshape(2, 3), "a": np.arange(8).reshape(2, 2, 2)}
    for name, value in structure.cut(structure.joined(values, "input")).items():
        np.testing.assert_array_equal(value, values[name])
    assert {name: one.tolist() for name, one in structure.first(values).items()} == {"a": [[0, 1], [2, 3]], "b": [0, 1, 2]}
    assert structure.shapes == {"a": (None, 2, 2), "b": (None, 3)}


@pytest.mark.parametrize("held", [lambda x: {"a": x}, lambda x: [x]], ids=["dict", "list"])
def test_the_only_input_is_given_alone(held):
    start = layers.Input((3,), name="a")
    program = lower(keras.Model(held(start), layers.Dense(2)(start)), input_range=(-1, 1)).program
    assert rows(program, np.zeros((2, 3))).shape == (2, 3)
    with pytest.raises(InputError, match=r"the model has one input: give its array"):
        rows(program, held(np.zeros((2, 3))))


def test_the_only_calibration_samples_are_given_alone():
    start = layers.Input((3,), name="a")
    with pytest.raises(ModelError, match=r"the model has one input: give its array"):
        lower(keras.Model({"a": start}, layers.Dense(2)(start)), input_range=(-1, 1), calibration={"a": np.zeros((2, 3))})
