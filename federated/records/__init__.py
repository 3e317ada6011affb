"""The records of an owner: which forms they come in, and what can be told of them without showing one.

Start reading in `nest.py` (arrays), then `batches.py` (data sets).
"""
