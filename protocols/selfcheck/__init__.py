"""A private program beside the Keras model that it was made of, before anybody is served.

Start with `comparison.py`; `examples.py` has the inputs on which both are compared, `verdict.py` says what is refused and warned of,
`rounded_inputs.py` which feature is to blame, `report.py` what is told of it.
"""

__all__ = ["comparison", "examples", "report", "rounded_inputs", "verdict"]
