"""Five hospitals train a scikit-learn model together; nobody sees the update of one, and no code travels: each has its own.

The second half is the same with a trainer in fifteen lines of numpy, as one would write it for any other framework.
"""

import asyncio
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import SGDClassifier
from sklearn.preprocessing import StandardScaler

from federated import FedAvg, Federation, SecureAggregation, Trained, partition, simulated_owners
from federated.trainers.scikit import ScikitTrainer

Array = np.ndarray[Any, np.dtype[Any]]
X, Y = load_breast_cancer(return_X_y=True)
X = StandardScaler().fit_transform(X)
TRAIN, TEST = slice(0, 450), slice(450, None)
PARTS = partition(X[TRAIN], Y[TRAIN], owners=5, alpha=1.0, seed=0)


class Logistic:
    """Logistic regression by gradient descent. With DataOwner(data, trainer=Logistic) it is the same at a real owner."""

    def __init__(self, data: tuple[Array, Array]) -> None:
        self.x, self.y = data

    def train(self, weights: list[Array], config: dict[str, Any], state: dict[str, Any]) -> Trained:
        """Train from the global weights on what this hospital has."""
        w, b = (array.copy() for array in weights)
        for _ in range(config["epochs"]):
            error = 1 / (1 + np.exp(-(self.x @ w + b))) - self.y
            w -= self.x.T @ error / len(error)
            b -= error.mean()
        state["rounds"] = state.get("rounds", 0) + 1  # stays here, for the next round
        accuracy = float(np.mean((self.x @ w + b > 0) == self.y))
        return Trained([w - weights[0], b - weights[1]], examples=len(self.y), metrics={"accuracy": accuracy})


async def main() -> None:
    """Train twice, and look at other patients."""
    scikit = ScikitTrainer(SGDClassifier(loss="log_loss", alpha=1e-3, random_state=0), features=30, classes=[0, 1])
    owners = simulated_owners(PARTS, trainer=scikit)
    async with Federation(model=scikit.weights(), owners=owners, aggregation=SecureAggregation(clip=100.0)) as federation:
        async for outcome in federation.rounds(3):
            print("scikit-learn,", outcome)
    print(f"accuracy on other patients: {scikit.fitted(federation.weights).score(X[TEST], Y[TEST]):.3f}")

    start = [np.zeros(30), np.zeros(())]
    async with Federation(model=start, owners=simulated_owners(PARTS, trainer=Logistic), strategy=FedAvg(local_epochs=5)) as federation:
        async for outcome in federation.rounds(3):
            print("numpy,", outcome)
    w, b = federation.weights
    print(f"accuracy on other patients: {np.mean((X[TEST] @ w + b > 0) == Y[TEST]):.3f}")


if __name__ == "__main__":
    asyncio.run(main())
