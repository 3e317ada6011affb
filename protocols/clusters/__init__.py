"""How a process finds, starts and reaches the three workers."""
