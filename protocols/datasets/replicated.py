"""Arrays at three equals: replicated sharing (Araki et al., CCS 2016), on which a run of training may have any of the three as its helper.

x = c_0 + c_1 + c_2 modulo 2^64, any two of them uniform; worker i has the two that are not c_i. Among workers h, a, b with helper h:

    m = c_h            both servers have it, the helper has not: the masked value x + lambda,
    lambda_a = -c_b    at server a and at the helper,
    lambda_b = -c_a    at server b and at the helper.

So the same three components are a masked wire for each choice of the helper. Two of them come from keys of 16 bytes, the third is sent.
The owner of the data chooses the keys: it knows the data anyway. No worker sees more of an array over many runs than its two components.

**Leaks** to one worker: the shape. Any two workers together have the array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import SharingError, UnknownModel
from protocols.mpc.engine.values import Affine
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.keystream import KeyStream, fresh_key


class Component(msgspec.Struct, frozen=True):
    """One of the three summands: its words, or the key that they come from."""

    key: bytes | None = None
    words: npt.NDArray[np.uint64] | None = None

    def __repr__(self) -> str:
        return "Component(...)"

    def expanded(self, shape: tuple[int, ...]) -> Ring:
        """Return the words.

        Raises:
            SharingError: they are not of this shape, or missing.
        """
        words = KeyStream(self.key).words(shape) if self.key is not None else self.words
        if words is None or words.shape != shape:
            raise SharingError(f"a component of shape {None if words is None else words.shape} arrived, {shape} is needed")
        return words


def split(values: Ring, last: int) -> list[Component]:
    """Split an array into three components; that at place `last` is sent in full."""
    first, second = fresh_key(), fresh_key()
    rest = values - KeyStream(first).words(values.shape) - KeyStream(second).words(values.shape)
    components = [Component(first), Component(second)]
    components.insert(last, Component(words=rest))
    return components


def held_by(components: Sequence[Component], place: int) -> dict[int, Component]:
    """Return what the worker at a place is sent: all but the component of its own place."""
    return {other: component for other, component in enumerate(components) if other != place}


def replicated(helper: int, party: int, arrays: Mapping[str, Ring]) -> Replicated:
    """Return what a worker has of an array that was masked for a run with this helper: it is a replicated sharing as it stands.

    Args:
        helper: the place of the worker that has both halves of the mask.
        party: 0 or 1 for the servers, 2 for that helper.
        arrays: "masked" and "mask" of a server, "mask0" and "mask1" of the helper.
    """
    first, second = (helper + 1) % 3, (helper + 2) % 3  # as in `roles`
    match party:
        case 0:
            held = {helper: arrays["masked"], second: -arrays["mask"]}
        case 1:
            held = {helper: arrays["masked"], first: -arrays["mask"]}
        case _:
            held = {second: -arrays["mask0"], first: -arrays["mask1"]}
    return Replicated({place: Component(words=words) for place, words in held.items()}, next(iter(held.values())).shape)


class Replicated:
    """An array at one worker.

    Args:
        held: the two components that it has, by their places.
        shape: of the array.

    Raises:
        SharingError: they are not two of the three, or of another shape.
    """

    def __init__(self, held: dict[int, Component], shape: tuple[int, ...]) -> None:
        if len(held) != 2 or not set(held) < {0, 1, 2}:
            raise SharingError(f"the components {sorted(held)} arrived; two of 0, 1 and 2 are needed")
        self.shape = shape
        self._components = {place: component.expanded(shape) for place, component in held.items()}

    def wire(self, helper: int | None, rows: npt.NDArray[np.int64]) -> Affine:
        """Return some examples as a server of a run with this helper has them: m, and its half of lambda.

        Raises:
            UnknownModel: the run has a crypto provider, or this worker is its helper.
        """
        if helper not in self._components:
            raise UnknownModel(
                f"an array shared among three equals was asked for with helper {helper}: store it in the cluster that trains"
            )
        [other] = set(self._components) - {helper}
        return Affine(self._components[helper][rows], {"R": -self._components[other][rows]})

    def mask(self) -> Ring:
        """Return lambda, both halves added, where this worker is the helper."""
        first, second = self._components.values()
        return -(first + second)
