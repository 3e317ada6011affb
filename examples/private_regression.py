"""Two hospitals, one regression: `python examples/private_regression.py [patients] [iterations]`.

Each patient has measurements and a yes or no. Rows are secret-shared among two servers, a third worker deals randomness, one logistic
regression is fitted on all of them, and only its coefficients are opened: no worker sees a patient. This script plays both hospitals and
stores their rows as one array. Patients are real digits here: the brightness of sixteen patches of an image, and whether it shows a 2.
Beside it, what the smaller hospital finds alone.
"""

import asyncio
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

import digits
from protocols import Cluster, LogisticRegression, Worker

Array = npt.NDArray[Any]


def patients(images: Array, labels: Array) -> tuple[Array, Array]:
    """Sixteen patches of each image, scaled to about 1 by public constants, and whether it is a 2."""
    patches = images.reshape(-1, 4, 7, 4, 7).mean((2, 4)).reshape(-1, 16)
    return (patches - 0.13) / 0.16, (labels == 2).astype(int)


async def main(count: int, iterations: int) -> None:
    """Fits together and alone, and prints accuracies on new patients."""
    data = digits.load()
    x, y = patients(data.x_train[:count], data.y_train[:count])
    new = patients(data.x_test, data.y_test)
    small = count // 10  # the first hospital has a tenth of the patients
    julia, greg, me = (Worker("localhost:0") for _ in range(3))
    async with Cluster(julia, greg, crypto_provider=me) as cluster:
        together = await LogisticRegression(cluster, max_iter=iterations, l2=0.01).fit(x, y)
        alone = await LogisticRegression(cluster, max_iter=iterations, l2=0.01).fit(x[:small], y[:small])
    state = "converged" if together.converged_ else "not converged"
    print(f"together, {count} patients: {state} after {together.n_iter_[0]} iterations")
    print(f"accuracy on 2,000 new patients: together {together.score(*new):.1%}, the small hospital alone {alone.score(*new):.1%}")
    print("coefficients:", np.array2string(together.coef_[0], precision=2, suppress_small=True))


if __name__ == "__main__":
    arguments = [int(number) for number in sys.argv[1:]]
    asyncio.run(main(*arguments, *(2000, 300)[len(arguments) :]))
