"""What happens in a system, for those who are responsible for it: figures, log lines, an audit log, spans. Nothing in it is secret.

Start in `observer.py`, which is told of each message; `figures.py` is what actors say of themselves when somebody looks.
"""
