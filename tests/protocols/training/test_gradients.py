"""Each operation carries its gradient: beside differences of what it means, in the simulator; and a network beside TensorFlow."""

import keras
import numpy as np
import pytest
from training_deployment import SCALE, Trainers

from deployment import key
from protocols.errors import ProgramError
from protocols.mpc import operations
from protocols.mpc.circuit import Builder, meaning
from protocols.mpc.engine.operation import Operation
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.operations.bilinear import Bilinear, Convolve, InputGradient, KernelGradient, MatMul
from protocols.mpc.operations.drawn import Drawn
from protocols.mpc.operations.flat import Piece, Row
from protocols.mpc.operations.moves import Concatenate, Pad, Permute, Put, Reshape, Take
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Project, Scale, Sum
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import AsShare, Given, Open
from protocols.training.networks.draft import StepDraft
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.random import tables


def given(name, *shape, kind="wire"):
    return Given(name, shape, kind)


STEP = {"strides": (2, 2), "padding": ((1, 0), (0, 0))}
X, TABLE, STACK = given("x", 6, 4), given("table", 6, 4, kind="share"), given("stack", 2, 3, 4)
IMAGE, KERNEL, BACK = given("image", 2, 6, 5, 3), given("kernel", 3, 2, 3, 4), given("back", 2, 3, 2, 4)

OPERATIONS = {
    "Combine": (X, TABLE, Combine((0, 1, 0), (3, -4, 2), 9)),
    "Combine, broadcast": (X, given("row", 1, 4, kind="share"), given("z", 4), Combine((0, 1, 2), (3, -4, 1))),
    "Scale": (X, Scale(0, (1, -2, 3, 4), (4,))),
    "Sum of an axis": (X, Sum(0, 1)),
    "Sum of an axis that goes": (X, Sum(0, 0, keep=False)),
    "Sum of all": (STACK, Sum(0)),
    "Reshape": (X, Reshape(0, (3, 8))),
    "Permute": (STACK, Permute(0, (2, 0, 1))),
    "Take": (X, Take(0, 0, (1, 1, 5, 0))),
    "Pad": (STACK, Pad(0, ((1, 0), (0, 2)))),
    "Concatenate": (X, TABLE, Concatenate((0, 1, 0), 1)),
    "Put": (X, TABLE, Put((0, 1), 0, ((1, 1, 0, 3, 4, 5), (0, 1, 2, 3, 4, 6)), 7)),
    "Row": (X, TABLE, STACK, Row((0, 2, 1))),
    "Piece": (X, Reshape(0, (24,)), Piece(1, 5, (3, 4))),
    "Multiply": (X, given("u", 6, 4), Multiply(0, 1)),
    "Multiply, broadcast": (X, given("z", 4), Multiply(0, 1)),
    "Multiply by itself": (X, Multiply(0, 0)),
    "MatMul": (X, given("y", 4, 5), MatMul(0, 1)),
    "MatMul, left turned": (given("a", 4, 6), given("y", 4, 5), MatMul(0, 1, transpose_x=True)),
    "MatMul, right turned": (X, given("b", 5, 4), MatMul(0, 1, transpose_y=True)),
    "MatMul, both turned": (given("a", 4, 6), given("b", 5, 4), MatMul(0, 1, transpose_x=True, transpose_y=True)),
    "MatMul of several": (STACK, given("c", 2, 4, 2), MatMul(0, 1)),
    "Convolve": (IMAGE, KERNEL, Convolve(0, 1, **STEP)),
    "KernelGradient": (IMAGE, BACK, KernelGradient(0, 1, (3, 2), **STEP)),
    "InputGradient": (BACK, KERNEL, InputGradient(0, 1, (6, 5), **STEP)),
    "Open": (TABLE, Open(0)),
    "AsShare": (X, AsShare(0)),
    "Truncate": (X, Combine((0,), (64,)), Truncate(1, 6, 40)),
    "Truncate that loses bits": (X, Truncate(0, 6, 40)),
    "Select": (X, Select(0, 6, 40, 3, -2, 0)),
    "Drawn": (X, Drawn(0, "drawn", (6, 4), 1 << 15)),
    "Drawn, one for a row": (X, Drawn(0, "drawn", (6, 1), 0, 1 << 12, 12)),
    "Drawn that is added": (X, Drawn(0, "drawn", (6, 4), 0, 1 << 12, 0, added=True)),
    "Piecewise": (X, Piecewise(0, 6, 40, (-1024, 2048), (1, -2, 3), (0, 512, 7))),
}
BITS = {"Drawn, one for a row": FRACTION + 12, "Truncate that loses bits": FRACTION - 6, "Select": FRACTION - 6, "Piecewise": FRACTION - 6}


def gradients(name):
    """For a gradient by the last value of a circuit, those by what is given; and what is given."""
    draft, random, ops = StepDraft(), np.random.default_rng(1), OPERATIONS[name]
    for op in ops[:-1]:
        draft.put(op, FRACTION + 6 if isinstance(op, Combine) else FRACTION)
    last = draft.put(ops[-1], 2 * FRACTION if isinstance(ops[-1], Multiply | Bilinear) else BITS.get(name, FRACTION))
    slope = 2.0 * random.integers(-3, 3, draft.value(last).shape) + 1
    inputs = {op.name: at for at, op in enumerate(ops) if isinstance(op, Given)}
    numbers = {key: random.integers(-9, 10, draft.value(at).shape).astype(float) + 0.25 for key, at in inputs.items()}
    found = draft.gradients({last: draft.put(Given("slope", slope.shape, "share"))}, inputs.values())
    bits, encoded = draft.bits(last), {key: encode(value, SCALE) for key, value in {**numbers, "slope": slope}.items()}
    shares = Trainers(draft.circuit({key: found[at] for key, at in inputs.items()})).outputs(encoded)
    back = {key: decode(shares[key], 2.0 ** -draft.bits(found[at])) for key, at in inputs.items()}
    return numbers, slope, back, bits


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_gradient_is_what_the_value_changes_by(name):
    """<G, f(x + d) - f(x - d)> = 2 <gradient, d>, in each operand; products are of degree two at most, and steps stay on their pieces."""
    numbers, slope, back, bits = gradients(name)
    build = Builder()
    forward = build.circuit({"out": [build(op) for op in OPERATIONS[name]][-1]})

    def value(inputs):
        encoded = {name: encode(one, SCALE) for name, one in inputs.items()} | tables(forward, key("drawn"))
        return decode(meaning(forward, encoded, lambda shape: np.zeros(shape, np.uint64))["out"], 2.0**-bits)

    for name_of, x in numbers.items():
        step = np.random.default_rng(2).integers(-3, 4, x.shape) / 64
        change = (slope * (value(numbers | {name_of: x + step}) - value(numbers | {name_of: x - step})).reshape(slope.shape)).sum()
        assert back[name_of].shape == x.shape
        assert np.abs(back[name_of]).max() > 0
        assert (back[name_of] * step).sum() * 2 == pytest.approx(change, abs=0.01)


def test_each_operation_has_a_gradient_here_or_says_why_not():
    tested = {type(ops[-1]) for ops in OPERATIONS.values()}
    for one in operations.AnyOp.__args__:
        assert (one in tested) + one.flat + bool(one.ungraded) == 1 or one.__name__ in ("SumPool", "Shift", "AddNoise"), one
    with pytest.raises(TypeError, match=r"the operation Silent has no rule .*gradient"):
        type("Silent", (Operation,), {"__module__": __name__}, frozen=True)


def test_no_gradient_is_written_where_none_is_wanted_or_the_value_is_flat():
    draft = StepDraft()
    x, w = draft.put(given("x", 2, 3)), draft.put(given("w", 3, 4))
    z = draft.affine(draft.put(MatMul(x, w), 2 * FRACTION))
    bit = draft.put(Sign(z), 0)
    y, g = draft.put(Multiply(bit, z)), draft.put(Given("g", (2, 4), "share"))
    found = draft.gradients({y: g}, [w])
    circuit = draft.circuit({"by w": found[w]})
    assert [type(op).__name__ for op in circuit.ops].count("MatMul") == 2  # forward, and by w; not by x
    assert sum(isinstance(op, Multiply) for op in circuit.ops) == 1  # backward; nothing by the bit, and nobody needs y itself
    with pytest.raises(ProgramError, match=r"operation \d+ \(Project\) has no gradient: it is made to look at values"):
        draft.gradients({draft.put(Project(w, 2, 4)): draft.put(Given("p", (3, 2), "share"))}, [w])


def test_a_network_with_a_skip_connection_a_product_and_a_slice_beside_tensorflow():
    """Gradients of up to 100, each within 0.05."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    x, w1, w2, w3 = random.normal(size=(16, 6)), *(random.normal(size=s) / 2 for s in ((6, 8), (8, 8), (4, 3)))
    target = random.normal(size=(16, 3))
    draft = StepDraft()
    at = {name: draft.put(Given(name, one.shape, "share")) for name, one in {"x": x, "w1": w1, "w2": w2, "w3": w3, "y": target}.items()}

    def dense(a, w):
        return draft.put(MatMul(draft.opened(a), draft.opened(w)), 2 * FRACTION)

    h = draft.affine(dense(at["x"], at["w1"]))
    h = draft.put(Multiply(draft.put(Sign(h), 0), h))
    z = draft.affine(dense(h, at["w2"]))
    s = draft.affine(draft.put(Combine((h, draft.put(Multiply(z, z), 2 * FRACTION)), (1 << FRACTION, 1)), 2 * FRACTION))
    out = draft.affine(dense(draft.put(Take(s, 1, (0, 2, 4, 6))), at["w3"]))
    error = draft.put(Combine((out, at["y"]), (1, -1)))
    found = draft.gradients({out: error}, [at[name] for name in ("w1", "w2", "w3")])
    circuit = draft.circuit({name: draft.factor(found[at[name]]) for name in ("w1", "w2", "w3")})
    outputs = Trainers(circuit).real({"x": x, "w1": w1, "w2": w2, "w3": w3, "y": target})
    weights = [tf.Variable(w) for w in (w1, w2, w3)]
    with tf.GradientTape() as tape:
        a = keras.ops.relu(x @ weights[0])
        loss = tf.reduce_sum((tf.gather(a + (a @ weights[1]) ** 2, [0, 2, 4, 6], axis=1) @ weights[2] - target) ** 2) / 2
    for name, expected in zip(("w1", "w2", "w3"), tape.gradient(loss, weights), strict=True):
        np.testing.assert_allclose(outputs[name], expected, atol=0.05, err_msg=name)
