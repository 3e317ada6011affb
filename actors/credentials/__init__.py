"""By which files a system shows who it is in TLS and knows others. Start in `files.py`; `watching.py` has a process read them again."""
