"""Products modulo 2^64: a tile of outputs kept in vector registers, and the matrix product made of such tiles.

Rows are gathered: output i is sum_k x[bases[i] + offsets[k]] * w[k]. With bases i * K and offsets k this is a matrix product; with
the corners of windows and the positions inside a window it is a convolution, without a copy of the windows. This file knows no
meaning of the numbers, and trusts its arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from protocols.mpc.kernels.compiler import compiled

Ring = npt.NDArray[np.uint64]
Index = npt.NDArray[np.int64]

LANES = 8  # 64-bit lanes of a vector; LLVM splits it where the machine's registers are narrower
ROWS = 8  # rows of the tile: 8 rows x 2 vectors are 16 of the 32 registers of AVX-512
COLUMN_BLOCK = 2 * LANES
ROW_BLOCK = 128  # rows that pass over one panel of w before the next: keeps their inputs in the second-level cache
DEPTH_BLOCK = 512  # rows of a panel: 512 x 16 x 8 bytes is 64 KB

WORD = ir.IntType(64)
VECTOR = ir.VectorType(WORD, LANES)
ZERO = ir.Constant(VECTOR, [0] * LANES)


class _Operands(NamedTuple):
    """The arguments of a tile as LLVM values: arrays are pointers to their first element."""

    x: Any
    bases: Any
    row: Any
    offsets: Any
    start: Any
    stop: Any
    w: Any
    column: Any
    stride: Any
    out: Any
    skip: Any


def _word(n: int) -> Any:
    return ir.Constant(WORD, n)


def _splat(builder: Any, word: Any) -> Any:
    """Build a vector with `word` in every lane."""
    undefined = ir.Constant(VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, word, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _vector_at(builder: Any, data: Any, position: Any) -> Any:
    return builder.bitcast(builder.gep(data, [position]), VECTOR.as_pointer())


def _sum_products(builder: Any, o: _Operands, sums: list[list[Any]]) -> None:
    """For each k: load the vectors of w once, and multiply them by one input of every row."""
    starts = [builder.load(builder.gep(o.bases, [builder.add(o.row, _word(i))])) for i in range(len(sums))]
    inputs = [builder.gep(o.x, [start]) for start in starts]
    with cgutils.for_range_slice(builder, o.start, o.stop, _word(1)) as (k, _):
        offset = builder.load(builder.gep(o.offsets, [k]))
        position = builder.add(o.column, builder.mul(k, o.stride))
        places = [_vector_at(builder, o.w, builder.add(position, _word(v * LANES))) for v in range(len(sums[0]))]
        weights = [builder.load(place, align=8) for place in places]
        for source, row in zip(inputs, sums, strict=True):
            factor = _splat(builder, builder.load(builder.gep(source, [offset])))
            for total, weight in zip(row, weights, strict=True):
                builder.store(builder.add(builder.load(total), builder.mul(factor, weight)), total)


def _add_to_out(builder: Any, o: _Operands, sums: list[list[Any]]) -> None:
    """Add the sums to out, but for the first `skip` columns."""
    kept = builder.icmp_signed(">=", ir.Constant(VECTOR, list(range(LANES))), _splat(builder, o.skip))
    for i, row in enumerate(sums):
        start = builder.add(o.column, builder.mul(builder.add(o.row, _word(i)), o.stride))
        for v, total in enumerate(row):
            place = _vector_at(builder, o.out, builder.add(start, _word(v * LANES)))
            addend = builder.load(total) if v else builder.select(kept, builder.load(total), ZERO)
            builder.store(builder.add(builder.load(place, align=8), addend), place, align=8)


def _tile(rows: int, vectors: int) -> Callable[..., None]:
    """Build the tile of `rows` x (`vectors` * LANES) outputs, as a function that kernels can call.

    numba keeps an array of accumulators in memory; in this LLVM code they are registers. The function adds
    sum_{start <= k < stop} x[bases[row + i] + offsets[k]] * w[k * stride + column + j] to out[(row + i) * stride + column + j].
    The first `skip` columns of the first vector are left as they are: the last vector of a row overlaps the one before it.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: list[Any]) -> Any:
        operands = _Operands(
            *(
                context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
                for kind, value in zip(signature.args, arguments, strict=True)
            )
        )
        with builder.goto_entry_block():  # an alloca inside a loop would grow the stack
            sums = [[builder.alloca(VECTOR) for _ in range(vectors)] for _ in range(rows)]
        for total in (total for row in sums for total in row):
            builder.store(ZERO, total)
        _sum_products(builder, operands, sums)
        _add_to_out(builder, operands, sums)
        return context.get_dummy_value()

    def tile(
        _context: Any,
        x: Any,
        bases: Any,
        row: Any,
        offsets: Any,
        start: Any,
        stop: Any,
        w: Any,
        column: Any,
        stride: Any,
        out: Any,
        skip: Any,
    ) -> Any:
        n = types.int64
        return types.void(x, bases, n, offsets, n, n, w, n, n, out, n), generate

    made: Callable[..., None] = intrinsic(tile)
    return made


_tile_8x2, _tile_8x1, _tile_1x2, _tile_1x1 = _tile(ROWS, 2), _tile(ROWS, 1), _tile(1, 2), _tile(1, 1)

_SIGNATURE = (
    "void(Array(uint64, 1, 'C', readonly=True), int64[::1], int64[::1], Array(uint64, 1, 'C', readonly=True),"
    " int64, int64, int64, uint64[::1])"
)


@compiled(_SIGNATURE)
def _in_tiles(x: Ring, bases: Index, offsets: Index, w: Ring, stride: int, first: int, last: int, out: Ring) -> None:
    """`gathered_product` of at least LANES columns."""
    rows, depth = bases.size, offsets.size
    for top in range(0, rows, ROW_BLOCK):
        bottom = min(top + ROW_BLOCK, rows)
        full = top + (bottom - top) // ROWS * ROWS
        for start in range(0, depth, DEPTH_BLOCK):
            stop = min(start + DEPTH_BLOCK, depth)
            column = first
            while column + COLUMN_BLOCK <= last:
                for i in range(top, full, ROWS):
                    _tile_8x2(x, bases, i, offsets, start, stop, w, column, stride, out, 0)
                for i in range(full, bottom):
                    _tile_1x2(x, bases, i, offsets, start, stop, w, column, stride, out, 0)
                column += COLUMN_BLOCK
            while column < last:
                left = min(column, last - LANES)  # the last vector overlaps the one before it
                for i in range(top, full, ROWS):
                    _tile_8x1(x, bases, i, offsets, start, stop, w, left, stride, out, column - left)
                for i in range(full, bottom):
                    _tile_1x1(x, bases, i, offsets, start, stop, w, left, stride, out, column - left)
                column = left + LANES


@compiled(_SIGNATURE)
def gathered_product(x: Ring, bases: Index, offsets: Index, w: Ring, stride: int, first: int, last: int, out: Ring) -> None:
    """out[i, j] += sum_k x[bases[i] + offsets[k]] * w[k, j] for first <= j < last, all modulo 2^64.

    x, w and out are flat; w is (K, stride) and out (rows, stride) in row-major order.
    """
    columns = last - first
    if columns >= LANES:
        _in_tiles(x, bases, offsets, w, stride, first, last, out)
        return
    panel = np.zeros((offsets.size, LANES), np.uint64)  # fewer columns than lanes: filled up with zeros
    for k in range(offsets.size):
        for j in range(columns):
            panel[k, j] = w[k * stride + first + j]
    wide = np.zeros((bases.size, LANES), np.uint64)
    _in_tiles(x, bases, offsets, panel.reshape(-1), LANES, 0, LANES, wide.reshape(-1))
    for i in range(bases.size):
        for j in range(columns):
            out[i * stride + first + j] += wide[i, j]


@compiled("void(Array(uint64, 2, 'C', readonly=True), Array(uint64, 2, 'C', readonly=True), uint64[:, ::1], boolean)")
def matmul(a: Ring, b: Ring, out: Ring, accumulate: bool) -> None:
    """Write a (m, k) @ b (k, n) modulo 2^64 to out (m, n), or add it to out."""
    (m, depth), n = a.shape, b.shape[1]
    if not accumulate:
        out[:] = 0
    gathered_product(a.reshape(-1), np.arange(m) * depth, np.arange(depth), b.reshape(-1), n, 0, n, out.reshape(-1))
