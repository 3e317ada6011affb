"""What `fit` takes and tells, in the clear: arrays, callbacks, a line of progress. Start with `examples.py`."""
