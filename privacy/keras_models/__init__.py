"""Keras models as all rooms read them: what a compiled model asks for, and Keras' private names. Needs no network and no data.

Start with `asks.py`, then `settings.py`, which finds what a copy of a model says otherwise; `internals.py` is the only file that may use a
name of Keras' own that is not public. Importing this package imports neither Keras nor TensorFlow.
"""
