"""What privacy costs in training: `python -m benchmarks.private_training [--json] [--memory] [--accuracy]`.

For each model, steps of `fit` with and without privacy, by turns in one process: batch 256 of 8,192 examples, Poisson sampling, secure
noise, accounting and metrics included; the time of a step is the median of the times between two ends of a batch. With --memory also
the peak of each in a process of its own, above what the process held before `fit`. With --accuracy a training on the 8,000 digits at
(epsilon 3, delta 1e-5). The settings of TensorFlow's threads are left as the environment has them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from privacy import PrivacyEngine

layers = keras.layers
DIGITS = Path(__file__).parents[1] / "examples" / "mnist_10k.npz"
BATCH = 256
EXAMPLES = 8192


def tutorial_cnn(activation: str = "relu") -> list[Any]:
    return [
        keras.Input((28, 28, 1)),
        layers.Conv2D(16, 8, 2, "same", activation=activation), layers.MaxPool2D(2, 1),
        layers.Conv2D(32, 4, 2, activation=activation), layers.MaxPool2D(2, 1),
        layers.Flatten(), layers.Dense(32, activation=activation), layers.Dense(10),
    ]  # fmt: skip


def mlp() -> list[Any]:
    return [keras.Input((784,)), layers.Dense(128, activation="relu"), layers.Dense(10)]


def lstm() -> list[Any]:
    return [keras.Input((50, 16)), layers.LSTM(32), layers.Dense(10)]


def small_cnn() -> list[Any]:
    """Two convolutions of three by three: not tuned for."""
    return [
        keras.Input((28, 28, 1)),
        layers.Conv2D(32, 3, activation="relu"), layers.MaxPool2D(2),
        layers.Conv2D(64, 3, activation="relu"), layers.MaxPool2D(2),
        layers.Flatten(), layers.Dense(64, activation="relu"), layers.Dense(10),
    ]  # fmt: skip


def colour_cnn() -> list[Any]:
    """Four convolutions on colour images, with group normalization: not tuned for."""
    found: list[Any] = [keras.Input((32, 32, 3))]
    for filters in (16, 32):
        for _ in range(2):
            found += [layers.Conv2D(filters, 3, padding="same", activation="relu"), layers.GroupNormalization(8)]
        found.append(layers.AveragePooling2D(2))
    return [*found, layers.Flatten(), layers.Dense(64, activation="relu"), layers.Dense(10)]


MODELS: dict[str, tuple[Callable[[], list[Any]], float]] = {
    "tutorial CNN": (tutorial_cnn, 2.2),
    "MLP": (mlp, 1.8),
    "LSTM": (lstm, 5.0),
    "small CNN": (small_cnn, 3.0),
    "colour CNN": (colour_cnn, 3.0),
}
"""Each model with the ratio that is aimed at."""


class Clock(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """The times of the ends of batches."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[float] = []
        self._last: float | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._last = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        now = time.perf_counter()
        if self._last is not None:
            self.steps.append(now - self._last)
        self._last = now


def prepared(name: str, *, private: bool) -> tuple[keras.Model, Any, Any]:
    """A compiled model with data of its shape."""
    model = keras.Sequential(MODELS[name][0]())
    if private:
        PrivacyEngine(accountant="rdp").make_private(model, noise_multiplier=1.1, max_grad_norm=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    random = np.random.default_rng(0)
    return model, random.random((EXAMPLES, *model.input_shape[1:]), np.float32), random.integers(0, 10, EXAMPLES)


def ratio(name: str, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step of both, from epochs by turns."""
    both = {kind: (prepared(name, private=kind == "private"), Clock()) for kind in ("plain", "private")}
    for turn in range(rounds + 1):
        for (model, x, y), clock in both.values():
            model.fit(x, y, batch_size=BATCH, epochs=1, verbose=0, callbacks=[clock])
            if turn == 0:
                clock.steps.clear()  # tracing
    plain, private = (float(np.median(clock.steps)) * 1e3 for _, clock in both.values())
    return {"model": name, "plain_ms": plain, "private_ms": private, "ratio": private / plain, "aim": MODELS[name][1]}


def peak(name: str, *, private: bool) -> float:
    """MB above what the process held before, in a process of its own."""
    code = f"from benchmarks.private_training import grown; print(grown({name!r}, private={private}))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=DIGITS.parents[1])
    return float(shown.stdout.split()[-1])


def grown(name: str, *, private: bool) -> float:
    model, x, y = prepared(name, private=private)
    model(x[:2])
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
    before = memory("VmRSS")
    model.fit(x, y, batch_size=BATCH, epochs=2, verbose=0)
    return memory("VmHWM") - before


def memory(name: str) -> float:
    """MB, from what Linux says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(name))) / 1024


def accuracy(epochs: int = 30, batch_size: int = 512, learning_rate: float = 2.0, clip: float = 0.5) -> dict[str, Any]:
    """Test accuracy of a tutorial CNN with tanh on the digits, at (epsilon 3, delta 1e-5)."""
    with np.load(DIGITS) as digits:
        x, y, x_test, y_test = (digits[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    x, x_test = (images[..., None].astype(np.float32) / 255 for images in (x, x_test))
    engine = PrivacyEngine(accountant="pld")
    model = engine.make_private_with_epsilon(
        keras.Sequential(tutorial_cnn("tanh")),
        target_epsilon=3.0,
        target_delta=1e-5,
        epochs=epochs,
        batch_size=batch_size,
        examples=len(x),
        max_grad_norm=clip,
    )
    model.compile(keras.optimizers.SGD(learning_rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0)
    return {"accuracy": model.evaluate(x_test, y_test, verbose=0)[1], "epsilon": engine.epsilon(delta=1e-5), "delta": 1e-5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    given = parser.parse_args()
    found = []
    for name in given.models:
        one = ratio(name, given.rounds)
        if given.memory:
            one["plain_mb"], one["private_mb"] = peak(name, private=False), peak(name, private=True)
        found.append(one)
        if not given.json:
            times = f"plain {one['plain_ms']:7.2f} ms  private {one['private_ms']:7.2f} ms  ratio {one['ratio']:5.2f} (aim {one['aim']})"
            memory = f"   peak {one['plain_mb']:6.0f} MB {one['private_mb']:6.0f} MB" if given.memory else ""
            print(f"{name:14} {times}{memory}", flush=True)
    result = {"models": found, "digits": accuracy() if given.accuracy else None}
    if given.json:
        print(json.dumps(result, indent=2))
    elif given.accuracy:
        print(result["digits"])


if __name__ == "__main__":
    main()
