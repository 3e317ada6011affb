"""Two servers, a dealer and a client in the simulator: what the tests of the mathematics run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protocols.mpc import dealer, inference
from protocols.mpc.engine.sides import WeightShares
from protocols.mpc.operations.weights import weight_masks
from protocols.mpc.parties.exchange import Party, Ring
from protocols.mpc.parties.keystream import KeyStream
from protocols.mpc.parties.material import Material
from protocols.mpc.parties.simulator import Transcript, simulate
from protocols.mpc.program import Program


def key(name: str) -> bytes:
    """A fixed key for tests, from its name."""
    return name.encode().ljust(16, b".")[:16]


def random_ring(shape: tuple[int, ...], bound: int, seed: str) -> Ring:
    """Signed integers in [-bound, bound] as ring elements, the same at each run."""
    words = KeyStream(key(seed)).words(shape)
    return (words % np.uint64(2 * bound + 1)) - np.uint64(bound)


@dataclass(frozen=True)
class Deployment:
    """Two servers with a shared model and fresh material, no network."""

    program: Program
    weights: list[Ring]
    salt: str = ""

    def run(self, x: Ring, *, drop: tuple[int, int] | None = None) -> Transcript:
        return simulate({i: self.server(i, x) for i in (0, 1)}, drop=drop)

    def masks(self, party: int) -> list[Ring]:
        return weight_masks(key(f"weights{party}{self.salt}"), self.program.weights)

    def chunk_key(self, party: int) -> bytes:
        return key(f"chunk{party}{self.salt}")

    def dealing(self, examples: int) -> dealer.Dealing:
        both = [a + b for a, b in zip(self.masks(0), self.masks(1), strict=True)]
        return dealer.deal(self.program, both, (self.chunk_key(0), self.chunk_key(1)), examples)

    def weight_shares(self, party: int) -> WeightShares:
        masked = [w + a + b for w, a, b in zip(self.weights, self.masks(0), self.masks(1), strict=True)]
        return WeightShares.of(Party(party), masked, self.masks(party))

    def material(self, party: int, examples: int) -> Material:
        dealt = self.dealing(examples).dealt if party else None
        return Material.of(inference.layout(self.program), self.chunk_key(party), examples, dealt)

    def server(self, party: int, x: Ring):
        material, weights = self.material(party, len(x)), self.weight_shares(party)
        inference.prepare(self.program, weights, material)
        m = x + self.dealing(len(x)).input_mask
        return inference.evaluate(Party(party), self.program, weights, material, m, noise_key=self.noise_key(party))

    def noise_key(self, party: int) -> bytes:
        return key(f"noise{party}{self.salt}")

    def output(self, x: Ring) -> Ring:
        results = self.run(x).results
        return results[0] + results[1]
