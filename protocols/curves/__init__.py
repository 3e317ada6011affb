"""Real functions as pieces of straight lines, which predictions and trainings follow on shares. Begin with `splines.py`."""
