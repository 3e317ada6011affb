"""Sums of weights, gradients and velocities by which a step is watched, see `networks/window.py`."""

from __future__ import annotations

from collections.abc import Collection

from protocols.mpc.circuit import Builder
from protocols.mpc.operations.sums import Combine
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.optimizers.adaptive import Adaptive
from protocols.training.networks.optimizers.descent import watched
from protocols.training.networks.optimizers.rates import Gradients
from protocols.training.networks.optimizers.update import Optimizer
from protocols.training.networks.window import WEIGHTS, Watched, summed, together


def watched_sums(
    build: Builder,
    optimizer: Optimizer,
    gradients: Gradients,
    values: dict[str, int],
    new: dict[str, int],
    scale: float,
    *,
    trained: Collection[str],
    private: bool,
    last: bool,
) -> list[Watched]:
    """Return sums of weights, and of gradients and velocities of the step before.

    Those of this step become a state; of the `last` they are watched as well, and the state is 0.
    """
    held = [Watched(values[name], 2.0 ** (WEIGHTS + FRACTION)) for name in trained]
    if isinstance(optimizer, Adaptive):
        kept = {kind: [values[f"{kind} of {name}"] for name in trained] for kind in optimizer.kinds}
        return [summed(build, held), *(summed(build, states) for states in optimizer.watched(kept))]
    now, velocities = watched(optimizer, gradients, values, scale)
    if private:  # its sums are bounded by what they are made of, and noise in all of them would add up here
        new["sums"] = values["sums"]
        return [summed(build, [*velocities, *held, *(watched(optimizer, gradients, new, scale)[1] if last else [])])]
    made = summed(build, now)
    before = Watched(values["sums"], made.edge)
    found = [together(build, [before, summed(build, [*velocities, *held], len(now))])]
    new["sums"] = build(Combine((made.at,), (0 if last else 1,)))
    if last:
        _, velocities = watched(optimizer, gradients, new, scale)
        found.append(together(build, [made, summed(build, velocities, len(now))]) if velocities else made)
    return found
