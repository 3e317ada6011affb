"""What a Keras model is for an owner: the data that it takes, and the weights that can be averaged.

Start reading in `expectations.py`, then `weights.py`.
"""
