"""What `confide doctor` looks at. Start in `diagnosis.py`; `machine.py` looks at this machine, `nodes.py` at those of a cluster file."""
