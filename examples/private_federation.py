"""A thousand owners with eight digits each train a model that hardly depends on any one of them, and nobody ever sees a sum without noise.

Each owner adds a part of the noise to its update; the parts are enough in the sum, and the sum is all that is opened. Then an attacker
tries to find out who took part: for each of a hundred more owners a coin was tossed, and all that they have is images of one pixel that no
digit uses. The same attack on a training without privacy shows what it would have found.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import digits
from federated import DistributedGaussian, FedAvg, Federation, PlainMean, SecureAggregation, partition, simulated_owners
from privacy import audit

OWNERS = 1000
DELTA = 1e-5
GUESSES = (20, 20)
PRIVACY = DistributedGaussian(clip_norm=1.0, noise_multiplier=1.0, max_epsilon=4.0, delta=DELTA)


def build_model() -> keras.Model:
    """Softmax regression."""
    model = keras.Sequential([layers.Input((28, 28, 1)), layers.Flatten(), layers.Dense(10, kernel_initializer="zeros")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.3), loss=loss, metrics=["accuracy"])
    return model


def canaries(data: digits.Digits) -> audit.Canaries:
    """One owner for each pixel that is dark in all digits: eight images with that pixel alone, and one label."""
    dark = np.flatnonzero(np.concatenate([data.x_train, data.x_test]).reshape(-1, 784).max(axis=0) == 0)
    x = np.zeros((len(dark), 8, 784), np.float32)
    x[np.arange(len(dark)), :, dark] = 3.0
    y = np.repeat(np.arange(len(dark)) % 10, 8).reshape(-1, 8)
    return audit.Canaries.of(x.reshape(-1, 8, 28, 28, 1), y)


async def train(data: digits.Digits, birds: audit.Canaries, rounds: int, *, private: bool) -> Federation:
    """Trains with the owners, and the canaries whose coin said so."""
    parts: list[Any] = [*partition(data.x_train, data.y_train, owners=OWNERS, seed=0)]
    parts += [(x, y) for x, y, included in zip(birds.x, birds.y, birds.included, strict=True) if included]
    federation = Federation(
        model=build_model,
        owners=simulated_owners(parts),
        strategy=FedAvg(fraction=0.1, local_epochs=4, batch_size=8),
        aggregation=SecureAggregation(threshold=0.8, most_examples=1) if private else PlainMean(),
        privacy=PRIVACY if private else None,
        evaluation=(data.x_test, data.y_test),
    )
    async with federation:
        async for outcome in federation.rounds(rounds):
            print(" ", outcome, flush=True)
    return federation


def attack(federation: Federation, birds: audit.Canaries) -> audit.OneRunAudit:
    """Guesses who took part from the model alone: what it has learned about the one pixel of each."""
    scores = audit.loss_scores(federation.model, birds.x[:, 0], birds.y[:, 0])
    return audit.one_run(scores, birds.included, delta=DELTA, guesses=GUESSES)


async def main(rounds: int) -> None:
    """With privacy, and without."""
    data = digits.load()
    print("with noise that owners make together:")
    birds = canaries(data)
    private = await train(data, birds, rounds, private=True)
    found = attack(private, birds)
    print("without:")
    birds = canaries(data)
    plain = await train(data, birds, rounds, private=False)
    picture = Path(tempfile.gettempdir()) / "private_federation.png"
    private.history.plot(picture)
    print(f"the curves are in {picture}")
    print(f"with noise:    accuracy {private.history[-1].metrics['test_accuracy']:.1%}, epsilon at most {private.history[-1].epsilon:.2f}")
    print(f"  the attack:  {found}")
    print(f"without noise: accuracy {plain.history[-1].metrics['test_accuracy']:.1%}")
    print(f"  the attack:  {attack(plain, birds)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    asyncio.run(main(parser.parse_args().rounds))
