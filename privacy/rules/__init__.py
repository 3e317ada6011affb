"""Per-example gradients, one file a family of layers. Start with `registry.py` (what a rule is), then `gradients.py` and `dense.py`.

Importing this package imports TensorFlow and registers every rule.
"""

from privacy.rules import convolution, dense, depthwise, einsum, embedding, normalization, recurrent
from privacy.rules.registry import book_keeping, lookup

__all__ = ["book_keeping", "lookup"]
_ = (convolution, dense, depthwise, einsum, embedding, normalization, recurrent)  # imported for their rules
