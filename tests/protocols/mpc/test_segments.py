"""Programs in segments: the answers, bytes and words of the whole, with less of its randomness in memory at a time."""

import gc
import weakref

import numpy as np
import pytest

from deployment import Deployment, key, random_ring
from protocols.mpc import dealer, inference
from protocols.mpc.engine.segments import cut
from protocols.mpc.operations.argmax import Argmax
from protocols.mpc.operations.bilinear import MatMul
from protocols.mpc.operations.clamp import ClampedInput
from protocols.mpc.operations.moves import Permute, Reshape
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.weights import Conv2D, Dense, DerivedShares, Shift, SummedMasks
from protocols.mpc.operations.wires import Input, Open
from protocols.mpc.parties.exchange import Party
from protocols.mpc.parties.material import Expansion
from protocols.mpc.parties.simulator import simulate
from protocols.mpc.program import Program

CHAIN = (
    (Input(), Dense(0, 0, 1), Select(1, 8, 20), Open(2), Dense(3, 2), Argmax(4, 0, 40)),
    ((6, 5), (5,), (5, 3)),
    (6,),
)
BRANCHES = (
    (
        ClampedInput(-500, 500),  # 0
        Conv2D(0, 0, padding=((1, 1), (1, 1))),  # 1 (4, 4, 3)
        Truncate(1, 8, 20),  # 2
        Sign(2),  # 3
        Multiply(2, 3),  # 4
        Shift(4, 1),  # 5
        Open(5),  # 6
        Permute(6, (2, 0, 1)),  # 7
        Reshape(6, (3, 16)),  # 8
        Reshape(7, (3, 16)),  # 9
        MatMul(8, 9, False, True),  # 10 (3, 3)
        Combine((10, 10), (1, 2), 7),  # 11
        Piecewise(11, 8, 30, (-3, 5), (1, 2, 0), (0, 1, 4)),  # 12
        Multiply(2, 2),  # 13: of an early value, late
        Truncate(13, 8, 30),  # 14
        Reshape(14, (48,)),  # 15
        Reshape(12, (9,)),  # 16
        Open(16),  # 17
        Open(15),  # 18
        Dense(17, 2),  # 19
        Dense(18, 3),  # 20
        Combine((19, 20), (1, 1)),  # 21
    ),
    ((3, 3, 2, 3), (4, 4, 3), (9, 2), (48, 2)),
    (4, 4, 2),
)


def deployment(which, salt="") -> Deployment:
    ops, weights, shape = which
    program = Program(ops, weights, shape, 1.0, (-500.0, 500.0), 1.0)
    return Deployment(program, [random_ring(w, 50, f"w{i}") for i, w in enumerate(weights)], salt)


def in_segments(one: Deployment, x, most: int, *, lazily: bool = True):
    """The transcript of an evaluation in segments, and how they were dealt."""
    program, n = one.program, len(x)
    parts = cut(len(program.ops), inference.layout(program), most, n)
    keys = (one.chunk_key(0), one.chunk_key(1))
    weight_keys = tuple(_weight_key(one, party) for party in (0, 1))
    made = dealer.SegmentDealer(program, SummedMasks(weight_keys, program.weights), keys, n, parts)
    dealt = [next(made) for _ in parts]
    runs = {}
    for i in (0, 1):
        shares = one.weight_shares(i)
        if lazily:
            shares = type(shares)(shares.masked, DerivedShares(Party(i), shares.masked, weight_keys[i]))
        prepared = inference.Preparation(program, shares, keys[i], parts, n)

        async def supply(number, prepared=prepared, i=i):
            return prepared.next(dealt[number].copy() if i else None)

        m = x + made.input_mask
        runs[i] = inference.evaluate_in_segments(Party(i), program, shares, parts, supply, m, noise_key=one.noise_key(i))
    return simulate(runs), parts, dealt


def _weight_key(one: Deployment, party: int) -> bytes:
    return key(f"weights{party}{one.salt}")


@pytest.mark.parametrize("which", [CHAIN, BRANCHES], ids=["chain", "branches"])
@pytest.mark.parametrize("most", [1, 700, 3000, 1 << 20])
def test_segments_give_the_shares_and_bytes_of_the_whole(which, most):
    one = deployment(which)
    x = random_ring((3, *one.program.input_shape), 400, "x")
    whole = one.run(x)
    found, parts, dealt = in_segments(one, x, most)
    assert [at for part in parts for at in part.positions] == list(range(len(one.program.ops)))
    assert sum(words.size for words in dealt) == one.dealing(3).dealt.size
    assert all(part.size(3) <= most or len(part.layout.sizes(3)) == 1 for part in parts)
    for i in (0, 1):
        np.testing.assert_array_equal(found.results[i], whole.results[i])
    assert found.sent == whole.sent
    if len(parts) == 1:
        assert found.rounds == whole.rounds
        np.testing.assert_array_equal(dealt[0], one.dealing(3).dealt)
    else:
        assert found.rounds >= whole.rounds
    assert (len(parts) == 1) == (most == 1 << 20)


@pytest.mark.parametrize("which", [CHAIN, BRANCHES], ids=["chain", "branches"])
def test_what_has_been_used_is_freed_before_the_next_segment_comes(which, monkeypatch):
    gc.collect()
    gc.freeze()  # what is collected below is this test's: all of TensorFlow, if this process has it, takes half a second each time
    one = deployment(which)
    x = random_ring((2, *one.program.input_shape), 400, "x")
    program, keys = one.program, (one.chunk_key(0), one.chunk_key(1))
    parts = cut(len(program.ops), inference.layout(program), 1, 2)
    made = dealer.SegmentDealer(program, SummedMasks((_weight_key(one, 0), _weight_key(one, 1)), program.weights), keys, 2, parts)
    used, runs = {0: [], 1: []}, {}
    for i in (0, 1):
        prepared = inference.Preparation(program, one.weight_shares(i), keys[i], parts, 2)

        async def supply(number, prepared=prepared, i=i):
            gc.collect()
            assert not any(array() is not None for array in used[i])
            material = prepared.next(dealt[number].copy() if i else None)
            used[i] += [weakref.ref(field.base) for field in material.fields.values() if field.base is not None]
            return material

        runs[i] = inference.evaluate_in_segments(Party(i), program, one.weight_shares(i), parts, supply, x, noise_key=one.noise_key(i))
    dealt, expanded = [], []

    def noted(expand):
        def noting(self, layout, examples):
            array = expand(self, layout, examples)
            expanded.append(weakref.ref(array))
            return array

        return noting

    with monkeypatch.context() as patched:
        for name in ("own", "dealt"):
            patched.setattr(Expansion, name, noted(getattr(Expansion, name)))
        for _ in parts:
            dealt.append(next(made).copy())
            gc.collect()
            assert not any(array() is not None for array in expanded)
    assert len(expanded) == 3 * len(parts)
    simulate(runs)
    assert len(used[0]) > len(parts)
