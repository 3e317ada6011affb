"""The owner's process: a model or data are shared, trained, kept."""
