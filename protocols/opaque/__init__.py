"""Whole numbers across the border to R, whose integers have 32 bits and whose doubles are whole up to 2^53. Start in `whole.py`.

reticulate turns Python's integers, NumPy's arrays and every subclass of these into R's numbers without a word, and cuts or rounds what does
not fit. `Whole` and `WholeArray` are neither: R keeps them as they are. `foreign.py` is the other direction: numbers as R sends them.
"""

from protocols.opaque.foreign import in_r, to_caller, whole_array, whole_number
from protocols.opaque.whole import Whole
from protocols.opaque.whole_array import WholeArray

__all__ = ["Whole", "WholeArray", "in_r", "to_caller", "whole_array", "whole_number"]
