"""Boosted trees on shares, at shapes for which secure XGBoosts have published seconds: `python -m benchmarks.trees [NAME] [--json]`.

Made tables (scikit-learn's `make_classification`), labels and features here and stored as shares, every gain, split and place of an example
secret until the finished trees are opened: three worker processes on loopback. Prints seconds of a whole fit and of a tree, beside those
that were published for the shape, and the accuracy beside scikit-learn's trees of the same settings.

Published, on other machines, and read as what they are:

- `ss-xgb`: SecretFlow's SS-XGB, all on shares: 39,143 x 79, 10 trees of depth 5 with 20 bins in 20 minutes, three quarters of the rows
  and nine tenths of the columns a tree (what a user measured with version 0.8.2, its issue 509).
- `sgb`: SecretFlow's SecureBoost, homomorphic, where one party sees gradients and splits (docs/developer/benchmark/sgb_benchmark.md):
  bank, 45,211 x 16, of which 28,934 are trained on, up to 100 trees of depth 5 with 10 bins, fewer if it stops early: 136 s in a LAN.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from protocols import Cluster, GradientBoostingClassifier, Worker


class Shape(NamedTuple):
    """Of a table and its trees, and the seconds that were published for all of them."""

    examples: int
    features: int
    trees: int
    depth: int
    bins: int
    published: float


SHAPES = {"ss-xgb": Shape(39_143, 79, 10, 5, 20, 1200.0), "sgb": Shape(28_934, 16, 100, 5, 10, 136.1)}


async def measure(shape: Shape, trees: int) -> dict[str, float]:
    """All figures by name."""
    from sklearn.datasets import make_classification
    from sklearn.ensemble import HistGradientBoostingClassifier

    informative = min(shape.features, 12)
    x, y = make_classification(shape.examples, shape.features, n_informative=informative, n_redundant=0, class_sep=0.7, random_state=0)
    settings: dict[str, Any] = {"learning_rate": 0.3, "max_depth": shape.depth, "max_bins": shape.bins}
    julia, greg, me = (Worker("localhost:0") for _ in range(3))
    async with Cluster(julia, greg, crypto_provider=me) as cluster:
        await GradientBoostingClassifier(cluster, n_estimators=1, **settings).fit(x[:1000], y[:1000])  # kernels are compiled, or loaded
        seconds = []
        for count in (1, trees):
            started = time.perf_counter()
            ours = await GradientBoostingClassifier(cluster, n_estimators=count, **settings).fit(x, y)
            seconds.append(time.perf_counter() - started)
            print(f"{count} trees: {seconds[-1]:.1f} s", flush=True)
    theirs = HistGradientBoostingClassifier(max_iter=trees, l2_regularization=1.0, min_samples_leaf=1, early_stopping=False, **settings)
    each = (seconds[1] - seconds[0]) / (trees - 1)
    whole = seconds[0] + (shape.trees - 1) * each
    return {
        "seconds of a tree": each,
        "seconds of a fit with one tree, storing included": seconds[0],
        f"seconds of a fit with {trees} trees": seconds[1],
        f"seconds of a fit with {shape.trees} trees, by these": whole,
        f"seconds of a fit with {shape.trees} trees, published": shape.published,
        "published, times ours": shape.published / whole,
        "accuracy on what was fitted": float(ours.score(x, y)),
        "the same of scikit-learn": float(theirs.fit(x, y).score(x, y)),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=SHAPES, nargs="?", default="ss-xgb")
    parser.add_argument("--trees", type=int, default=4, help="that are fitted, at least 2: all take equally long")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON only")
    arguments = parser.parse_args()
    chosen = SHAPES[arguments.name]
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the figures
        result = asyncio.run(measure(chosen, max(2, arguments.trees)))
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        table = Table("figure", "measured", title=f"{chosen.examples:,} x {chosen.features}, depth {chosen.depth}, {chosen.bins} bins")
        for name, value in result.items():
            table.add_row(name, f"{value:,.4g}")
        Console().print(table)
