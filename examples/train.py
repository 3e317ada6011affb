"""Train the tutorial's CNN on the digits and save it: `python examples/train.py [model.keras]`."""

import sys
from pathlib import Path

import keras
from keras import layers

import digits

MODEL = Path(__file__).parent / "mnist.keras"
EPOCHS = 8


def build() -> keras.Model:
    """Three convolutions with average pools; no softmax: the largest logit is the answer."""
    return keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(16, 3),
            layers.AveragePooling2D(2),
            layers.ReLU(),
            layers.Conv2D(32, 3),
            layers.AveragePooling2D(2),
            layers.ReLU(),
            layers.Conv2D(64, 3),
            layers.AveragePooling2D(2),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(10),
        ],
        name="mnist",
    )


def train(path: Path, epochs: int = EPOCHS) -> keras.Model:
    """Trains, prints the accuracy on the test images, and saves."""
    data = digits.load()
    keras.utils.set_random_seed(1)
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.002), loss=loss, metrics=["accuracy"])
    model.fit(data.x_train, data.y_train, batch_size=32, epochs=epochs, verbose=0)
    accuracy = model.evaluate(data.x_test, data.y_test, verbose=0)[1]
    print(f"trained for {epochs} epochs, accuracy on 2,000 test images: {accuracy:.1%}", flush=True)
    model.save(path)
    return model


if __name__ == "__main__":
    train(Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL)
