"""Whole programs in the simulator against the plaintext oracle: values, rounds, bytes, and what each party sees."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployment import Deployment, random_ring
from protocols.mpc import inference
from protocols.mpc.operations.argmax import Argmax, levels
from protocols.mpc.operations.moves import Concatenate, Pad, Reshape
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.sums import Combine, Scale, SumPool
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.weights import Conv2D, Dense
from protocols.mpc.operations.wires import AsShare, Input, Open
from protocols.mpc.parties.exchange import Party
from protocols.mpc.plaintext import evaluate
from protocols.mpc.program import Program

RANGE = (-1.0, 1.0)
ROUNDING = 64 * 400 * 40
"""What rounding can do to a logit of the tutorial's CNN with weights up to 400: far below the logits themselves."""


def signed(x: np.ndarray) -> np.ndarray:
    return x.view(np.int64)


def weights_of(program: Program, bound: int = 1000) -> list[np.ndarray]:
    return [random_ring(shape, bound, f"w{i}") for i, shape in enumerate(program.weights)]


def tutorial() -> Program:
    """The lowered CNN of the tutorial: pools folded into the kernels."""
    ops = (
        Input(),
        Conv2D(0, 0, 1, strides=(2, 2)),
        Select(1, 13, 24),
        Open(2),
        Conv2D(3, 2, 3, strides=(2, 2)),
        Select(4, 13, 24),
        Open(5),
        Conv2D(6, 4, 5, strides=(2, 2)),
        Select(7, 13, 24),
        Reshape(8, (64,)),
        Open(9),
        Dense(10, 6, 7),
    )
    weights = ((4, 4, 1, 16), (16,), (4, 4, 16, 32), (32,), (4, 4, 32, 64), (64,), (64, 10), (10,))
    return Program(ops, weights, (28, 28, 1), 2.0**-13, RANGE, 2.0**-26, label=Argmax(11, 0, 41))


class TestTutorial:
    def run(self, program: Program, examples: int = 2):
        deployment = Deployment(program, weights_of(program, 400))
        x = random_ring((examples, 28, 28, 1), 1 << 13, "x")
        return deployment, x, deployment.run(x)

    def test_logits_are_within_the_rounding_of_the_oracle(self):
        deployment, x, transcript = self.run(tutorial())
        y = signed(transcript.results[0] + transcript.results[1])
        expected = signed(evaluate(deployment.program, deployment.weights, x))
        assert y.shape == (2, 10)
        assert np.abs(y - expected).max() < ROUNDING

    def test_twelve_rounds_and_the_bytes_of_the_design(self):
        _, _, transcript = self.run(tutorial(), 1)
        assert transcript.rounds == 12
        assert transcript.sent[0, 1] == transcript.sent[1, 0] < 63_000
        plan = inference.layout(tutorial())
        assert 8 * plan.dealt < 260_000

    def test_the_label_needs_four_more_rounds_and_is_that_of_the_largest_logit(self):
        deployment, x, transcript = self.run(tutorial().for_label(), 8)
        assert transcript.rounds == 16
        one_hot = (transcript.results[0] ^ transcript.results[1])[:, 0]
        assert ((one_hot != 0) & (one_hot & (one_hot - np.uint64(1)) == 0)).all()  # one bit of each
        logits = signed(evaluate(tutorial(), deployment.weights, x))
        chosen = logits[np.arange(8), [int(bits).bit_length() - 1 for bits in one_hot]]
        assert (logits.max(axis=1) - chosen < 2 * ROUNDING).all()
        assert len(set(one_hot.tolist())) > 1


def linear_programs():
    return st.builds(
        conv_program,
        st.integers(1, 3),
        st.integers(1, 2),
        st.integers(1, 3),
        st.tuples(st.integers(1, 2), st.integers(1, 2)),
        st.tuples(st.tuples(st.integers(0, 2), st.integers(0, 1)), st.tuples(st.integers(0, 1), st.integers(0, 2))),
        st.booleans(),
    )


def conv_program(kernel, groups, filters, strides, padding, bias) -> Program:
    op = Conv2D(0, 0, 1 if bias else None, strides=strides, padding=padding, groups=groups)
    weights = ((kernel, kernel, 2, filters * groups), (filters * groups,))
    return Program((Input(), op), weights, (5, 6, 2 * groups), 1.0, RANGE, 1.0)


@settings(max_examples=30)
@given(linear_programs(), st.integers(1, 3))
def test_convolutions_are_exact(program, examples):
    weights = weights_of(program, 2**62)
    x = random_ring((examples, *program.input_shape), 2**62, "x")
    np.testing.assert_array_equal(Deployment(program, weights).output(x), evaluate(program, weights, x).reshape(examples, -1))


def graph() -> Program:
    """Every local operation, on wires and on shares, two branches, and a wire that serves two products."""
    ops = (
        Input(),
        Pad(0, ((1, 0), (0, 1))),
        Combine((1,), (3,), 17),
        Conv2D(2, 0, 1),
        Conv2D(2, 2),
        Truncate(3, 6, 20),
        Select(4, 6, 20, 5, -2, 9),
        Combine((5, 6), (2, -3), -4),
        SumPool(7, (2, 2), (1, 2), ((0, 1), (1, 0))),
        Scale(8, (1, 2), (2, 1)),
        Concatenate((8, 9), 2),
        AsShare(2),
        SumPool(11, (5, 5), (1, 1)),
        Reshape(12, (2,)),
        Reshape(10, (4 * 2 * 8,)),
        Concatenate((13, 14), 0),
        Open(15),
        Dense(16, 3, 4),
    )
    weights = ((2, 2, 2, 4), (4,), (2, 2, 2, 4), (66, 3), (3,))
    return Program(ops, weights, (4, 4, 2), 1.0, RANGE, 1.0)


def test_all_local_operations_on_wires_and_shares():
    program = graph()
    weights = weights_of(program, 300)
    x = random_ring((3, 4, 4, 2), 200, "x")
    transcript = Deployment(program, weights).run(x)
    y = signed(transcript.results[0] + transcript.results[1])
    low, high = (signed(evaluate(program, weights, x, rounding=lambda shape, bit=bit: np.full(shape, bit, np.uint64))) for bit in (0, 1))
    spread = 66 * 300 * 40  # every rounded value may differ by one, times factors, times weights
    assert (np.abs(y - (low + high) // 2) <= spread).all()
    assert transcript.rounds == 4  # truncation beside selection, then one opening


@pytest.mark.parametrize("classes", [2, 3, 5, 10, 17, 18])
def test_the_largest_of_many_with_ties(classes):
    program = Program((Input(), AsShare(0), Argmax(1, 0, 41)), (), (classes,), 1.0, RANGE, 1.0)
    x = random_ring((40, classes), 3, f"ties{classes}")
    x[:5] = 7
    x[5:10] *= np.uint64(1 << 36)
    transcript = Deployment(program, []).run(x)
    one_hot = (transcript.results[0] ^ transcript.results[1])[:, 0]
    assert one_hot.tolist() == [1 << int(label) for label in signed(x).argmax(axis=1)]
    assert transcript.rounds == 2 + len(levels(classes))


def test_a_level_of_ands_covers_all_factors():
    for classes in range(2, 257):
        tree = levels(classes)
        factors = classes - 1
        for groups, fan_in in tree:
            assert fan_in <= 4
            factors = -(-factors // fan_in)
            assert groups == classes * factors
        assert factors == 1
    assert levels(10) == [(30, 3), (10, 3)]


def test_chunks_are_used_in_slices():
    program = conv_program(2, 1, 2, (1, 1), ((0, 0), (0, 0)), True)
    deployment = Deployment(program, weights_of(program))
    x = random_ring((6, *program.input_shape), 500, "x")
    mask = deployment.dealing(6).input_mask
    materials = {i: deployment.material(i, 6) for i in (0, 1)}
    for i, material in materials.items():
        inference.prepare(program, deployment.weight_shares(i), material)
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        m = x[start:stop] + mask[start:stop]
        shares = []
        for i, material in materials.items():
            run = inference.evaluate(Party(i), program, deployment.weight_shares(i), material.slice(start, stop), m)
            with pytest.raises(StopIteration) as stopped:
                run.send(None)
            shares.append(stopped.value.value)
        expected = evaluate(program, deployment.weights, x[start:stop])
        np.testing.assert_array_equal(shares[0] + shares[1], expected.reshape(stop - start, -1))
