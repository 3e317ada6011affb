"""Who trains with whom, and when: federated rounds of Keras models over the actors of `actors`.

Start reading in `federation.py` (the aggregator, what users write), then `rounds.py` (one round without a network) and `owner.py` (the
other side). `strategy.py`, `averaging.py` and `robust.py`: what becomes of the updates. Importing this package does not import Keras.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
