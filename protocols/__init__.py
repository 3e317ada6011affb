"""What several parties can compute without seeing it.

Start reading at `program.py` (what is computed), `exchange.py` (how a protocol is written), `linear.py` and `selection.py` (the
protocols themselves), `dealer.py` (the third party's mathematics); then `shared_model.py` and `remote_model.py` for the flow. README.md
has a picture.

What it offers is imported when it is used (`__init__.pyi` names it all); neither TensorFlow nor Keras is.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
