"""Noise, exactly as it should be, and secret."""
