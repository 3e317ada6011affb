"""What other parties say of a shared model and its answers, checked by whoever is told it, before anything is made of it.

A client checks what the servers say of a model, its tickets and masks, and the shares of its answers; servers and crypto provider check
what the owner promises and allows. This file knows no actors.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from protocols.errors import ProgramError, ProtocolError, ServingError
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations.noise import AddNoise
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.material import packed
from protocols.mpc.program import Program, infer
from protocols.noisy_answers import MOST_ANSWERS, Guarantee
from protocols.serving.ticket import IDENTIFIER_BYTES, REVEALS, Reveal, Ticket

MOST_TOTAL = 1 << 62
"""Requests, and examples, that an owner can allow in all."""
CLOSE = 1e-6
"""Relative: a sigma of the promise and of the program are the same."""


def check_guarantee(program: Program, guarantee: Guarantee | None) -> None:
    """Refuse a promise about noise that the program does not keep, or that is none.

    Raises:
        ProgramError: it is missing, or not needed, or its numbers make no sense or are not those of the program.
    """
    noise = [op for op in program.ops if isinstance(op, AddNoise)]
    if guarantee is None:
        if noise:
            raise ProgramError("the program adds noise to its answers, and nothing says how many answers a client gets")
        return
    if not noise:
        raise ProgramError("noisy answers are promised, and the program adds no noise")
    numbers = (guarantee.clip, guarantee.sigma, guarantee.epsilon)
    if not all(0 < number < math.inf for number in numbers) or not 0 < guarantee.delta < 1 or not 1 <= guarantee.answers <= MOST_ANSWERS:
        raise ProgramError(
            f"noisy answers are promised with clip={guarantee.clip}, sigma={guarantee.sigma}, epsilon={guarantee.epsilon}, "
            f"delta={guarantee.delta} and {guarantee.answers} answers; positive finite numbers, a delta below 1 and up to {MOST_ANSWERS} "
            "answers are needed"
        )
    added = noise[-1].sigma * program.output_scale
    if not math.isclose(added, guarantee.sigma, rel_tol=CLOSE):
        raise ProgramError(f"noise of sigma={guarantee.sigma:.6g} is promised, and the program adds noise of {added:.6g}")


def check_terms(program: Program, total: int, reveal: Collection[Reveal], examples: int | None) -> None:
    """Refuse what an owner cannot allow.

    Raises:
        ServingError: a number is out of range, or the model has no such kind of answer.
    """
    if not 0 <= total <= MOST_TOTAL or not (examples is None or 0 <= examples <= MOST_TOTAL):
        raise ServingError(f"{total} requests for {examples} examples were allowed; numbers from 0 to 2^62 are possible")
    possible = REVEALS if program.label is not None else ("logits",)
    if not reveal or len(set(reveal)) != len(reveal) or not set(reveal) <= set(possible):
        raise ServingError(f"answers of kinds {list(reveal)} were allowed; this model can give {list(possible)}, each named once")


def check_described(program: Program, guarantee: Guarantee | None, model: bytes, *, name: str, wanted: str) -> None:
    """Refuse what servers say of a model that cannot be asked.

    Args:
        program: of the model.
        guarantee: where answers are noisy.
        model: its identifier.
        name: under which they know it.
        wanted: the name that was asked for.

    Raises:
        ProgramError: the program, or what is promised about noise, makes no sense.
        ProtocolError: it is another model, or has no identifier.
    """
    if name != wanted or len(model) != IDENTIFIER_BYTES:
        raise ProtocolError(f"the model {wanted!r} was asked for, and the servers describe another one, or give it no identifier")
    values, answer = infer(program), program.output_shape
    if program.label is not None and values[program.label.x].shape != (answer[0] + program.checked,):
        raise ProgramError(f"a label of operation {program.label.x} does not fit an answer of shape {answer}")
    check_guarantee(program, guarantee)


def check_granted(ticket: Ticket, mask: npt.NDArray[np.uint64], *, model: bytes, reveal: Reveal, most: int, input_shape: Shape) -> None:
    """Refuse a ticket and a mask that are not for a part of the request.

    Args:
        ticket: what is allowed.
        mask: of the inputs.
        model: that was asked.
        reveal: the kind of answer that was asked for.
        most: how many examples are without a ticket yet.
        input_shape: of an example.

    Raises:
        ProtocolError: it is for another model, kind of answer, or number of examples, or the mask has another shape.
    """
    if ticket.model != model or ticket.reveal != reveal or not 1 <= ticket.examples <= most:
        raise ProtocolError(
            f"a ticket for {ticket.examples} examples with {ticket.reveal!r} was granted; {reveal!r} of this model for 1 to {most} "
            "examples was asked for; the crypto provider is faulty"
        )
    expected = (ticket.examples, *input_shape)
    if mask.dtype != np.uint64 or mask.shape != expected:
        raise ProtocolError(f"a mask of shape {mask.shape} came for examples of shape {expected}; the crypto provider is faulty")


def check_share(share: Ring, program: Program, examples: int, reveal: Reveal) -> None:
    """Refuse a share that is not one of the answers that were asked for.

    Raises:
        ProtocolError: it has another shape.
    """
    size = math.prod(program.output_shape) + program.checked
    expected = (examples, packed(size) if reveal == "label" else size)
    if share.dtype != np.uint64 or share.shape != expected:
        raise ProtocolError(f"a share of shape {share.shape} came for answers of shape {expected}; a server is faulty")
