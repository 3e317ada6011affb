"""The arithmetic that must be fast, compiled by numba, or in plain numpy where numba cannot be imported.

Start reading at `reference.py`, which says what every kernel computes; `matmul.py` has the tile that makes it fast. Kernels trust
their arguments: `protocols.mpc.numbers.ring` and `protocols.mpc.numbers.fixed_point` check shapes and types before they call one.
"""

from __future__ import annotations

import warnings

try:
    from protocols.mpc.kernels.affine import affine_product, affine_square, rounded_share
    from protocols.mpc.kernels.comparison import (
        bit_planes,
        block_shares,
        deal_blocks,
        deal_node,
        deal_piecewise,
        deal_selection,
        node_shares,
        piecewise,
        selection,
    )
    from protocols.mpc.kernels.convolution import conv2d, kernel_gradient, sum_pool
    from protocols.mpc.kernels.elementwise import decode, encode
    from protocols.mpc.kernels.matmul import matmul

    COMPILED = True
except ImportError as error:
    warnings.warn(
        f"the ring kernels run in plain numpy, 10 to 100 times slower, because numba could not be imported ({error});"
        " install numba in a version that supports this numpy",
        RuntimeWarning,
        stacklevel=2,
    )
    from protocols.mpc.kernels.reference import conv2d, decode, encode, kernel_gradient, matmul, sum_pool
    from protocols.mpc.kernels.reference_affine import affine_product, affine_square, rounded_share
    from protocols.mpc.kernels.reference_comparison import (
        bit_planes,
        block_shares,
        deal_blocks,
        deal_node,
        deal_piecewise,
        deal_selection,
        node_shares,
        piecewise,
        selection,
    )

    COMPILED = False

__all__ = [
    "COMPILED",
    "affine_product",
    "affine_square",
    "bit_planes",
    "block_shares",
    "conv2d",
    "deal_blocks",
    "deal_node",
    "deal_piecewise",
    "deal_selection",
    "decode",
    "encode",
    "kernel_gradient",
    "matmul",
    "node_shares",
    "piecewise",
    "rounded_share",
    "selection",
    "sum_pool",
]
