"""Trainers of owners' own, in place of Keras: what one has to have, how it is run, what it remembers; some that are ready."""
