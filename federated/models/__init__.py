"""What a Keras model is for an owner: the data that it takes, the steps that it makes, and the weights that can be averaged.

Start reading in `expectations.py`, then `weights.py` and `steps.py`. `likeness.py` compares a model with the copy that an owner builds, on
`labels.py`; `separable.py` says whether a gradient can be taken in parts.
"""
