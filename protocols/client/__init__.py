"""A client's process: asks a shared model."""
