"""How a program and its weights come to the three workers. Start with `placing.py`."""
