"""Learning rates that follow a schedule, over the rounds of a run: `continued.py`."""
