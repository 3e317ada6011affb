"""What one server sees is uniform and independent of its own randomness, whatever the secrets are: bit by bit and pair by pair.

The same example is evaluated many times, each time with fresh randomness, as the examples of one batch. Every bit that a server receives
must then be balanced, and no two of them, nor one of them and a bit that the server knew before, may be correlated. Leaving a mask out,
using one twice, or masking with something that the server knows breaks one of the two. Each limit is exceeded by chance with probability
below 10^-11 a pair; the keys are fixed.
"""

import numpy as np
import pytest

from deployment import Deployment, random_ring
from protocols.program import Argmax, AsShare, Combine, Dense, Input, Open, Program, Select, Truncate

RUNS = 1500
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
        Argmax(9, 0, 41),
    ),
    ((2, 2), (2,), (2, 2), (2, 3)),
    (2,),
    1.0,
    (-1.0, 1.0),
    1.0,
)


def bits(words: np.ndarray) -> np.ndarray:
    """(runs, *) words as (runs, bits) of -1 and 1."""
    flat = np.ascontiguousarray(words.reshape(RUNS, -1)).view(np.uint8)
    return np.unpackbits(flat, axis=1).astype(np.float32) * 2 - 1


def view(party: int, secret: int) -> tuple[np.ndarray, np.ndarray]:
    """What a server receives, masked input included, and what it holds already: bits (runs, bits) each."""
    weights = [random_ring(shape, 300, f"w{i}{secret}") for i, shape in enumerate(PROGRAM.weights)]
    deployment = Deployment(PROGRAM, weights, f"{secret}")
    x = np.tile(random_ring((1, 2), secret, f"x{secret}"), (RUNS, 1))
    received = [x + deployment.dealing(RUNS).input_mask, *deployment.run(x).seen_by(party)]
    held = deployment.material(party, RUNS).fields.values()
    return np.hstack([bits(array) for array in received]), np.hstack([bits(array) for array in held])


@pytest.mark.parametrize("party", [0, 1])
@pytest.mark.parametrize("secret", [1, 500])
def test_every_bit_that_a_server_receives_is_fresh(party, secret):
    received, held = view(party, secret)
    assert np.abs(received.mean(axis=0)).max() < LIMIT
    among = received.T @ received / RUNS
    np.fill_diagonal(among, 0)
    assert np.abs(among).max() < LIMIT
    assert np.abs(received.T @ held / RUNS).max() < LIMIT


def test_the_test_sees_a_mask_that_is_used_twice_or_known():
    fresh, other = (random_ring((RUNS, 1), (1 << 63) - 1, name) for name in ("fresh", "other"))
    for first, second in ((fresh, fresh + np.uint64(3)), (fresh, ~fresh & np.uint64(1))):
        assert np.abs(bits(first).T @ bits(second) / RUNS).max() > LIMIT
    assert np.abs(bits(fresh).T @ bits(other) / RUNS).max() < LIMIT
