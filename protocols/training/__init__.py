"""Training on secret shares: model and data are shared between two servers, and neither sees either.

`step.py` is one step as a circuit of secure operations, made of the layers, losses and optimizers of `networks/`; `regression/` has those
of the estimators. `terms.py` is what owner and workers agree on. How circuits run is in `protocols/mpc`, who runs them in
`protocols/workers`, the owner's side in `protocols/owner`.
"""
