"""Layers, losses, optimizers: forward and backward."""
