"""Which models can be trained privately, and what is recorded of each example in one."""
