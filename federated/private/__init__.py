"""Differential privacy of rounds."""
