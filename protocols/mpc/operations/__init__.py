"""The secure operations, each in a file."""
