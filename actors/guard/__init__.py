"""What protects a system from those who connect to it: bounds on frames, words, log lines, connections and waiting.

Start reading in `structure.py` (what a header may hold) and `door.py` (who may be connected). Nothing here knows what a message means.
"""
