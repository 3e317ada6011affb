"""A model that stays, under faults: real workers, real clients, and what breaks in a long life. `python -m benchmarks.soak --minutes 5`."""
