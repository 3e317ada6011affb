"""`share`: a Keras model becomes a program and shares at the workers of a cluster."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from actors import ActorError
from protocols.authority.rights import new_secret
from protocols.errors import TooLarge, WorkerLost
from protocols.mpc.engine.segments import MEMORY
from protocols.mpc.inputs.ranges import InputRange
from protocols.mpc.program import Program
from protocols.noisy_answers import NoisyAnswers
from protocols.owner.cluster import Cluster
from protocols.owner.fitting import Training
from protocols.owner.placing.right import ModelRight
from protocols.owner.placing.serving import sigma_of
from protocols.owner.shared_model import SharedModel
from protocols.selfcheck.report import TOLERANCE, check_tolerance
from protocols.serving.allowance import allowed
from protocols.serving.hosting import MOST_MEMORY, check_program
from protocols.serving.streams import largest_operation

if TYPE_CHECKING:
    import keras

    from protocols.lowering import Clients


async def share(
    model: keras.Model,
    cluster: Cluster,
    name: str | None = None,
    *,
    input_range: InputRange | Mapping[str, InputRange] = (0.0, 1.0),
    calibration: Any = None,
    margin: float = 2.0,
    check: Any = None,
    tolerance: float | None = TOLERANCE,
    answers: NoisyAnswers | None = None,
    clients: Clients | None = None,
    checked: bool = False,
    memory: int | None = None,
    durable: bool | str | os.PathLike[str] = False,
) -> SharedModel:
    """Secret-share a Keras model among the servers of a running cluster.

    Steps: (1) turn the model into a program and integers; refuse what cannot be private or could overflow; (2) evaluate the program in the
    clear beside Keras, and refuse it where its answers are others; (3) claim the name at both servers; (4) get one-time masks from the
    crypto provider; (5) send W + lambda_W to both servers, which refuse it if the provider has told them another program. Afterwards the
    owner's process may forget the model.

    The first step runs in a thread, so that the event loop goes on; leave the model as it is until this returns.

    Args:
        model: a built Keras 3 model, Sequential or functional. Several inputs and outputs come in a list or a dict: ranges then by the
            names of the inputs, {"token_ids": (0, 30521), "facts": (low, high)}, samples and queries in what the Keras model takes, answers
            in what it gives; such outputs have no label.
        cluster: inside its `async with` block.
        name: under which clients find it; the model's own name if None.
        input_range: (low, high) of the real inputs for which the fixed point is proved; clients check it. Each is a number, or an array
            that is broadcast to an example: the range of each feature, which then has 2^19 steps or more of its own. "calibration" takes
            the range of each feature (of the last axis) from the samples, rounded outwards to a few bits. Ranges are public.
        calibration: sample inputs (n, *input_shape) for models that are too deep for a proof. Choose samples that cover what clients send:
            the layers that `SharedModel.layers` calls calibrated are right for inputs like them only, and without `checked` nobody sees
            that an input is not. A sum that is too large wraps around: the answer is noise. A value that is too small or too large for a
            reciprocal, a root or a logarithm (division, normalisation) gets the function's value at the nearer end of its range.
        margin: at least 1, how much larger than on the samples a sum may become before it would wrap around; the range of a
            reciprocal, a root or a logarithm is from the least sample / margin^2 to the largest * margin^2.
        check: examples (n, *input_shape) on which the program is compared with Keras, each of them; None: on some of `calibration`, or on
            inputs drawn from the range. `SharedModel.check` has the largest error.
        tolerance: the largest error of an output that is accepted, as a part of the largest output in the comparison; None: any is. Where
            the model ends in a bounded function such as a softmax, errors of up to 0.02, or up to a smaller tolerance, are always; where n
            probabilities add up to 1, up to 1 / 2n. `CoarseOutput` is warned of a number of the answer that is lost beside larger ones.
        answers: clip the outputs and add noise to them inside the computation, and let each client get no more answers than its budget
            allows: differential privacy for the training data. Each client is who its certificate says; those without one are one client.
        clients: "malicious": clients may send what they like, and the servers cut each element of each input into `input_range`, on shares
            and exactly, before the first layer: the answer is that of the cut input. It costs an answer 3 rounds (12 become 15, with a
            label 16 become 19), and for each element of the input 13.5 bytes each way between the servers and 417 bytes dealt ahead.
            "semi-honest": clients keep to `input_range` by themselves; one that does not can read weights from labels. None: "malicious"
            for labels and for noisy answers, "semi-honest" for outputs, from which a client can compute weights anyway. In each case both
            servers compare what they received, with their first message. Layers that `SharedModel.layers` calls calibrated may be left by
            inputs inside of the range, and what such an answer tells is not bounded.
        checked: compare on shares with what was calibrated, and give a client whose input has left it `OutsideCalibration` in place of an
            answer, with labels, too. It learns that one bit of each of its inputs, and nothing of the answer then; a client that searches
            for the inputs at which the bit changes can learn the size of sums from it, beside what answers tell. Inputs that are
            normalised, and vary by less than any sample / margin, are outside, too: roundings before are enlarged there.
            Numbers inside of their windows are as precise as rounding allows, and no more: where a model multiplies several values that are
            large on different samples, an answer may be less precise than those to samples, and nothing says so.
            It costs 3 rounds an answer, 2 more for each calibrated layer that is rounded without an activation; for each number of a
            calibrated layer up to 11 bytes each way between the servers and 128 bytes dealt ahead, twice that for what is divided by, or
            a root or logarithm is taken of; and 8 for each output. Where all is proved it costs nothing. It is refused with `answers`,
            whose epsilon would not hold for the bit.
        memory: bytes of randomness that each server may hold for each kind of answer: operations of which one example needs more are cut
            into parts, 256 at most, and so are weights beyond a quarter of it. `serve` keeps to it, unless it is told otherwise. None: what
            needs more than 256 MiB is cut, and what cannot be cut so far may be served with more memory. Rounds and bytes are the same,
            but for streamed examples, which take more rounds the less memory there is.
        durable: the model stays when this process has gone, and is served through restarts of the workers, each of which was started with
            a folder (`confide worker --data`). `SharedModel.serve(wait=False)` says how often it may be asked; leaving the block of the
            model ends nothing, `stop` does. The right to it is written to NAME.model.json in this folder, or in `models` if this is True:
            whoever has that file, and the certificate of this process, limits and stops the model (`confide models`).

    **Leaks** to all parties: the architecture, the fixed-point windows (the order of magnitude of each layer's sums), the input range.
    Nothing of the weights, to anybody, as long as no two of the three workers collude. A client that one worker helps learns in addition,
    of outputs that were rounded, bits below their precision (`mpc/operations/selection.py`); of labels nothing.

    Raises:
        UnsupportedLayer: a layer has no private form; the message names it and what to use instead.
        WindowError: a layer could overflow the fixed point; the message names it. Or noise or clip do not fit it, or sums that are
            `checked` could leave the ring itself.
        Inaccurate: the answers of the program are further from Keras' than the tolerance; the message says how far, and what helps. Or
            Keras' own are NaN or infinite for samples that were given.
        ModelError: a setting makes no sense, or samples lie outside of the range.
        TooLarge: its weights, or the randomness of one operation, are more than a server may hold, or more than `memory` however it is
            cut, and what is enough; nothing was sent.
        NameTaken: a model of that name is shared there already.
        KeepsNothing: it is to stay, and a worker was started without a folder.
        VaultError: it is to stay, and a worker, or this process, cannot write what it has to keep; or there is a right of that name.
        WorkerLost: a worker went away.
    """
    from protocols.owner.placing.beside import lowered_beside  # noqa: PLC0415  imports Keras, which workers and clients do without
    from protocols.selfcheck.comparison import compare  # noqa: PLC0415  needs lowering, too

    check_tolerance(tolerance)
    most = None if memory is None else min(allowed("memory", memory, 1), MOST_MEMORY)
    settings = {
        "input_range": input_range,
        "calibration": calibration,
        "margin": margin,
        "answers": answers,
        "clients": clients,
        "checked": checked,
        "memory": most or MEMORY,
    }
    lowered = await lowered_beside(model, **settings)
    _check_size(lowered.program, most)
    comparison = await asyncio.to_thread(
        compare, model, lowered, calibration=calibration, check=check, clip=None if answers is None else answers.clip, tolerance=tolerance
    )
    guarantee = None if answers is None else await asyncio.to_thread(answers.guarantee, sigma_of(lowered.program))
    chosen = name or model.name
    await cluster.enrol()
    secret = new_secret()
    right = None if durable is False else ModelRight.new(durable, chosen, secret)
    training = Training(model, cluster, chosen)
    shared = SharedModel(chosen, lowered.program, lowered.layers, cluster, secret, training, guarantee, comparison, answers, most)
    try:
        await shared.placed(lowered.weights, right)
    except ActorError as error:
        raise WorkerLost(f"model {chosen!r} could not be shared: {error}") from None
    return shared


def _check_size(program: Program, memory: int | None) -> None:
    """Refuse what could be shared, and never be served.

    Raises:
        TooLarge: of weights, or of randomness for one operation of an example.
    """
    check_program(program)
    size = largest_operation(program)
    if size > MOST_MEMORY:
        raise TooLarge(
            f"one operation of an example needs {size:,} bytes of randomness at each server, and {MOST_MEMORY:,} bytes are the most: "
            "share a model with smaller inputs or fewer channels, or one with ReLU where it has other activations"
        )
    if memory is None:
        return
    least = max(size, 0 if program.label is None else largest_operation(program.for_label()))
    if least > memory:
        raise TooLarge(
            f"memory={memory:,}: one operation of an example needs {least:,} bytes of randomness at each server, however it is cut; give "
            f"memory={least} or more"
        )
