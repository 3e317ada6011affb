"""Ranges of inputs, and the integers that stand for them."""
