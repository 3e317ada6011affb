"""DP-SGD by tensorflow-privacy on the digits, with the hyperparameters of `benchmarks.private_training --accuracy`.

For an environment of its own: `pip install tensorflow-privacy tf-keras`, then
`TF_USE_LEGACY_KERAS=1 python benchmarks/peers/tensorflow_privacy.py NOISE_MULTIPLIER`. Shuffled batches of a fixed size, as its tutorial
has them: it has no Poisson sampling.
"""

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import tensorflow as tf

keras = tf.keras
layers = keras.layers
EPOCHS, BATCH, LEARNING_RATE, CLIP = 30, 512, 2.0, 0.5


def sequential() -> type:
    """Its `__init__` asks for estimators that TensorFlow no longer has; the module of its models does not."""
    here = [path for path in sys.path if Path(path).resolve() == Path(__file__).parent]
    sys.path[:] = [path for path in sys.path if path not in here]  # this file has the name of the package
    package = types.ModuleType("tensorflow_privacy")
    package.__path__ = list(importlib.util.find_spec("tensorflow_privacy").submodule_search_locations)
    sys.modules["tensorflow_privacy"] = package
    return importlib.import_module("tensorflow_privacy.privacy.keras_models.dp_keras_model").DPSequential


def main(noise_multiplier: float) -> None:
    with np.load(Path(__file__).parents[2] / "examples" / "mnist_10k.npz") as digits:
        x, y, x_test, y_test = (digits[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    x, x_test = (images[..., None].astype(np.float32) / 255 for images in (x, x_test))
    y, y_test = y.astype(np.int64), y_test.astype(np.int64)
    whole = len(x) // BATCH * BATCH
    model = sequential()(
        l2_norm_clip=CLIP,
        noise_multiplier=noise_multiplier,
        layers=[
            layers.Conv2D(16, 8, 2, "same", activation="tanh", input_shape=(28, 28, 1)), layers.MaxPool2D(2, 1),
            layers.Conv2D(32, 4, 2, activation="tanh"), layers.MaxPool2D(2, 1),
            layers.Flatten(), layers.Dense(32, activation="tanh"), layers.Dense(10),
        ],
    )  # fmt: skip
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    model.compile(keras.optimizers.SGD(LEARNING_RATE), loss, metrics=["accuracy"])
    random = np.random.default_rng()
    for _ in range(EPOCHS):
        order = random.permutation(len(x))[:whole]
        model.fit(x[order], y[order], batch_size=BATCH, epochs=1, verbose=0)
    print({"accuracy": model.evaluate(x_test, y_test, verbose=0)[1], "noise_multiplier": noise_multiplier})


if __name__ == "__main__":
    main(float(sys.argv[1]))
