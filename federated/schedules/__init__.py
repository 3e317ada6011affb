"""Learning rates that follow a schedule, over the rounds of a run: `continued.py`; whether a round has a step at all: `made.py`."""
