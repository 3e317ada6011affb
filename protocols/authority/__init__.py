"""Who may do what at a worker: the cluster it belongs to, the roles of those who call it, and rights that hold at one worker only.

Start in `membership.py`. `seats.py` says who does what for a name, `rights.py` what an owner shows to be known again, `enrolment.py` how
workers on one machine learn whose they are. Nothing in here knows what is computed.
"""
