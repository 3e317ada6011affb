"""How much of a shared model may be used, by whom, and who is next: quotas, turns, tickets that are out, and room for weights.

Start in `quota.py` (what one server counts), then `granting.py` (what the provider counts, and whom it serves when there is too little
for all). `turns.py` says who is next, `room.py` how large the models of one owner may be. `claims.py` checks what others say of a model,
whoever is told it. Nothing in here knows what is computed.
"""
