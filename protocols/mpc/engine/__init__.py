"""What an operation is, what it sees of a party, and the loops that run any sequence of operations. Knows no operation by name."""
