"""A program is well formed or refused, with the operation that is wrong."""

import msgspec
import pytest

from protocols.errors import ProgramError
from protocols.mpc.operations.argmax import Argmax
from protocols.mpc.operations.bilinear import MatMul
from protocols.mpc.operations.moves import Concatenate, Pad, Permute, Reshape, Take
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.sums import Combine, Scale, SumPool
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.weights import Conv2D, Dense
from protocols.mpc.operations.wires import AsShare, Given, Input, Open
from protocols.mpc.program import Program, infer


def program(*ops, weights=(), shape=(4, 4, 2)):
    return Program((Input(), *ops), weights, shape, 1.0, (0.0, 1.0), 1.0)


WRONG = {
    "no output": ((), (), "must end in a share"),
    "ends in a wire": ((AsShare(0), Open(1)), (), "must end in a share"),
    "later operand": ((AsShare(1),), (), "operand 1 is not an earlier value"),
    "negative operand": ((AsShare(-1),), (), "not an earlier value"),
    "share for wire": ((AsShare(0), Dense(1, 0)), ((2, 3),), "is a share, a wire is needed"),
    "one-hot bits": ((Reshape(0, (32,)), Argmax(1, 0, 20), Truncate(2, 1, 20)), (), "is an arg max, a share is needed"),
    "given": ((Given("x", (4,), "wire"),), (), "to steps of a training only"),
    "second input": ((Input(),), (), "first operation, and only that"),
    "no weight": ((Dense(0, 0),), (), "there is no weight 0"),
    "flat weight": ((Dense(0, 0),), ((2,),), "2 dimensions are needed"),
    "unfit weight": ((Dense(0, 0),), ((3, 2),), "does not fit a weight"),
    "unfit bias": ((Dense(0, 0, 1),), ((2, 3), (4,)), r"bias 1 has shape \(4,\), \(3,\) is needed"),
    "unfit kernel": ((Conv2D(0, 0),), ((2, 2, 3, 1),), "does not fit 1 groups"),
    "unfit groups": ((Conv2D(0, 0, groups=2),), ((2, 2, 1, 3),), "does not fit 2 groups"),
    "large kernel": ((Conv2D(0, 0),), ((9, 9, 2, 1),), "is not possible"),
    "stride": ((Conv2D(0, 0, strides=(0, 1)),), ((2, 2, 2, 1),), "at least 1"),
    "window": ((AsShare(0), Truncate(1, 40, 24)), (), "must stay below 63 bits"),
    "negative drop": ((AsShare(0), Select(1, -1, 24)), (), "must stay below"),
    "reshape": ((AsShare(0), Reshape(1, (31,))), (), "cannot be reshaped"),
    "negative shape": ((AsShare(0), Reshape(1, (-4, -8))), (), "cannot be reshaped"),
    "pad": ((AsShare(0), Pad(1, ((-1, 0), (0, 0)))), (), "cannot be padded"),
    "pool": ((AsShare(0), Reshape(1, (32,)), SumPool(2, (2, 2), (1, 1))), (), "a pool needs"),
    "axis": ((AsShare(0), Concatenate((1, 1), 3)), (), "axis 3 does not exist"),
    "unequal": ((AsShare(0), Reshape(1, (8, 2, 2)), Concatenate((1, 2), 2)), (), "cannot be joined"),
    "no operand": ((AsShare(0), Combine((), ())), (), "at least one operand"),
    "factors": ((AsShare(0), Combine((1,), (1, 2))), (), "one each is needed"),
    "table": ((AsShare(0), Scale(1, (1, 2, 3), (3,))), (), "cannot be broadcast"),
    "unlike shapes": ((Reshape(0, (8, 2, 2)), Multiply(0, 1)), (), "element for element"),
    "product of shares": ((AsShare(0), Multiply(0, 1)), (), "is a share, an affine value is needed"),
    "unlike matrices": ((Reshape(0, (2, 4, 4)), MatMul(1, 0)), (), "no matrix product"),
    "order of axes": ((AsShare(0), Permute(1, (0, 1, 1))), (), "not an order"),
    "slice": ((AsShare(0), Take(1, 0, (4,))), (), "not all in"),
    "nothing taken": ((AsShare(0), Take(1, 0, ())), (), "is not possible"),
    "no knots": ((AsShare(0), Piecewise(1, 0, 20, (), (1,), (1,))), (), "at least one"),
    "knots in disorder": ((AsShare(0), Piecewise(1, 0, 20, (1, 1), (1, 1, 1), (1, 1, 1))), (), "increasing knots"),
    "pieces": ((AsShare(0), Piecewise(1, 0, 20, (1,), (1,), (1, 2))), (), "one more is needed"),
    "knots outside": ((AsShare(0), Piecewise(1, 0, 4, (5,), (1, 1), (1, 2))), (), "do not fit a window"),
    "large slopes": ((AsShare(0), Piecewise(1, 0, 4, (1,), (1, 1 << 63), (1, 2))), (), "64 bits"),
    "arg max of an image": ((AsShare(0), Argmax(1, 0, 20)), (), "needs a vector"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused(name):
    ops, weights, complaint = WRONG[name]
    with pytest.raises(ProgramError, match=complaint):
        infer(program(*ops, weights=weights))


def test_a_label_needs_a_vector():
    with pytest.raises(ProgramError, match="ask for reveal='logits'"):
        program(AsShare(0)).for_label()


def test_a_program_survives_the_wire():
    ops = (AsShare(0), Truncate(1, 4, 20), Select(2, 4, 20, 3, -1, 2), Open(3), Conv2D(4, 0, padding=((1, 0), (0, 1))))
    before = program(*ops, weights=((2, 2, 2, 3),))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(before), type=Program) == before
    assert infer(before)[-1].shape == (4, 4, 3)
