"""Train a classifier of digits with differential privacy: `python examples/private_training.py [--epsilon 3] [--epochs 30]`.

With the defaults about half a minute on two cores, and about 95 % on the test images. With and without any one of the 8,000 digits, the
probabilities of every trained model differ by a factor of at most e^epsilon, but for a probability delta.
"""

import argparse

import keras

import digits
from privacy import PrivacyEngine

BATCH, DELTA = 512, 1e-5


def build() -> keras.Model:
    """A small CNN. Bounded activations keep gradients small, so that clipping takes less away (Papernot et al., 2021, arXiv:2007.14191)."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 8, 2, "same", activation="tanh"),
            layers.MaxPool2D(2, 1),
            layers.Conv2D(32, 4, 2, activation="tanh"),
            layers.MaxPool2D(2, 1),
            layers.Flatten(),
            layers.Dense(32, activation="tanh"),
            layers.Dense(10),
        ]
    )


def main(epsilon: float, epochs: int) -> None:
    """Plans the noise for the target, trains, and shows what was spent."""
    x, y, x_test, y_test = digits.load()
    engine = PrivacyEngine(accountant="pld")
    model = engine.make_private_with_epsilon(
        build(), target_epsilon=epsilon, target_delta=DELTA, epochs=epochs, batch_size=BATCH, examples=len(x), max_grad_norm=0.5
    )
    print(engine.report(model))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(2.0), loss, metrics=["accuracy"])

    def show(epoch: int, logs: dict[str, float]) -> None:
        if (epoch + 1) % 5 == 0 or epoch + 1 == epochs:
            print(f"epoch {epoch + 1:2}: test accuracy {logs['val_accuracy']:.3f}, epsilon {engine.epsilon(delta=DELTA):.2f}", flush=True)

    shown = keras.callbacks.LambdaCallback(on_epoch_end=show)
    model.fit(x, y, epochs=epochs, validation_data=(x_test, y_test), callbacks=[shown], verbose=0)
    print(f"(epsilon {engine.epsilon(delta=DELTA):.2f}, delta {DELTA}) for each of {len(x)} digits")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epsilon", type=float, default=3.0)
    parser.add_argument("--epochs", type=int, default=30)
    main(**vars(parser.parse_args()))
