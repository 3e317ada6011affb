"""One rule for each Keras layer and operation: what it is as nodes."""
