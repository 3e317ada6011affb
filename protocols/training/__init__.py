"""Training on secret shares: model and data are shared between two servers, and neither sees either.

Start reading at `circuit.py` (one step as public operations), `step.py`, `layers.py`, `losses.py`, `optimizers.py`, `moments.py`,
`functions.py` and `window.py` (which operations), then `evaluation.py` (a server) and `preprocessing.py` (the crypto provider), both with
`training/engine/linear.py` and `training/engine/products.py`.

The flow around it: `terms.py`, `training_server.py`, `training_dealer.py` (the actors), `stored.py`, `compiled.py`, `fitting.py` (the
owner's side).
"""
