"""How long to wait before trying again."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

FIRST, LONGEST = 0.1, 10.0


def pauses() -> Iterator[float]:
    """Seconds to wait after each failure in a row: twice as long each time up to 10 s, less up to half of it at random.

    Without the random part all owners of a federation would come back to a restarted aggregator at the same moment.
    """
    pause, chance = FIRST, secrets.SystemRandom()
    while True:
        yield pause * chance.uniform(0.5, 1.0)
        pause = min(2 * pause, LONGEST)
