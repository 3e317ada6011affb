"""An average by hand: five owners, one of whom vanishes, and a server that learns the mean of the others and nothing else.

Everything happens in this process, step by step, so that each message can be looked at. The server sees vectors that look like noise.
"""

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.quantisation import Quantisation
from protocols.secure_aggregation import Owner, Server, terms

VECTORS = np.array([[1.0, -2.0, 0.5], [3.0, 0.0, 0.25], [-1.0, 4.0, 0.0], [2.0, 2.0, -1.0], [5.0, 5.0, 5.0]])
EXAMPLES = [100, 50, 200, 50, 400]
VANISHED = 4

identities = [Ed25519PrivateKey.generate() for _ in VECTORS]
scheme = Quantisation(clip=8.0, most_weight=1000, owners=len(VECTORS))
roster = [identity.public_key().public_bytes_raw() for identity in identities]
session = terms("example, round 1", roster, length=VECTORS.shape[1] + 1, cohort=3)

server = Server(session)
owners = [Owner(session, identity) for identity in identities]

advertised = server.advertisements([owner.advertise() for owner in owners])
sealed = server.shares([owner.share(advertised[owner.number]) for owner in owners])
present = [owner for owner in owners if owner.number != VANISHED]
for owner in present:
    masked = owner.mask(sealed[owner.number], scheme.encode([VECTORS[owner.number]], weight=EXAMPLES[owner.number]))
    print(f"owner {owner.number} has {VECTORS[owner.number]}, the server sees {masked.vector[:2]} ...")
    server.add(masked)
print(f"owner {VANISHED} has vanished")

survivors = server.survivors()
confirmed = server.confirmations([owner.confirm(survivors) for owner in present])
total = server.total([owner.unmask(confirmed[owner.number]) for owner in present])

weights = np.array([EXAMPLES[u] for u in survivors])
print("the server learns the weighted mean:", scheme.mean(total).round(6))
print("it should be:                       ", (weights @ VECTORS[survivors] / weights.sum()).round(6))
