"""How a model, and the randomness for it, gets to where it is evaluated.

Start in `beside.py` (a model is lowered while the event loop goes on), then `delivery.py` (weights and randomness on their way) and
`pieces.py` (what is too large for one message).
"""
