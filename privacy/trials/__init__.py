"""Trials on made-up examples, before anything is trained: is the loss a mean over examples, does each example stay by itself?

Start with `objective.py` (the loss), then `mixing.py` (the layers). Importing this package imports neither Keras nor TensorFlow.
"""
