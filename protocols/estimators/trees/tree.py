"""A tree in the clear, as it was opened."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protocols.estimators.settings import Array
from protocols.estimators.trees.bins import Bins


@dataclass(frozen=True)
class Tree:
    """A complete binary tree; the children of node i are 2 i + 1, where x[feature] <= threshold, and 2 i + 2.

    Attributes:
        feature: of each inner node, -1 where all examples go to the right.
        threshold: (nodes,).
        value: of the leaves from left to right, (leaves, outputs).
    """

    feature: Array
    threshold: Array
    value: Array

    @classmethod
    def of(cls, numbers: Array, value: Array, bins: Bins) -> Tree:
        """Return the tree with these splits, as 1 + their number or 0 for none, in the order of the nodes."""
        none = numbers == 0
        at = np.where(none, 0, numbers - 1)
        return cls(np.where(none, -1, np.array(bins.features)[at]), np.where(none, np.nan, bins.thresholds[at]), value)

    @property
    def depth(self) -> int:
        """How many splits lie between the root and a leaf."""
        return len(self.value).bit_length() - 1

    def predict(self, rows: Array) -> Array:
        """Return the value of the leaf of each row, (n, outputs)."""
        node = np.zeros(len(rows), int)
        for _ in range(self.depth):
            feature = self.feature[node]
            left = (feature >= 0) & (rows[np.arange(len(rows)), feature] <= self.threshold[node])
            node = 2 * node + 2 - left
        found: Array = self.value[node - len(self.feature)]
        return found


def by_tree(levels: Array, trees: int, depth: int) -> Array:
    """Return splits of trees that were grown side by side, (trees, nodes), from those of one level after the other."""
    parts, start = [], 0
    for level in range(depth):
        count = trees << level
        parts.append(levels[start : start + count].reshape(trees, -1))
        start += count
    return np.concatenate(parts, 1)
