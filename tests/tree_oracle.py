"""Trees from histograms in plain numpy, float64: what trees on shares are compared with."""

from __future__ import annotations

import numpy as np

NEAR = 2.0**-10


def grow(bits, g, h, depth, penalty, weight, smallest, allowed=None):
    """One tree on gradients g (n, outputs) and Hessians h (n,); bits (n, splits) say who is to the left of which split.

    Returns:
        1 + the split of each inner node or 0, from the root down; the values of leaves (leaves, outputs); in which leaf each example is.
    """
    where, splits = np.zeros(len(h), int), []
    for level in range(depth):
        for node in range(1 << level):
            mine = where == node
            here = None if allowed is None else allowed[(1 << level) - 1 + node]
            splits.append(best(bits[mine], g[mine], h[mine], penalty, weight, smallest, here))
        new = 2 * where + 1
        for node in range(1 << level):
            split = splits[(1 << level) - 1 + node]
            if split:
                new[(where == node) & (bits[:, split - 1] > 0)] -= 1
        where = new
    leaves = np.zeros((1 << depth, g.shape[1]))
    for leaf in range(1 << depth):
        mine = where == leaf
        if h[mine].sum() >= weight - 1e-9:
            leaves[leaf] = g[mine].sum(0) / (h[mine].sum() + penalty)
    return np.array(splits), leaves, where


def best(bits, g, h, penalty, weight, smallest, allowed):
    """1 + the first of the splits that are as good as the best, 0 if none gains anything."""
    left, right = bits.T @ g, (1 - bits).T @ g
    a, b = bits.T @ h, (1 - bits).T @ h
    total = h.sum() + 2 * penalty
    fine = (a >= weight - 1e-9) & (b >= weight - 1e-9)
    if allowed is not None:
        fine &= allowed
    if not fine.any():
        return 0
    a, b = a + penalty, b + penalty
    a, b, left, right, product = a[fine], b[fine], left[fine], right[fine], np.zeros(len(a))
    product[fine] = a * b * ((left / a[:, None] - right / b[:, None]) ** 2).sum(1)
    floor = (g.sum(0) ** 2).sum() / (h.sum() + penalty) * penalty
    if product.max() <= floor + smallest * total**2:
        return 0
    return 1 + int(np.nonzero(product >= product.max() * (1 - NEAR))[0][0])


def boost(bits, y, loss, rounds, depth, rate, penalty, weight, base, w=None):
    """Splits (rounds, trees, nodes), leaves (rounds, trees, leaves) and scores (n, trees) of gradient boosting on y (n, trees)."""
    scores, all_splits, all_leaves = np.tile(base, (len(y), 1)).astype(float), [], []
    w = np.ones(len(y)) if w is None else w
    for _ in range(rounds):
        g, h = slopes(scores, y, loss)
        grown = [grow(bits, (g * w[:, None])[:, [k]], h[:, k] * w, depth, penalty, weight, 2.0**-30) for k in range(y.shape[1])]
        scores = scores - rate * np.stack([leaves[where, 0] for _, leaves, where in grown], 1)
        all_splits.append([splits for splits, _, _ in grown])
        all_leaves.append([-rate * leaves[:, 0] for _, leaves, _ in grown])
    return np.array(all_splits), np.array(all_leaves), scores


def slopes(scores, y, loss):
    """Gradients and Hessians of a loss by scores."""
    if loss == "mse":
        return scores - y, np.ones_like(scores)
    if scores.shape[1] == 1:
        p = 1 / (1 + np.exp(-scores))
    else:
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
    return p - y, p * (1 - p)
