"""Two servers and a dealer that train in the simulator: what the tests of the mathematics of training run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deployment import key
from protocols.mpc.circuit import Circuit, deal, deal_in_segments, evaluate, evaluate_in_segments
from protocols.mpc.engine.values import Affine
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.operations.wires import Given
from protocols.mpc.parties.exchange import Party, Ring
from protocols.mpc.parties.keystream import KeyStream
from protocols.mpc.parties.material import Expansion, Material
from protocols.mpc.parties.simulator import Transcript, simulate
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.random import tables

SCALE = 2.0**-FRACTION


@dataclass(frozen=True)
class Trainers:
    """Two servers with fresh randomness for one step, no network."""

    circuit: Circuit
    salt: str = ""
    like: Circuit | None = None
    """With whose randomness, if not its own."""
    segment: int | None = None
    """Bytes of the segments in which randomness comes; None: whole."""

    def run(self, values: dict[str, Ring]) -> Transcript:
        """Evaluates the circuit on the given values, which this shares first. What is watched (`outside`, `sums`) begins at zero."""
        watched = (op for op in self.circuit.ops if isinstance(op, Given) and op.name in ("outside", "sums"))
        values = {**{op.name: np.zeros(op.shape, np.uint64) for op in watched}, **values}
        keys = key(f"step0{self.salt}"), key(f"step1{self.salt}")
        given: tuple[dict, dict] = ({}, {})
        masks = {}
        for op in self.circuit.ops:
            if isinstance(op, Given):
                first, second = (KeyStream(key(f"{op.name}{i}{self.salt}")).words(op.shape) for i in (0, 1))
                value = values[op.name].reshape(op.shape)
                if op.kind == "wire":
                    masks[op.name] = first + second
                    for mine, half in zip(given, (first, second), strict=True):
                        mine[op.name] = Affine(value + masks[op.name], {"R": half})
                else:
                    given[0][op.name], given[1][op.name] = first, value - first
        drawn = tables(self.circuit, key(f"drawn{self.salt}"))
        given[0].update(drawn)
        given[1].update(drawn)
        if self.segment is not None:
            return self._in_segments(masks, keys, given)
        dealt = deal(self.like or self.circuit, masks, keys)
        halves = (None, dealt)
        return simulate(
            {i: evaluate(Party(i), self.circuit, Material.of(self.circuit.layout, keys[i], 1, halves[i]), given[i]) for i in (0, 1)}
        )

    def _in_segments(self, masks: dict, keys: tuple[bytes, bytes], given: tuple[dict, dict]) -> Transcript:
        parts = self.circuit.segments(self.segment)
        dealt = list(deal_in_segments(self.circuit, parts, masks, keys))
        runs = {}
        for i in (0, 1):
            half = Expansion(keys[i])

            async def supply(number: int, i=i, half=half) -> Material:
                return half.material(parts[number].layout, 1, dealt[number] if i else None)

            runs[i] = evaluate_in_segments(Party(i), self.circuit, parts, supply, given[i])
        return simulate(runs)

    def outputs(self, values: dict[str, Ring]) -> dict[str, Ring]:
        """The outputs, both shares added."""
        results = self.run(values).results
        return {name: results[0][name] + results[1][name] for name in results[0]}

    def real(self, values: dict[str, np.ndarray], scale: float = SCALE) -> dict[str, np.ndarray]:
        """The same on real numbers of `FRACTION` fractional bits."""
        outputs = self.outputs({name: encode(value, SCALE) for name, value in values.items()})
        return {name: decode(value, scale) for name, value in outputs.items()}
