"""What a compiled Keras model minimises, as public numbers: losses and penalties. Start with `losses.py`."""
