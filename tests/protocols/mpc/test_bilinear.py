"""Products of two secrets in the simulator: exact for all integers, the rounds and bytes of their openings, wires that serve many."""

import numpy as np
import pytest

from deployment import Deployment, random_ring
from protocols.mpc import inference
from protocols.mpc.operations.bilinear import MatMul
from protocols.mpc.operations.moves import Permute, Reshape, Take
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import AsShare, Input, Open
from protocols.mpc.plaintext import evaluate
from protocols.mpc.program import Program

RANGE = (-1.0, 1.0)


def program(*ops, shape):
    return Program((Input(), *ops), (), shape, 1.0, RANGE, 1.0)


def assert_exact(tested, examples=3, bound=2**62):
    x = random_ring((examples, *tested.input_shape), bound, "x")
    np.testing.assert_array_equal(Deployment(tested, []).output(x), evaluate(tested, [], x).reshape(examples, -1))


EXACT = {
    "square": program(Multiply(0, 0), shape=(7,)),
    "two wires": program(Take(0, 0, (0,)), Take(0, 0, (2,)), Multiply(1, 2), shape=(3, 4)),
    "broadcast": program(Take(0, 1, (1,)), Multiply(0, 1), shape=(3, 4)),
    "broadcast both": program(Take(0, 0, (0,)), Take(0, 1, (1,)), Multiply(1, 2), shape=(3, 4)),
    "a wire and an opened share": program(AsShare(0), Combine((1, 1), (2, 5), 9), Open(2), Multiply(0, 3), shape=(2, 3)),
    "matrices": program(Permute(0, (1, 0)), MatMul(0, 1), shape=(3, 5)),
    "many matrices": program(Permute(0, (0, 2, 1)), MatMul(1, 0), shape=(2, 3, 5)),
    "a vector and a matrix": program(Take(0, 0, (1,)), Permute(0, (1, 0)), MatMul(1, 2), shape=(3, 4)),
    "moved": program(Permute(0, (2, 0, 1)), Take(1, 2, (1, 1, 0)), AsShare(2), Reshape(3, (12,)), shape=(2, 2, 2)),
}


@pytest.mark.parametrize("name", EXACT)
def test_products_are_exact_modulo_2_to_the_64(name):
    assert_exact(EXACT[name])


def test_a_product_takes_one_opening_and_its_rounding_one_more():
    tested = program(AsShare(0), Open(1), Multiply(2, 2), Truncate(3, 10, 30), shape=(50,))
    x = random_ring((4, 50), 1 << 16, "x")
    transcript = Deployment(tested, []).run(x)
    assert transcript.rounds == 2
    assert transcript.sent == {(0, 1): 2 * 8 * 200, (1, 0): 2 * 8 * 200}
    y = (transcript.results[0] + transcript.results[1]).view(np.int64)
    assert set(np.unique(y - (x.view(np.int64) ** 2 >> 10))) <= {0, 1}


def test_the_provider_deals_one_word_for_each_element_of_a_product():
    assert inference.layout(program(Multiply(0, 0), shape=(7,))).dealt == 7
    assert inference.layout(program(Permute(0, (1, 0)), MatMul(0, 1), shape=(3, 500))).dealt == 9
