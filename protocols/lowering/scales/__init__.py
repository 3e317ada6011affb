"""From nodes to integers: ranges, windows, rounding, functions as operations."""
