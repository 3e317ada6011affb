"""What one server sees is uniform and independent of its own randomness, whatever the secrets are: bit by bit and pair by pair.

The same example is evaluated many times, each time with fresh randomness, as the examples of one batch. What a server receives it can add
to, or XOR with, what it sends in the same round: that opens values. Every bit of them must be balanced, and no two of them, nor one of
them and a bit that the server held before, may be correlated. Leaving a mask out, using one twice, or masking with something that the
server knows breaks one of the two. The shares that travel are uniform by themselves and would show none of this.

Each limit is exceeded by chance with probability below 10^-11 a pair; the keys are fixed.
"""

import numpy as np
import pytest

from deployment import Deployment, random_ring
from protocols.mpc.operations.argmax import Argmax
from protocols.mpc.operations.bilinear import MatMul
from protocols.mpc.operations.moves import Permute, Reshape
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.noise import AddNoise
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.weights import Dense
from protocols.mpc.operations.wires import AsShare, Input, Open
from protocols.mpc.program import Program

RUNS = 400
LIMIT = 7 / np.sqrt(RUNS)

PROGRAM = Program(
    (
        Input(),
        Dense(0, 0, 1),
        Select(1, 6, 20, 5, -2, 9),
        Open(2),
        Dense(3, 2),
        Truncate(4, 6, 20),
        AsShare(3),
        Combine((5, 6), (1, 1)),
        Open(7),
        Dense(8, 3),
        Truncate(9, 6, 20),
        Combine((10,), (1,), 40),
        Combine((10,), (1,), -40),
        Select(11, 0, 24),
        Select(12, 0, 24),
        Combine((13, 14), (1, -1), -40),
        AddNoise(15, 700),
        Argmax(16, 0, 41),
    ),
    ((2, 2), (2,), (2, 2), (2, 3)),
    (2,),
    1.0,
    (-1.0, 1.0),
    1.0,
)


SMOOTH = Program(
    (
        Input(),
        Dense(0, 0, 1),
        Piecewise(1, 6, 20, (-700, 0, 44), (0, 3, -1, 2), (5, 0, 1, -9)),
        Open(2),
        Multiply(3, 0),
        Piecewise(4, 20, 24, (0,), (0, 0), (0, 1)),
        Open(5),
        Reshape(6, (1, 2)),
        Permute(7, (1, 0)),
        MatMul(7, 8),
        Truncate(9, 1, 20),
    ),
    ((2, 2), (2,)),
    (2,),
    1.0,
    (-1.0, 1.0),
    1.0,
)


def bits(words: np.ndarray) -> np.ndarray:
    """(runs, *) words as (runs, bits) of -1 and 1."""
    flat = np.ascontiguousarray(words.reshape(RUNS, -1)).view(np.uint8)
    return np.unpackbits(flat, axis=1).astype(np.float32) * 2 - 1


def view(program: Program, party: int, secret: int) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """What a server receives and what it sends in the same rounds, masked input first; and what it holds already."""
    weights = [random_ring(shape, 300, f"w{i}{secret}") for i, shape in enumerate(program.weights)]
    deployment = Deployment(program, weights, f"{secret}")
    x = np.tile(random_ring((1, 2), secret, f"x{secret}"), (RUNS, 1))
    transcript = deployment.run(x)
    m = x + deployment.dealing(RUNS).input_mask
    received, sent = transcript.seen_by(party), transcript.seen_by(1 - party)
    return [m, *received], [np.zeros_like(m), *sent], list(deployment.material(party, RUNS).fields.values())


CASES = {
    "party 0, small secrets": (PROGRAM, 0, 1),
    "party 1, large secrets": (PROGRAM, 1, 500),
    "functions, party 0, large secrets": (SMOOTH, 0, 500),
    "functions, party 1, small secrets": (SMOOTH, 1, 1),
}


QUICK = {"party 0, small secrets", "functions, party 1, small secrets"}
PARAMETERS = [pytest.param(case, id=name, marks=() if name in QUICK else pytest.mark.long) for name, case in CASES.items()]


@pytest.fixture(scope="module", params=PARAMETERS)
def seen(request):
    received, sent, held = view(*request.param)
    return received, sent, np.hstack([bits(array) for array in held])


@pytest.mark.parametrize("opening", [np.add, np.bitwise_xor])
@pytest.mark.sample(1)
def test_every_bit_that_is_opened_is_fresh(seen, opening):
    received, sent, held = seen
    opened = np.hstack([bits(opening(theirs, ours)) for theirs, ours in zip(received, sent, strict=True)])
    assert np.abs(opened.mean(axis=0)).max() < LIMIT
    among = opened.T @ opened / RUNS
    np.fill_diagonal(among, 0)
    assert np.abs(among).max() < LIMIT
    for first in range(0, held.shape[1], 1024):  # products that fit into the caches
        assert np.abs(opened.T @ held[:, first : first + 1024]).max() < LIMIT * RUNS


def test_the_test_sees_a_mask_that_is_used_twice_or_known():
    fresh, other = (random_ring((RUNS, 1), (1 << 63) - 1, name) for name in ("fresh", "other"))
    for first, second in ((fresh, fresh + np.uint64(3)), (fresh, ~fresh & np.uint64(1))):
        assert np.abs(bits(first).T @ bits(second) / RUNS).max() > LIMIT
    assert np.abs(bits(fresh).T @ bits(other) / RUNS).max() < LIMIT
