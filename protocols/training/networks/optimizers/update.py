"""One update: gradients are made exact, gathered and clipped as far as the optimizer says, and move weights, which are put in their place.

Everything that depends on the number of a step is a public factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from protocols.mpc.circuit import Builder
from protocols.mpc.operations.flat import Piece, Row
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Open
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.moments import GRADIENT, MEAN, QUOTIENT, fraction, reduced, scaled
from protocols.training.networks.optimizers.adaptive import QUOTIENTS, Adam, Adamax, Adaptive, Nadam
from protocols.training.networks.optimizers.clipping import clipped
from protocols.training.networks.optimizers.constraints import Constraint
from protocols.training.networks.optimizers.descent import GradientDescent, descended
from protocols.training.networks.optimizers.lion import Lion
from protocols.training.networks.optimizers.penalties import Penalty
from protocols.training.networks.optimizers.rates import RATE_BITS, SCHEDULE_BITS, Change, Gradients, due, factor
from protocols.training.networks.optimizers.squares import Adadelta, Adagrad, RMSprop
from protocols.training.networks.window import WEIGHTS, Watched, summed

Optimizer = GradientDescent | Adam | Nadam | Adamax | RMSprop | Adagrad | Adadelta | Lion


class Moved(NamedTuple):
    """What an update gives.

    Attributes:
        new: the positions of weights and states, by name.
        few: what must be watched with few others, see `window.outside`.
        sums: sums of what must be watched.
    """

    new: dict[str, int]
    few: list[Watched]
    sums: list[Watched]


EXACT_BITS = 14
"""Significant bits of what makes a sum of gradients a mean, if there is room for them; 8 at least."""

AVERAGE_BITS = 16
"""Fractional bits of how much of an average stays."""


def exact(build: Builder, gradients: Gradients, values: Mapping[str, int], scale: float, penalties: Sequence[Penalty] = ()) -> int:
    """Gradients as they are, with `MEAN` fractional bits, and those of penalties: one row, affine. Rounds: 1, 3 with penalties.

    Args:
        build: where the operations go.
        gradients: as for `update`.
        values: the weights by name.
        scale: as for `update`.
        penalties: on weights.
    """
    bits = max(bits for _, bits in gradients.values())
    alike = [at if had == bits else build(Combine((at,), (1 << (bits - had),))) for at, had in gradients.values()]
    row = build(Row(tuple(alike)))
    room = 62 - bits - fraction(scale)[1]
    if room < RATE_BITS:
        row, bits = reduced(build, row, RATE_BITS - room), bits - (RATE_BITS - room)
    q, shift = fraction(scale, min(EXACT_BITS, max(RATE_BITS, room)))
    row = scaled(build, row, q, shift + bits - MEAN)
    if not penalties:
        return row
    more = {one.name: one.gradient(build, build(Open(values[one.name]))) for one in penalties}
    found = pieces(build, row, gradients)
    return build(Open(build(Row(tuple(build(Combine((at, more[name]), (1, 1))) if name in more else at for name, at in found.items())))))


def update(
    build: Builder,
    optimizer: Optimizer,
    gradients: Gradients,
    values: Mapping[str, int],
    scale: float,
    number: int = 0,
    constraints: Sequence[Constraint] = (),
    row: int | None = None,
) -> Moved:
    """Return the new weights and states by name, and what must be watched. Rounds: those of the optimizer, and its clipping.

    Args:
        build: where the operations go.
        optimizer: how.
        gradients: by the name of a weight its gradient, summed over the batch, a share, and how many fractional bits that has.
        values: the weights and states by name; weights and velocities are shares with `FRACTION` fractional bits.
        scale: what turns such a sum into the gradient of the loss: 1 / batch, and what the loss itself is scaled by.
        number: of the step, from 0.
        constraints: where weights are put.
        row: gradients as `exact` and `prepared` give them, if the optimizer needs them so. Then of `gradients` only the shapes count.
    """
    new: dict[str, int] = {}
    made: dict[str, Change] = {}
    quotients: list[int] = []
    if row is not None and isinstance(optimizer, Adaptive):
        made, quotients = _adapted(build, optimizer, row, gradients, values, number)
    elif row is not None:
        gradients, scale = {name: (at, MEAN) for name, at in pieces(build, row, gradients).items()}, 1.0
    for name, gradient in gradients.items():
        held = {kind: values[f"{kind} of {name}"] for kind in optimizer.kinds}
        if isinstance(optimizer, GradientDescent):
            change, states = descended(build, optimizer, gradient, held, scale, number)
        else:
            change, states = made[name]
        on = int(optimizer.updates(number))
        if optimizer.gathered > 1:
            change = build(Combine((change,), (on,)))
            states = {kind: build(Combine((at, held[kind]), (on, 1 - on))) for kind, at in states.items()}
        terms: tuple[int, ...] = (values[name], change)
        if optimizer.decay and name not in optimizer.exempt:
            q, shift = due(optimizer, optimizer.decay, SCHEDULE_BITS, number)
            terms = (*terms, scaled(build, values[name], -q * on, shift))
        new[name] = build(Combine(terms, (1,) * len(terms)))
        new |= {f"{state} of {name}": value for state, value in states.items()}
        if optimizer.average is not None:
            new |= _averaged(build, optimizer, name, new[name], values[f"average of {name}"], number)
    free = [Watched(new[constraint.name], 2.0 ** (WEIGHTS + FRACTION)) for constraint in constraints]
    for constraint in constraints:
        new[constraint.name] = constraint(build, new[constraint.name])
    return Moved(new, [Watched(at, 2.0 ** (QUOTIENTS + QUOTIENT)) for at in quotients], [summed(build, free)] if free else [])


def norms_of(build: Builder, optimizer: Optimizer, gradients: Gradients, values: Mapping[str, int], scale: float) -> list[Watched]:
    """Write sums that show whether norms and what is gathered are below what they must be, if the optimizer needs any.

    Args:
        build: where the operations go.
        optimizer: how weights are moved.
        gradients: as for `update`.
        values: the states by name.
        scale: as for `update`.
    """
    found = []
    if optimizer.clip is not None and optimizer.clip.norms:
        found.append(summed(build, [Watched(at, 2.0 ** (GRADIENT + bits) / scale) for at, bits in gradients.values()]))
    if optimizer.gathered > 1:
        edge = optimizer.gathered * 2.0 ** (GRADIENT + MEAN)
        found.append(summed(build, [Watched(values[f"gathered of {name}"], edge) for name in gradients]))
    return found


def prepared(
    build: Builder, optimizer: Optimizer, row: int, like: Gradients, values: Mapping[str, int], number: int
) -> tuple[int, dict[str, int]]:
    """Gather and clip a row of gradients as the optimizer says, affine; return it, and what is gathered now."""
    new: dict[str, int] = {}
    if optimizer.gathered > 1:
        before = build(Row(tuple(values[f"gathered of {name}"] for name in like)))
        total = build(Combine((row, before), (1, 1)))
        kept = build(Combine((total,), (1 - int(optimizer.updates(number)),)))
        new = {f"gathered of {name}": at for name, at in pieces(build, kept, like).items()}
        q, shift = fraction(1 / optimizer.gathered, EXACT_BITS)
        row = reduced(build, build(Combine((total,), (q,))), shift)
    if optimizer.clip is not None:
        row = clipped(build, optimizer.clip, row, [build.value(at).size for at, _ in like.values()])
    return row, new


def _adapted(
    build: Builder, optimizer: Adaptive, row: int, like: Gradients, values: Mapping[str, int], number: int
) -> tuple[dict[str, Change], list[int]]:
    """Return the changes of all weights, and their new states; quotients of which the settings prove nothing."""
    held = {kind: build(Row(tuple(values[f"{kind} of {name}"] for name in like))) for kind in optimizer.kinds}
    quotient, states = optimizer.quotient(build, row, held, optimizer.counted(number))
    change, more = optimizer.change(build, quotient, held, factor(optimizer, 1.0, number))
    changes = pieces(build, change, like)
    kept = {kind: pieces(build, now, like) for kind, now in (states | more).items()}
    made = {name: (at, {kind: each[name] for kind, each in kept.items()}) for name, at in changes.items()}
    return made, [] if math.isfinite(optimizer.bound) else [quotient]


def _averaged(build: Builder, optimizer: Optimizer, name: str, weight: int, before: int, number: int) -> dict[str, int]:
    """Average a weight, beginning with it after the first step; the average takes the weight's place where that is due."""
    assert optimizer.average is not None  # whoever asks has looked
    count = optimizer.counted(number)
    stays = round(optimizer.average * 2**AVERAGE_BITS) if count else 0
    average = build(Truncate(build(Combine((before, weight), (stays, (1 << AVERAGE_BITS) - stays))), AVERAGE_BITS, 63 - AVERAGE_BITS))
    now = int(bool(optimizer.overwriting) and (count + 1) % optimizer.overwriting == 0)
    return {f"average of {name}": average, name: build(Combine((weight, average), (1 - now, now)))}


def pieces(build: Builder, row: int, like: Gradients) -> dict[str, int]:
    """Cut a row into values of the shapes of gradients."""
    found, start = {}, 0
    for name, (at, _) in like.items():
        known = build.value(at)
        found[name] = build(Piece(row, start, known.shape))
        start += known.size
    return found
