"""Micro-batches: some examples of a step that are computed together, and the sums of gradients that they hand on to the next.

The sums are exact, shares in the ring with all the fractional bits that gradients have before an update rounds them: the sum of a batch is
the same, however it is parted.
"""

from __future__ import annotations

import msgspec
import numpy as np

from protocols.mpc.circuit import Circuit
from protocols.mpc.numbers.ring import Ring
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.wires import Given
from protocols.training.networks.draft import StepDraft

PARTIAL = "partial "
"""Before the fractional bits and the name of what a sum of gradients so far is by."""


class MicroBatch(msgspec.Struct, frozen=True):
    """Examples of a step that are computed together: all of them, unless memory asks for less.

    Attributes:
        rows: how many they are.
        batch: how many the step has.
        ends: whether they are its last, after which weights move.
        last: whether the step is the last before a report, and they are its last.
    """

    rows: int
    batch: int
    ends: bool = True
    last: bool = False


def gathered(draft: StepDraft, gradients: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Add to each gradient, a position and its fractional bits, what micro-batches before have summed. Rounds: 0."""
    found = {}
    for name, (at, bits) in gradients.items():
        before = draft.put(Given(_name(name, bits), draft.value(at).shape, "share"), bits)
        found[name] = draft.put(Combine((at, before), (1, 1)), bits), bits
    return found


def handed(gradients: dict[str, tuple[int, int]]) -> dict[str, int]:
    """Return the positions of sums by the names by which the next micro-batch is given them."""
    return {_name(name, bits): at for name, (at, bits) in gradients.items()}


def none_yet(circuit: Circuit) -> dict[str, Ring]:
    """Return shares of what the first micro-batch of a step is given: zeros."""
    given = (op for op in circuit.ops if isinstance(op, Given) and op.name.startswith(PARTIAL))
    return {op.name: np.zeros(op.shape, np.uint64) for op in given}


def _name(weight: str, bits: int) -> str:
    return f"{PARTIAL}{bits} {weight}"
