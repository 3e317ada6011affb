"""Without numba the same results come from plain numpy, and one warning says so."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

SCRIPT = """
import sys, warnings
sys.modules["numba"] = None
sys.path[:0] = [{tests!r}]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from protocols.mpc import kernels
assert not kernels.COMPILED
assert [w.category for w in caught] == [RuntimeWarning], caught
assert "plain numpy" in str(caught[0].message)
import numpy as np
from deployment import Deployment, random_ring
from protocols.mpc.plaintext import evaluate
from protocols.mpc.operations.argmax import Argmax
from protocols.mpc.operations.moves import Reshape
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.weights import Conv2D, Dense
from protocols.mpc.operations.wires import Input, Open
from protocols.mpc.program import Program
curve = Piecewise(2, 0, 26, (50, 7000), (2, 1, 0), (0, 50, 7050))
ops = (Input(), Conv2D(0, 0, 1), Select(1, 0, 24), curve, Reshape(3, (27,)), Open(4), Dense(5, 2))
program = Program(ops, ((2, 2, 2, 3), (3,), (27, 4)), (4, 4, 2), 1.0, (0.0, 1.0), 1.0, Argmax(6, 0, 40))
weights = [random_ring(shape, 50, str(shape)) for shape in program.weights]
x = random_ring((3, 4, 4, 2), 100, "x")
expected = evaluate(program, weights, x)
assert (Deployment(program, weights).output(x) == expected).all()
labels = Deployment(program.for_label(), weights).run(x).results
assert ((labels[0] ^ labels[1])[:, 0] == 1 << expected.view(np.int64).argmax(1).astype(np.uint64)).all()
print("the same")
"""


def test_the_numpy_kernels_run_whole_programs():
    script = SCRIPT.format(tests=str(ROOT / "tests"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "the same", done.stderr
