"""Bits of shared values: how they are cut into blocks, compared, and combined; below the operations that read signs."""
