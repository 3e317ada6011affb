"""How much a result reveals about one person: differentially private training and its accounting. Knows no network and no parties.

Start with `engine.py`. Nothing here imports TensorFlow before a model is made private.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
