"""What each function of private values costs an example: rounds, bytes each way, and bytes that the provider deals to one server.

Every row is asserted three ways: the literal figure (protocols/README.md has the same), what the simulator sends, and the formulas of the
docstrings of the operations that it is made of.
"""

import numpy as np
import pytest
from function_runs import difference, halves, measured, quotient

from deployment import Deployment, random_ring
from protocols.curves.activations import CURVES
from protocols.lowering.scales import functions, maxima
from protocols.mpc.inference import layout
from protocols.mpc.operations.argmax import Argmax, levels
from protocols.mpc.operations.bits.blocks import blocks_for
from protocols.mpc.operations.clamp import ClampedInput
from protocols.mpc.operations.wires import AsShare, Input
from protocols.mpc.parties.material import packed
from protocols.mpc.program import Program


def planes(bits, window):
    """What the comparisons of so many masked values cost: bits opened in the node and for the selection, bits dealt."""
    blocks = blocks_for(window)
    return np.array([blocks.opened + 1, blocks.dealt]) * 8 * packed(bits)


def select(n, window):
    """8 + 2 (B - 1) / 8 + 1 / 8 bytes an element; R, h, rho, rho R and rho h dealt."""
    return np.array([8 * n, 8 * 5 * n]) + planes(n, window)


def piecewise(n, knots, window):
    """8 + knots (2 (B - 1) + 1) / 8 bytes an element; R and h dealt, and for each knot rho, rho R and rho h."""
    return np.array([8 * n, 8 * (2 + 3 * knots) * n]) + planes(n * knots, window)


def product(n, opened):
    """8 bytes for each element of an operand that is opened; gamma dealt for each of the result."""
    return np.array([8 * opened, 8 * n])


def tournament(n, window):
    """A selection for each pair, and again for those that are left."""
    return select(n // 2, window) + tournament(n - n // 2, window) if n > 1 else 0


def curve(name):
    return lambda w, node, x: functions.curve(w, node, x, CURVES[name].spline)


def compared(*, equal):
    return lambda w, node, x: functions.truth(w, node, difference(w, node, x), equal=equal)


def divided(w, node, x):
    return quotient(w, node, *halves(w, x))


def log_softmax(w, node, x):
    return functions.softmax(w, node, x, log=True)


EIGHT, POSITIVE = (-8.0, 8.0), (0.5, 8.0)
COSTS = {  # function, elements, input range, rounds, bytes each way, bytes dealt, operations
    "exp": (curve("exponential"), 64, (-8.0, 2.0), 3, 3752, 105064, piecewise(64, 45, 19)),
    "log": (functions.logarithm, 64, POSITIVE, 3, 3320, 91192, piecewise(64, 39, 19)),
    "reciprocal": (functions.reciprocal, 64, POSITIVE, 3, 4544, 130496, piecewise(64, 56, 19)),
    "reciprocal square root": (functions.reciprocal_root, 64, POSITIVE, 3, 2960, 79632, piecewise(64, 34, 19)),
    "sigmoid": (curve("sigmoid"), 64, EIGHT, 3, 2384, 61136, piecewise(64, 26, 19)),
    "tanh": (curve("tanh"), 64, EIGHT, 3, 3392, 93504, piecewise(64, 40, 19)),
    "GELU": (curve("gelu"), 64, EIGHT, 3, 2960, 79632, piecewise(64, 34, 19)),
    "softmax of 10": (
        functions.softmax,
        10,
        EIGHT,
        19,
        968,
        17224,
        tournament(10, 19) + piecewise(10, 32, 20) + piecewise(1, 30, 21) + product(10, 11),
    ),
    "softmax of 64": (
        functions.softmax,
        64,
        EIGHT,
        25,
        4352,
        86856,
        tournament(64, 19) + piecewise(64, 32, 20) + piecewise(1, 39, 23) + product(64, 65),
    ),
    "log-softmax of 64": (log_softmax, 64, EIGHT, 24, 3904, 88152, tournament(64, 19) + piecewise(64, 32, 20) + piecewise(1, 66, 23)),
    "maximum of 128": (lambda w, node, x: maxima.largest(w, node, x, 0), 128, EIGHT, 21, 1520, 10512, tournament(128, 19)),
    "3 largest of 8": (
        lambda w, node, x: functions.top_k(w, node, x, 3),
        8,
        EIGHT,
        6,
        560,
        3720,
        select(28, 19) + 3 * piecewise(8, 2, 6),
    ),
    "equality of two": (compared(equal=True), 128, EIGHT, 3, 1168, 6672, 2 * select(64, 19)),
    "comparison of two": (compared(equal=False), 128, EIGHT, 3, 584, 3336, select(64, 19)),
    "division": (divided, 128, POSITIVE, 4, 5056, 131008, piecewise(64, 56, 19) + product(64, 64)),
}


@pytest.mark.parametrize("name", COSTS)
def test_rounds_and_bytes(name):
    function, elements, input_range, rounds, sent, dealt, formula = COSTS[name]
    x = np.ones((2, elements))
    _, transcript, program, _ = measured(function, x, input_range)
    assert transcript.rounds == rounds
    assert transcript.sent == {(0, 1): 2 * sent, (1, 0): 2 * sent}
    assert 8 * layout(program).dealt == dealt
    assert formula.tolist() == [sent, dealt]


@pytest.mark.parametrize(("classes", "rounds", "sent", "dealt"), [(10, 4, 448, 888), (64, 5, 18848, 29400)])
def test_an_arg_max(classes, rounds, sent, dealt):
    program = Program((Input(), AsShare(0), Argmax(1, 0, 20)), (), (classes,), 1.0, EIGHT, 1.0)
    transcript = Deployment(program, []).run(random_ring((2, classes), 1 << 17, "x"))
    assert transcript.rounds == rounds
    assert transcript.sent == {(0, 1): 2 * sent, (1, 0): 2 * sent}
    assert 8 * layout(program).dealt == dealt
    pairs, blocks = classes * (classes - 1) // 2, blocks_for(20)
    formula = np.array([8 * pairs, 0]) + np.array([blocks.opened, blocks.dealt]) * 8 * packed(pairs)
    for groups, fan_in in levels(classes):
        formula += [8 * packed(groups * fan_in), 8 * packed(groups * (2**fan_in - 1))]
    assert formula.tolist() == [sent, dealt]


@pytest.mark.parametrize(("elements", "sent", "dealt"), [(64, 864, 26672), (784, 10848, 345584)])
def test_the_clamp_of_an_input(elements, sent, dealt):
    """8 bytes and 44 bits an element each way; three words dealt, the monomials of its mask once, and the node of each of three edges."""
    program = Program((ClampedInput(0, 1 << 16), AsShare(0)), (), (elements,), 1.0, EIGHT, 1.0)
    transcript = Deployment(program, []).run(random_ring((2, elements), 1 << 20, "x"))
    assert transcript.rounds == 3
    assert transcript.sent == {(0, 1): 2 * sent, (1, 0): 2 * sent}
    assert 8 * layout(program).dealt == dealt
    blocks, words = blocks_for(65), 8 * packed(elements)
    assert [8 * elements + (3 * blocks.opened + 2) * words, 24 * elements + (blocks.monomials + 3 * blocks.products) * words] == [
        sent,
        dealt,
    ]
