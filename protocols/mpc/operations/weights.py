"""Products of a wire with weights that are known ahead, masked (Section 2.2; ABY2.0 section 3; Turbospeedz, ePrint 2019/080).

With m_X = X + lambda_X and M_W = W + lambda_W known to both servers, any bilinear product o gives

    [Z]_i = m_X o W_i + C_i,   C_i = gamma_i - lambda_{X,i} o M_W + b_i,   gamma_0 + gamma_1 = lambda_X o lambda_W,

where W_0 = -lambda_{W,0} and W_1 = M_W - lambda_{W,1}. C_i does not depend on the input: it is made ahead. Online there is one ring
product a server and no communication. lambda_X may serve several products (each has its own gamma); lambda_W serves all requests.

Adversary: semi-honest, no two parties collude. **Rounds**: 0. **Leaks** nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from protocols.errors import ProgramError
from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.sides import Clear, Dealer, Scope, Server, weight_share
from protocols.mpc.engine.tape import Tape
from protocols.mpc.engine.values import Affine, Padding, Pair, Shape, Value
from protocols.mpc.numbers import ring, shapes
from protocols.mpc.operations.bilinear import slow_convolution
from protocols.mpc.parties.exchange import Party, Ring, open_sum
from protocols.mpc.parties.keystream import KeyStream, derive
from protocols.mpc.parties.material import Field

PIECE = 1 << 17
"""Words of a mask that are expanded at a time where they are only added to something."""


OPENED = 1 << 20
"""Words of weights that are opened in a round."""


class Weighted(Operation, frozen=True):
    """Z = X o W (+ b): wire `x`, shared weight and bias; a share. Rounds: 0. Bytes dealt: 8 an element of the product."""

    abstract: ClassVar[bool] = True
    ungraded: ClassVar[str] = "weights that are shared ahead are not trained; those of a training are values, see `bilinear.py`"

    x: int
    weight: int
    bias: int | None = None

    def check_bias(self, scope: Scope, units: int) -> None:
        """Refuse a bias of another shape.

        Raises:
            ProgramError: it is.
        """
        if self.bias is not None and scope.weight(self.bias, 1) != (units,):
            raise ProgramError(f"bias {self.bias} has shape {scope.weights[self.bias]}, ({units},) is needed")

    @abstractmethod
    def product(self, x: Ring, weight: Ring, *, add_to: Ring | None = None) -> Ring:
        """Return X o weight modulo 2^64 for `x` (examples, *shape); with `add_to` (examples, elements) it is added to that in place."""
        raise NotImplementedError

    @abstractmethod
    def slow(self, x: Ring, weight: Ring) -> Ring:
        """Return the same in plain numpy."""
        raise NotImplementedError

    def fields(self, value: Value, xs: Sequence[Value], columns: int) -> list[Field]:
        """Return gamma."""
        return [Field("gamma", columns, dealt=True)]

    def deal(self, dealer: Dealer, at: int) -> None:
        """Turn party 0's key stream in gamma (examples, elements) into gamma_1 = lambda_X o lambda_W - gamma_0."""
        gamma = dealer.dealt(at, "gamma")
        gamma *= _MINUS_ONE
        self.product(dealer.mask(self.x), dealer.weight_masks[self.weight], add_to=gamma)

    def ahead(self, server: Server, at: int) -> None:
        """Turn gamma_i in place into C_i = gamma_i - lambda_{X,i} o M_W + b_i."""
        gamma, weights = server.field(at, "gamma"), server.weights
        self.product(-server.mask(self.x), weights.masked[self.weight], add_to=gamma)
        if self.bias is not None:
            bias = weights.share[self.bias]
            units = gamma.reshape(-1, len(bias))
            units += bias

    def run(self, server: Server, at: int) -> Affine | Ring:
        """Return [Z]_i = m_X o W_i + C_i; consumes C_i: the result is written over it."""
        constant = server.field(at, "gamma")
        z = self.product(server.affine(self.x).a, server.weights.share[self.weight], add_to=constant)
        return z.reshape(server.shape(at))

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Return the product and the bias."""
        weight = clear.weights[self.weight]
        z = self.product(clear[self.x], weight) if clear.fast else self.slow(clear[self.x], weight)
        return z if self.bias is None else z + clear.weights[self.bias]


_MINUS_ONE = np.uint64(2**64 - 1)


class Dense(Weighted, frozen=True):
    """Z = X W (+ b) over the last axis of wire `x`; W has shape (inputs, units), b (units,), both shared."""

    x: int
    weight: int
    bias: int | None = None

    def value(self, scope: Scope) -> Value:
        """Return a share with `units` in the place of `inputs`."""
        x = scope.operand(self.x, "wire")
        inputs, units = scope.weight(self.weight, 2)
        if not x.shape or x.shape[-1] != inputs or not x.batched:
            raise ProgramError(f"an input of shape {x.shape} does not fit a weight of shape {(inputs, units)}")
        self.check_bias(scope, units)
        return Value((*x.shape[:-1], units), "share")

    def product(self, x: Ring, weight: Ring, *, add_to: Ring | None = None) -> Ring:
        """Multiply matrices."""
        rows = x.reshape(-1, x.shape[-1])
        out = None if add_to is None else add_to.reshape(len(rows), weight.shape[1])
        return ring.matmul(rows, weight, out=out, accumulate=add_to is not None).reshape(*x.shape[:-1], weight.shape[1])

    def slow(self, x: Ring, weight: Ring) -> Ring:
        """Multiply as numpy does."""
        product: Ring = np.tensordot(x, weight, 1)
        return product


class Conv2D(Weighted, frozen=True):
    """Z = X * W (+ b): wire `x` (H, W, C), kernel (kh, kw, C / groups, filters), cross-correlation as in Keras, channels last.

    `padding` is ((top, bottom), (left, right)) zeros. Depthwise convolution is `groups` = C with filters ordered by input channel.
    """

    x: int
    weight: int
    bias: int | None = None
    strides: Pair = (1, 1)
    padding: Padding = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1

    def value(self, scope: Scope) -> Value:
        """Return a share, (OH, OW, filters)."""
        x = scope.operand(self.x, "wire")
        kh, kw, channels, filters = scope.weight(self.weight, 4)
        fits = len(x.shape) == 3 and x.batched and self.groups >= 1 and x.shape[2] == channels * self.groups and not filters % self.groups
        if not fits:
            raise ProgramError(f"an input of shape {x.shape} does not fit {self.groups} groups of a kernel {(kh, kw, channels, filters)}")
        self.check_bias(scope, filters)
        return Value((*shapes.windows(x.shape, (kh, kw), self.strides, self.padding, self.dilation), filters), "share")

    def product(self, x: Ring, weight: Ring, *, add_to: Ring | None = None) -> Ring:
        """Convolve."""
        out = None
        if add_to is not None:
            grid = shapes.windows(x.shape[1:3], (weight.shape[0], weight.shape[1]), self.strides, self.padding, self.dilation)
            out = add_to.reshape(len(x), *grid, weight.shape[3])
        return ring.conv2d(
            x,
            weight,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            out=out,
            accumulate=out is not None,
        )

    def slow(self, x: Ring, weight: Ring) -> Ring:
        """Convolve, slowly."""
        return slow_convolution(x, weight, self.strides, self.padding, self.dilation, self.groups)


class Shift(Operation, frozen=True):
    """Z = X + B, element for element: share `x`, a shared weight of its shape. Rounds: 0."""

    x: int
    weight: int

    def value(self, scope: Scope) -> Value:
        """Return a share."""
        value = scope.operand(self.x)
        if scope.weight(self.weight, len(value.shape)) != value.shape:
            raise ProgramError(f"weight {self.weight} of shape {scope.weights[self.weight]} does not fit a value of shape {value.shape}")
        return Value(value.shape, "share", value.batched)

    def run(self, server: Server, at: int) -> Affine | Ring:
        """Add this server's share of the weight."""
        return server.share(self.x) + server.weights.share[self.weight]

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Return the gradient by x as it is; the weight is no operand."""
        return gradient

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Add the weight."""
        return clear[self.x] + clear.weights[self.weight]


async def opened(me: Party, masked: Sequence[Ring]) -> list[Ring]:
    """Return M_W = W + lambda_W of weights that nobody knows, from W_i + lambda_{W,i} at each server; known to both.

    **Rounds**: one for each `OPENED` words. **Bytes**: 8 a weight and direction. Adversary: semi-honest, no two parties collude.
    **Leaks** nothing: no server knows the other's half of the mask.
    """
    whole = []
    for share in masked:
        flat = np.ascontiguousarray(share).reshape(-1)
        pieces = [await open_sum(me, flat[start : start + OPENED]) for start in range(0, flat.size, OPENED)]
        whole.append(np.concatenate(pieces).reshape(share.shape))
    return whole


def weight_mask(key: bytes, index: int, shape: Shape) -> Ring:
    """One server's half of the mask of a weight of a model, expanded from its key for that model."""
    return KeyStream(derive(key, "weight", index)).words(shape)


def weight_masks(key: bytes, shapes: Sequence[Shape]) -> list[Ring]:
    """One server's half of the masks of all weights of a model."""
    return [weight_mask(key, index, shape) for index, shape in enumerate(shapes)]


def add_mask(key: bytes, index: int, to: Ring) -> None:
    """Add one server's half of the mask of a weight to an array in place, a piece at a time."""
    stream, flat = KeyStream(derive(key, "weight", index)), to.reshape(-1)
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE]
        piece += stream.words(piece.size)


def summed_weight_masks(keys: tuple[bytes, bytes], shapes: Sequence[Shape]) -> list[Ring]:
    """Return the masks lambda_W of all weights, both halves added. Slow for a large model; runs in a thread."""
    made = SummedMasks(keys, shapes)
    return [made[index] for index in range(len(shapes))]


class SummedMasks:
    """The masks lambda_W of all weights at the dealer, each made anew from both keys when somebody asks: nothing of them is kept.

    Args:
        keys: the servers' keys for the weights of a model.
        shapes: of the weights.
    """

    def __init__(self, keys: tuple[bytes, bytes], shapes: Sequence[Shape]) -> None:
        self._keys, self._shapes = keys, shapes

    def __getitem__(self, index: int, /) -> Ring:
        """Return the mask of one weight, both halves added."""
        mask = weight_mask(self._keys[0], index, self._shapes[index])
        add_mask(self._keys[1], index, mask)
        return mask


class DerivedShares:
    """One server's shares W_i of all weights, each made anew from its key when somebody asks: what is kept is M_W alone.

    Args:
        me: which server.
        masked: M_W of every weight.
        key: of this server for the weights of the model.
    """

    def __init__(self, me: Party, masked: Sequence[Ring], key: bytes) -> None:
        self._me, self._masked, self._key = me, masked, key

    def __getitem__(self, index: int, /) -> Ring:
        """Return the share of one weight."""
        masked = self._masked[index]
        return weight_share(self._me, masked, weight_mask(self._key, index, masked.shape))
