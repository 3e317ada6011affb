"""A network that was trained on shares as a program of predictions. Start with `program.py`."""

from protocols.trained.program import ServedNetwork, served

__all__ = ["ServedNetwork", "served"]
