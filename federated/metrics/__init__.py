"""Metrics over batches and owners: what is summed is the states of Keras' metrics, and not their values.

Start reading in `layout.py` (what states look like, without Keras), then `compiled.py` (the metrics of a model, and the only file that
knows how Keras keeps them), `kept.py` (at an owner), `meter.py`, `addition.py` and `limits.py` (at the aggregator: whether states add, what
comes of their sum, and how large they can be), `tally.py` (sums as they arrive) and `limbs.py` (in sums that nobody sees the terms of).
"""
