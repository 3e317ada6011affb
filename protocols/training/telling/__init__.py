"""What is told of a training, and whether it is what Keras would tell. Start with `metrics.py`.

`metrics.py` says what the metrics of a compiled model are in Keras; `targets.py` says with which targets a loss and a metric on shares are
those of Keras; `epochs.py` is what the owner is told of an epoch.
"""

__all__ = ["epochs", "metrics", "targets"]
