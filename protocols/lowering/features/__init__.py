"""What is known of each element of a model's input: its unit, whether it is a whole number, how finely it must be known.

Start with `places.py`, which follows the elements through the network as long as they are only moved; `units.py` turns a network that reads
real numbers into one that reads each in a unit of its own; `steps.py` finds the elements that have too few steps.
"""

__all__ = ["places", "steps", "units"]
