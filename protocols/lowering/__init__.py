"""A Keras model becomes a program and integers, at the owner, in the clear.

Reading order: `keras_graph.py` reads the model with the rules of `layers.py`, `convolution_layers.py`, `nonlinear_layers.py`,
`sequence_layers.py` and `wrappers.py`, those of `keras.ops` in `operations.py`, `reductions.py` and `contractions.py` (written with
`arithmetic.py`; `refusals.py` says no), into the plain nodes of `network.py`; `folding.py` joins what is linear; `writing.py` writes
the program with `emission.py`, which chooses scales, or with `checking.py`, which finds out at run time whether a calibrated range was
left; `nonlinear.py` writes what is not linear, with `products.py`, `maxima.py`, `functions.py`, `elementwise.py`, and the splines of
`protocols/curves`; `rounding.py` chooses windows, with the bounds of `intervals.py`; `noise.py` appends clip and noise where answers are
noisy;
`features/` is about the elements of the input: their units, and whether they have enough steps.
Keras is imported when a model is lowered, not before.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import CoarseInput, InputError, ModelError
from protocols.lowering.ends import tensors_of
from protocols.lowering.features.places import followed
from protocols.lowering.features.precision import needed
from protocols.lowering.features.steps import ENOUGH, Spread, TooFewSteps, coarse, said, spread_of
from protocols.lowering.features.units import in_units
from protocols.lowering.folding import fold
from protocols.lowering.keras_graph import read_all
from protocols.lowering.nodes.network import Curved, Node, Real, Softmax, Within
from protocols.lowering.scales.checking import CheckedWriter
from protocols.lowering.scales.emission import Writer
from protocols.lowering.scales.noise import noisy
from protocols.lowering.scales.rounding import LayerWindow
from protocols.lowering.scales.writing import write
from protocols.mpc.encoding import steps
from protocols.mpc.engine.segments import MEMORY
from protocols.mpc.inputs.ranges import InputRange, Ranges, chosen
from protocols.mpc.inputs.structure import Structure
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.program import Program, infer
from protocols.noisy_answers import NoisyAnswers

__all__ = ["Clients", "LayerWindow", "Lowered", "lower"]

Clients = Literal["semi-honest", "malicious"]
"""What clients are taken to be: they keep to the input range, or send what they like."""


@dataclass(frozen=True)
class Lowered:
    """A model as it will be shared: what everybody may know, what nobody will, and how each layer's sums are held.

    Attributes:
        program: its public half.
        weights: as integers.
        layers: how their sums are held.
        spread: what the model says of its inputs.
        coarse: features of which the fixed point keeps too little.
        bounded: whether the last layer gives numbers of at most 1, as softmax and sigmoid do.
    """

    program: Program
    weights: list[Ring] = field(repr=False)
    layers: tuple[LayerWindow, ...]
    spread: Spread = field(repr=False)
    coarse: tuple[TooFewSteps, ...] = ()
    bounded: bool = False


def lower(
    model: Any,
    *,
    input_range: InputRange | Mapping[str, InputRange] = (0.0, 1.0),
    calibration: Any = None,
    margin: float = 2.0,
    answers: NoisyAnswers | None = None,
    clients: Clients | None = None,
    checked: bool = False,
    memory: int = MEMORY,
) -> Lowered:
    """Lower a built Keras 3 model.

    Args:
        model: Sequential or functional, channels last; several inputs or outputs in a list or a dict.
        input_range: (low, high) of the inputs; windows are proved for it. Each is a number, or an array that is broadcast to an example and
            has the range of each feature; "calibration" for that of the samples, rounded outwards, or of the table they are looked up in.
            Of several inputs also by their names: {"token_ids": (0, 30521), "facts": (low, high)}.
        calibration: sample inputs (n, *input_shape) for layers whose proof is too loose.
        margin: at least 1; a calibrated window holds `margin` times the largest sum on the samples. An input whose sums are larger
            gives a wrong answer: choose samples that cover what clients send. Reciprocals, roots and logarithms hold from the least
            sample / margin^2 to the largest * margin^2; outside they have the value of the nearer end.
        answers: clip the outputs and add noise to them.
        clients: "malicious": the program first cuts each element of the input into `input_range`, exactly, whatever ring element was sent.
            "semi-honest": it does not. None: noisy answers and labels (`Program.for_label`) do, plain outputs do not.
        checked: the program finds out whether an input leaves what was calibrated on samples, and gives that in place of an answer
            (`lowering/scales/checking.py`). Where everything is proved, it is the same program as without.
        memory: bytes of randomness of one example that one operation needs, where it can be cut into up to 256; a quarter of it in weights.

    Raises:
        ModelError: not a model that can be read; weights or samples that are not finite; `answers` with a sensitivity that would not hold
            (`clients="semi-honest"`, or windows that hold on samples only); `answers` that are `checked`.
        UnsupportedLayer: a layer has no private form.
        WindowError: a layer's sums may leave the fixed point, or noise and clip do not fit it; or sums cannot be `checked`.
    """
    _check_settings(margin, checked)
    if clients not in (None, "semi-honest", "malicious"):
        raise ModelError(f'clients={clients!r}; "semi-honest", "malicious" or None is needed')
    if answers is not None and answers.sensitivity is not None and clients == "semi-honest":
        raise ModelError(
            f'sensitivity={answers.sensitivity:g} with clients="semi-honest": it bounds outputs for inputs in the input range, and nobody '
            'would hold a client to that; leave clients= out, or say clients="malicious"'
        )
    if answers is not None and checked:
        raise ModelError(
            "checked=True with answers=: whether an input leaves a window depends on the weights, and no noise would be added to that bit, "
            "so that answers would cost more than their epsilon; leave one of the two out"
        )
    nodes, inputs, outputs = read_all(model)
    if inputs is not None:
        input_range = inputs.range_of(input_range)
        calibration = None if calibration is None else _joined(inputs, calibration)
    samples = None if calibration is None else _samples(calibration, nodes[0].shape)
    seen = followed(nodes)
    spread = spread_of(nodes, seen)
    found = chosen(input_range, nodes[0].shape, samples, known=said(nodes, seen, spread, samples))
    whole = all("int" in str(one.dtype) for one in model.inputs)
    if whole and isinstance(found, Ranges):
        found = found.in_one_unit()
    ranges, outermost = (found, found.outermost) if isinstance(found, Ranges) else (None, found)
    program, weights, layers = write(
        fold(nodes if ranges is None else in_units(nodes, ranges)),
        outermost,
        samples,
        margin,
        end=None if answers is None else partial(noisy, answers=answers),
        clamp=clients == "malicious" or (clients is None and answers is not None),
        clamp_label=clients != "semi-honest",
        ranges=ranges,
        step=needed(nodes, seen, found, whole=whole),
        kind=CheckedWriter if checked else Writer,
        inputs=inputs,
        outputs=outputs,
        memory=memory,
    )
    names = [one.name for one in model.inputs] if inputs is None else [part.name for part in inputs.parts]
    cut = any(isinstance(node, Within) and 0 in node.inputs for node in nodes)  # the input itself is cast to integers
    integers = tuple(name for name, one in zip(names, _in_order(model), strict=True) if cut or "int" in str(one.dtype))
    program = msgspec.structs.replace(program, integers=integers) if integers else program
    infer(program)
    _check_sensitivity(answers, layers)
    few = coarse(spread, *steps(program), samples)
    if few:
        warnings.warn(_told(few), CoarseInput, stacklevel=2)
    return Lowered(program, weights, layers, spread, few, _bounded(nodes[-1]))


def _in_order(model: Any) -> list[Any]:
    """Return the inputs of a model in the order in which they lie in a row."""
    return tensors_of(model, "inputs").tensors


def _check_settings(margin: Any, checked: Any) -> None:
    if isinstance(margin, bool) or not isinstance(margin, numbers.Real) or not 1 <= float(margin) < math.inf:
        raise ModelError(f"margin={margin!r}; a finite number of at least 1 is needed")
    if not isinstance(checked, bool | np.bool_):  # "no" would be taken for True
        raise ModelError(f"checked={checked!r}; True or False is needed")


def _bounded(last: Node) -> bool:
    """Whether a layer gives numbers of at most 1, as softmax, sigmoid and tanh do."""
    if isinstance(last, Curved):
        return last.curve.left is not None and last.curve.right is not None and last.curve.left[0] == last.curve.right[0] == 0
    return isinstance(last, Softmax) and not last.log


def _told(few: tuple[TooFewSteps, ...]) -> str:
    named = ", ".join(str(each.feature) for each in few[1:9]) + (", ..." if len(few) > 9 else "")
    more = f", and {len(few) - 1} more ({named})" if named else ""
    return (
        f"{few[0]}{more}; at least {ENOUGH} steps are needed for what varies. Give each feature a range of its own, with arrays in the "
        'shape of an example: input_range=(low, high); or input_range="calibration" with samples'
    )


def _check_sensitivity(answers: NoisyAnswers | None, layers: tuple[LayerWindow, ...]) -> None:
    """Refuse a sensitivity, which is that of the real outputs, where sums may wrap around: then one member moves them further."""
    calibrated = [layer.name for layer in layers if layer.source != "proved"]
    if answers is not None and answers.sensitivity is not None and calibrated:
        raise ModelError(
            f"sensitivity={answers.sensitivity:g}, but layer {calibrated[0]!r} is right for inputs like the calibration samples only, and "
            "clients choose their inputs: leave sensitivity= out, or make a model whose windows are proved (a smaller input_range, weight "
            "constraints, BatchNormalization)"
        )


def _joined(inputs: Structure, calibration: Any) -> npt.NDArray[Any]:
    try:
        return inputs.joined(calibration, "calibration sample")
    except InputError as error:
        raise ModelError(str(error)) from None


def _samples(calibration: npt.ArrayLike, shape: tuple[int, ...]) -> Real:
    if isinstance(calibration, Mapping):
        raise ModelError(f"calibration samples in a dict were given; the model has one input: give its array {('n', *shape)}")
    samples = np.asarray(calibration, np.float64)
    if samples.shape[1:] != shape or not len(samples):
        raise ModelError(f"calibration samples of shape {samples.shape} were given; {('n', *shape)} with n >= 1 is needed")
    return samples
