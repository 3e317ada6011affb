"""What those who may train on a dataset may do with it, and the steps that this allows."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from functools import reduce
from operator import and_

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import InputError, NotGranted


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """What those who may train on a dataset that stays may do with it. Each worker that takes part holds them to it.

    It bounds what a step, and what is opened, may mix; it makes no training harmless: who chooses the first weights reads out of the
    last ones, or out of metrics, what `min_batch` examples have in common; and who brings the targets or the features itself reads single
    records of the others all the same. Open weights and metrics (`reveal_to`) to those only who may see records.

    Attributes:
        min_batch: the fewest examples of these data in a step that has any of them, the last one of an epoch included; at least 1.
        reveal_to: common names in the certificates of those who get metrics, and weights that were trained on the data; None: whoever
            trains on them.
    """

    min_batch: int = 1
    reveal_to: tuple[str, ...] | None = None

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            InputError: the smallest batch is none, or there is no name in `reveal_to`, or an empty one.
        """
        if isinstance(self.min_batch, bool) or not isinstance(self.min_batch, int) or self.min_batch < 1:
            raise InputError(f"Use(min_batch={self.min_batch!r}): a whole number of at least 1 is needed")
        names = self.reveal_to
        if names is not None and not (isinstance(names, tuple) and names and all(isinstance(name, str) and name for name in names)):
            raise InputError("Use(reveal_to=) is a tuple of names of certificates, at least one and none empty; None is whoever trains")

    def __and__(self, other: Use) -> Use:
        """Return what both allow."""
        lists = [names for names in (self.reveal_to, other.reveal_to) if names is not None]
        both = tuple(name for name in lists[0] if all(name in names for names in lists)) if lists else None
        return Use(min_batch=max(self.min_batch, other.min_batch), reveal_to=both)

    def check_reveal(self, name: str) -> None:
        """Refuse to open what was trained on the data to who has a certificate of that name.

        Raises:
            NotGranted: the owner has not named it.
        """
        if self.reveal_to is not None and name not in self.reveal_to:
            allowed = ", ".join(self.reveal_to) or "nobody"
            raise NotGranted(
                f"weights and metrics of this training are opened to {allowed} only, as the owners of the data have said, and the"
                f" certificate shown is {name or 'none'}"
            )


class Stretch(msgspec.Struct, frozen=True):
    """Examples of one owner in an array that was put together.

    Attributes:
        examples: how many, after those of the stretch before.
        use: what their owner allows.
    """

    examples: int
    use: Use


def refined(arrays: Sequence[Sequence[Stretch]]) -> list[Stretch]:
    """Return what is allowed of what was made of arrays of the same examples: in each stretch that no array divides, what all allow.

    An array without stretches was placed by who trains on it, and is everything to it.
    """
    known = [stretches for stretches in arrays if stretches]
    ends = [list(itertools.accumulate(stretch.examples for stretch in stretches)) for stretches in known]
    found, start = [], 0
    for stop in sorted(set(itertools.chain.from_iterable(ends))):
        at = [bisect.bisect_right(each, start) for each in ends]
        found.append(Stretch(stop - start, reduce(and_, (stretches[place].use for stretches, place in zip(known, at, strict=True)))))
        start = stop
    return found


def check_steps(stretches: Sequence[Stretch], steps: Sequence[npt.NDArray[np.int64]]) -> None:
    """Refuse steps with fewer examples of an owner than it allows, and yet some.

    Args:
        stretches: of the array, in its order.
        steps: the rows of each step.

    Raises:
        NotGranted: there is such a step.
    """
    if all(stretch.use.min_batch == 1 for stretch in stretches):
        return
    ends = np.cumsum([stretch.examples for stretch in stretches])
    for rows in steps:
        counts = np.bincount(np.searchsorted(ends, rows, side="right"), minlength=len(ends))
        for count, stretch in zip(counts, stretches, strict=True):
            if 0 < count < stretch.use.min_batch:
                raise NotGranted(
                    f"a step has {count} examples of an owner who allows steps with at least {stretch.use.min_batch}: choose a larger"
                    " batch_size, one that leaves no smaller remainder, and with several owners shuffle=False or still larger steps"
                )
