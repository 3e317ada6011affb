"""MP-SPDZ's seconds a step of training, for `benchmarks.encrypted_training --mp-spdz`; needs its `replicated-ring-party.x`, built.

`python mp_spdz.py FOLDER mlp|A sgd|adam STEPS` prints a JSON object: `seconds` a step, on average, and the accuracy on 2,000 test digits.
Three semi-honest parties on loopback, replicated over 64 bits, everything secret, preprocessing included, one thread a party, no TLS, which
is all as fast as it goes: probabilistic truncation, the local share conversion of three parties, and its approximated root for Adam.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

NAME = "training_peer"
BATCH, TESTED = 128, 2000
HIDDEN = {"mlp": (128,), "A": (128, 128)}
OPTIMIZERS = {"sgd": "ml.SGD(layers)", "adam": "ml.Adam(layers, approx=True)"}
RATES = {"sgd": 0.1, "adam": 0.001}
PROGRAM = """
import ml
program.use_trunc_pr = True
program.use_split(3)
sfix.set_precision(16, 31)
cfix.set_precision(16, 31)
MultiArray.disable_index_checks()
program.disable_memory_warnings()
sizes = {sizes}
n = {steps} * {batch}
layers = [
    ml.Dense(n, d_in, d_out, activation="relu" if at + 2 < len(sizes) else "id")
    for at, (d_in, d_out) in enumerate(zip(sizes, sizes[1:]))
]
layers.append(ml.MultiOutput(n, sizes[-1]))
layers[-1].compute_loss = False
tested, truth = sfix.Matrix({tested}, sizes[0]), sint.Matrix({tested}, sizes[-1])
for values in (layers[0].X, layers[-1].Y, tested, truth):
    values.input_from(0, binary=True)
optimizer = {optimizer}
optimizer.momentum = 0
optimizer.set_learning_rate({rate})
optimizer.reset()
ml.Layer.back_batch_size = {batch}
start_timer(1)
@for_range({steps})
def _(i):
    batch = regint.Array({batch})
    batch.assign(regint.inc({batch}, i * {batch}))
    optimizer.forward(batch=batch, training=True)
    optimizer.backward(batch=batch)
    optimizer.update(0, batch=batch, i_batch=i)
stop_timer(1)
print_ln("right %s", optimizer.reveal_correctness(tested, truth, {batch})[0])
"""


def free_port() -> int:
    """The first of three free ports in a row, most likely."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def run(folder: Path, network: str, optimizer: str, steps: int) -> dict[str, float]:
    """Compile the program for so many steps, give the first party the digits, and run three parties."""
    with np.load(Path(__file__).parents[2] / "examples" / "mnist_10k.npz") as digits:
        x, y, tested, truth = (digits[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    count, name = steps * BATCH, f"{NAME}_{network}_{optimizer}"
    text = PROGRAM.format(
        sizes=(784, *HIDDEN[network], 10), steps=steps, batch=BATCH, tested=TESTED, optimizer=OPTIMIZERS[optimizer], rate=RATES[optimizer]
    )
    (folder / "Programs" / "Source" / f"{name}.mpc").write_text(text)
    with (folder / "Player-Data" / "Input-Binary-P0-0").open("wb") as given:
        for images, labels in ((x[:count], y[:count]), (tested[:TESTED], truth[:TESTED])):
            given.write((images.reshape(len(images), -1) / 255).astype(np.float32).tobytes())
            given.write(np.eye(10, dtype=np.int64)[labels].tobytes())
    subprocess.run([sys.executable, "compile.py", "-R", "64", name], cwd=folder, check=True, stdout=sys.stderr)
    port = free_port()
    parties = [
        subprocess.Popen(
            ["./replicated-ring-party.x", "-p", str(rank), "-u", "-R", "64", "-pn", str(port), "-h", "127.0.0.1", name],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(3)
    ]  # fmt: skip
    told = [party.communicate(timeout=600)[0] for party in parties]
    seconds, right = re.search(r"Time1 = ([\d.e+-]+) seconds", told[0]), re.search(r"right ([\d.]+)", told[0])
    if any(party.returncode for party in parties) or seconds is None or right is None:
        raise SystemExit(told[0])
    return {"seconds": float(seconds[1]) / steps, "accuracy": float(right[1]) / TESTED}


if __name__ == "__main__":
    where, network, optimizer, steps = sys.argv[1:]
    print(json.dumps(run(Path(where), network, optimizer, int(steps))), flush=True)
