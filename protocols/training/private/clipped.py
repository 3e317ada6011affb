"""The private sum of gradients over a batch, on shares: each example's part clipped to C over all weights, then noise of both servers.

    G = sum_i min(1, C / ||g_i||) g_i + N_0 + N_1

**Norms.** Where a matrix is used once and each example has one row x, with the gradient d by what comes out, the gradient by the matrix is
x^T d and its norm ||x|| ||d||; it is made of no example (Goodfellow, 2015, arXiv:1510.01799). Other gradients, of convolutions, of matrices
used several times, of scales, are made for each example.

**At most C, whatever an example is.** All that a sum is made of is bounded for any ring elements (`norms.py`), a norm is never too small, a
factor never too large (`factors.py`); what rounding scaled gradients may add to any example that can be stored is taken off C before. What
an example changes in G, a sum of integers, is at most C: rounding of others does not depend on it. Outside of its window (activations
within +-512, gradients by them within +-1024) an example's part may be wrong, and never too long.

**Noise.** Each server adds discrete Gaussian noise of its own to the exact sum, before anything else is done with it, and nothing of the
sum is opened: what a party that knows one server's noise may learn of G is a Gaussian mechanism of noise multiplier z.

Adversary: semi-honest, no two of the three workers collude. **Leaks** nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from protocols.errors import ModelError
from protocols.mpc.engine.values import Pair, Shape
from protocols.mpc.operations.bilinear import Convolve, MatMul
from protocols.mpc.operations.local import Move
from protocols.mpc.operations.moves import Concatenate, Put, Reshape, Take
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.noise import AddNoise
from protocols.mpc.operations.sums import Combine, Sum
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Given, Open
from protocols.training.networks.draft import StepDraft
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.optimizers import Gradients
from protocols.training.private.factors import LARGEST_LOSS, factor, worst
from protocols.training.private.norms import FOLDED, STORED, Term, folded, squares, term
from protocols.training.private.settings import Private
from protocols.training.private.uses import WeightUse, places, uses


class _Ghost(NamedTuple):
    """A use of which no example's gradient is made: rows x (batch, n) of the examples, or 1, and d (batch, m) by what comes out."""

    use: WeightUse
    x: int | None
    d: int
    bound: float


class _Made(NamedTuple):
    """Each example's gradient by the weight's elements in an operand, (batch, size), affine and folded; `at` says where they stand."""

    use: WeightUse
    each: int
    at: tuple[int, ...]


def clipped_gradients(draft: StepDraft, private: Private, known: Mapping[int, int], weights: Mapping[str, int], batch: int) -> Gradients:
    """Write the sum of clipped gradients over a batch by each weight, without noise: `noisy` adds that, once a step.

    Args:
        draft: the network, forward, and the gradient by its outputs.
        private: C, z and D.
        known: the gradient by the outputs, by their position.
        weights: the positions of those that are trained, by name.
        batch: examples.

    Returns:
        By name the position of a share and its fractional bits; a weight that does not move the outputs is left out.

    Raises:
        ModelError: a weight is used in a way of which no example's gradient is known, or C is too small for fixed point.
    """
    found = uses(draft, weights)
    by = draft.gradients(known, {use.at for use in found})
    found = [use for use in found if use.at in by]
    parts: list[_Ghost | _Made] = []
    for operand in dict.fromkeys(use.operand for use in found):
        several = [use for use in found if use.operand == operand]
        alone = len([use for use in found if use.weight == several[0].weight]) == 1
        ghost = _ghost(draft, private, several[0], by[several[0].at], batch) if alone else None
        parts.append(ghost or _made(draft, several, by, (batch, weights[several[0].weight])))
    terms = [_term(draft, part) for part in parts]
    lost = _lost(draft, private, parts)
    share = factor(draft, terms, private.clip, private.digits, lost)
    sums: dict[str, list[int]] = {}
    for part in parts:
        total = _total(draft, private, part, share, batch)
        start = weights[part.use.weight]
        whole = draft.gradients({part.use.operand: total}, [start])[start]
        sums.setdefault(part.use.weight, []).append(whole)
    exact = {name: draft.total(totals) for name, totals in sums.items()}
    return {name: (total, draft.bits(total)) for name, total in exact.items()}


def noisy(draft: StepDraft, private: Private, gradients: Gradients) -> Gradients:
    """Add the noise of both servers to exact sums of clipped gradients over a whole batch; then they may be rounded."""
    return {name: _noisy(draft, private, *gradient) for name, gradient in gradients.items()}


def _noisy(draft: StepDraft, private: Private, total: int, bits: int) -> tuple[int, int]:
    if private.noise:
        total = draft.put(AddNoise(total, math.ceil(private.noise * private.clip * 2.0**bits)), bits)
    if not private.rounded or bits <= 2 * FRACTION:
        return total, bits
    drop = bits - 2 * FRACTION
    return draft.put(Truncate(total, drop, 63 - drop), 2 * FRACTION), 2 * FRACTION


# One row for each example.


def _ghost(draft: StepDraft, private: Private, use: WeightUse, d: int, batch: int) -> _Ghost | None:
    op, shape = draft.operations[use.at], draft.value(use.at).shape
    if len(shape) != 2 or shape[0] != batch:
        return None
    if isinstance(op, MatMul):
        x, bound = _bounded(draft, private, op.x)
        return _Ghost(use, x, folded(draft, d), bound)
    operand = draft.value(use.operand).shape
    if isinstance(op, Combine) and operand in (shape[1:], (1, *shape[1:])):
        return _Ghost(use, None, folded(draft, d), 1.0)
    return None


def _bounded(draft: StepDraft, private: Private, x: int) -> tuple[int, float]:
    """Return a wire of the same numbers within their window, and below what its elements are as integers, whatever they are."""
    at = x
    while isinstance(draft.operations[at], Move):
        at = draft.operations[at].operands[0]
    if isinstance(draft.operations[at], Given):  # as it was stored, or folded when it was made
        return x, FOLDED if private.features else STORED
    return draft.put(Open(folded(draft, x)), FRACTION), FOLDED


def _lost(draft: StepDraft, private: Private, parts: list[_Ghost | _Made]) -> float:
    """Return what roundings may add to an example's part of a sum, in parts of C.

    An element of a scaled gradient is rounded by less than 2^-D, which the longest row x of integers below its bound multiplies.

    Raises:
        ModelError: it is too much.
    """
    square = 0.0
    for part in parts:
        if isinstance(part, _Ghost):
            longest = 1.0 if part.x is None else math.sqrt(draft.value(part.x).shape[1]) * part.bound * 2.0**-FRACTION
            square += draft.value(part.d).shape[1] * (longest * 2.0**-private.digits) ** 2
    lost = math.sqrt(square) / private.clip + worst(len(parts), private.digits)
    if lost > LARGEST_LOSS:
        raise ModelError(
            f"max_grad_norm or noise_multiplier does not fit fixed point: rounding could add {lost:.2g} of the norm that is allowed; take a"
            " larger max_grad_norm, a smaller batch_size, or narrower layers"
        )
    return lost


def _term(draft: StepDraft, part: _Ghost | _Made) -> Term:
    if isinstance(part, _Made):
        return term(draft, squares(draft, part.each, FOLDED))
    d = squares(draft, part.d, FOLDED)
    return term(draft, d) if part.x is None else term(draft, squares(draft, part.x, part.bound), d)


def _total(draft: StepDraft, private: Private, part: _Ghost | _Made, share: int, batch: int) -> int:
    """Return the sum of clipped gradients by an operand, in its shape."""
    shape = draft.value(part.use.operand).shape
    if isinstance(part, _Made):
        product = MatMul(draft.put(Open(share), private.digits), draft.put(Open(part.each), FRACTION), transpose_x=True)
        bits = private.digits + FRACTION
        whole = draft.put(Put((draft.put(product, bits),), 1, (part.at,), math.prod(shape)), bits)
        return draft.put(Reshape(whole, shape), bits)
    scaled = draft.put(Multiply(share, part.d), private.digits + FRACTION)
    d = draft.put(Truncate(scaled, FRACTION, 63 - FRACTION), private.digits)
    if part.x is not None:
        wire = draft.put(Open(d), private.digits)
        return draft.put(MatMul(part.x, wire, transpose_x=True), private.digits + FRACTION)
    total = draft.put(Reshape(draft.put(Sum(d, 0), private.digits), shape), private.digits)
    return total if part.use.sign > 0 else draft.put(Combine((total,), (-1,)), private.digits)


# Each example's gradient.


def _made(draft: StepDraft, several: list[WeightUse], by: Mapping[int, int], where: Pair) -> _Made:
    """Return each example's gradient by an operand: the sum over all its uses and places. `where` is (batch, position of the weight)."""
    (batch, start), operand = where, several[0].operand
    size = draft.value(operand).size
    at = tuple(int(place) for place in np.flatnonzero(places(draft, operand, start)))  # between those of a dilated kernel are zeros
    made = []
    for use in several:
        op = draft.operations[use.at]
        match op:
            case MatMul():
                found = _product(draft, op.x, by[use.at], batch)
            case Convolve():
                found = _product(draft, _unfolded(draft, use.at, op.x), by[use.at], batch)
            case Multiply():
                other = op.operands[1 - use.side]
                d = draft.factor(by[use.at])
                found = _fitted(draft, draft.put(Multiply(d, other), FRACTION + draft.bits(other)), use, batch)
            case _:
                found = _fitted(draft, by[use.at], use, batch)
        made.append((draft.put(Reshape(found, (batch, size)), draft.bits(found)), use.sign))
    most = max(draft.bits(one) for one, _ in made)
    factors = tuple(sign << (most - draft.bits(one)) for one, sign in made)
    total = made[0][0] if factors == (1,) else draft.put(Combine(tuple(one for one, _ in made), factors), most)
    return _Made(several[0], folded(draft, total if len(at) == size else draft.put(Take(total, 1, at), most)), at)


def _product(draft: StepDraft, x: int, d: int, batch: int) -> int:
    """X_i^T D_i for each example: (batch, n, m) of wires X (rows, n) and D (rows, m), with as many rows for each."""
    d = draft.wire(d)
    rows = draft.value(x).size // draft.value(x).shape[-1] // batch
    apart = [draft.put(Reshape(one, (batch, rows, draft.value(one).shape[-1])), FRACTION) for one in (x, d)]
    return draft.put(MatMul(apart[0], apart[1], transpose_x=True), 2 * FRACTION)


def _unfolded(draft: StepDraft, at: int, x: int) -> int:
    """Return what each place of a kernel sees: (batch, OH, OW, kh kw C) of a wire (batch, H, W, C)."""
    op = draft.operations[at]
    assert isinstance(op, Convolve)
    kernel, grid = draft.value(op.y).shape, draft.value(at).shape[1:3]
    for axis, (before, after) in enumerate(op.padding, 1):
        length = draft.value(x).shape[axis]
        if before or after:
            x = draft.put(Put((x,), axis, (tuple(range(before, before + length)),), length + before + after), FRACTION)
    seen = []
    for row in range(kernel[0]):
        rows = draft.put(Take(x, 1, tuple(range(row, row + op.strides[0] * grid[0], op.strides[0]))), FRACTION)
        for column in range(kernel[1]):
            columns = tuple(range(column, column + op.strides[1] * grid[1], op.strides[1]))
            seen.append(draft.put(Take(rows, 2, columns), FRACTION))
    return draft.put(Concatenate(tuple(seen), 3), FRACTION)


def _fitted(draft: StepDraft, d: int, use: WeightUse, batch: int) -> int:
    """Return the sum of a gradient over all places of an example at which an operand that is broadcast is used."""
    bits, shape = draft.bits(d), draft.value(d).shape
    operand = (1,) * (len(shape) - len(draft.value(use.operand).shape)) + draft.value(use.operand).shape
    if operand[0] != 1 or shape[0] % batch:
        raise ModelError(f"weight {use.weight!r} has an axis of examples: freeze it")
    for axis in range(1, len(shape)):
        if operand[axis] == 1 != shape[axis]:
            d = draft.put(Sum(d, axis), bits)
    inner: Shape = (math.prod(draft.value(d).shape) // shape[0],)
    apart = draft.put(Reshape(d, (batch, shape[0] // batch, *inner)), bits)
    return draft.put(Sum(apart, 1), bits) if shape[0] > batch else apart
