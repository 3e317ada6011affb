"""A private program beside the Keras model that it was made of, before anybody is served.

Start with `comparison.py`; `examples.py` has the inputs on which both are compared, `report.py` what is told of it.
"""

__all__ = ["comparison", "examples", "report"]
