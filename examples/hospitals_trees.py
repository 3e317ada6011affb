"""Two hospitals, one forest of boosted trees: `python examples/hospitals_trees.py [patients] [iterations]`.

One hospital has half of the measurements of each patient, the other one the rest and the diagnosis. Both are secret-shared among two
servers, a third worker deals randomness; thresholds, sums, splits and who is in which leaf stay shared, and only the finished trees are
opened. This script plays both hospitals. Patients are real digits here: the brightness of sixteen patches of an image, and whether it shows
a 2. Beside it, what the second hospital finds with its own measurements alone.
"""

import asyncio
import sys
from typing import Any

import numpy.typing as npt

import digits
from protocols import Cluster, GradientBoostingClassifier, Worker

Array = npt.NDArray[Any]


def patients(images: Array, labels: Array) -> tuple[Array, Array]:
    """Sixteen patches of each image, and whether it is a 2."""
    return images.reshape(-1, 4, 7, 4, 7).mean((2, 4)).reshape(-1, 16), (labels == 2).astype(int)


async def main(count: int, iterations: int) -> None:
    """Fits together and alone, and prints accuracies on new patients, and the first split."""
    data = digits.load()
    x, y = patients(data.x_train[:count], data.y_train[:count])
    new, diagnoses = patients(data.x_test, data.y_test)
    julia, greg, me = (Worker("localhost:0") for _ in range(3))
    async with Cluster(julia, greg, crypto_provider=me) as cluster:
        together, alone = (GradientBoostingClassifier(cluster, n_estimators=iterations, learning_rate=0.3, max_bins=16) for _ in range(2))
        await together.fit(x, y)
        await alone.fit(x[:, 8:], y)
    print(f"{len(together.estimators_)} trees on {count} patients, each of depth {together.estimators_[0][0].depth}")
    first = together.estimators_[0][0]
    print(f"the first split: patch {first.feature[0]} at {first.threshold[0]:.2f}")
    right = together.score(new, diagnoses), alone.score(new[:, 8:], diagnoses)
    print(f"accuracy on {len(new):,} new patients: together {right[0]:.1%}, alone {right[1]:.1%}")


if __name__ == "__main__":
    arguments = [int(number) for number in sys.argv[1:]]
    asyncio.run(main(*arguments, *(1000, 20)[len(arguments) :]))
