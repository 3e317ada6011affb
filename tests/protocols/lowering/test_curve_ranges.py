"""Curves over ranges that are wide, narrow, far from 0 or on one side of it: within the tolerance, or refused by name."""

from types import SimpleNamespace

import numpy as np
import pytest

from protocols.curves.activations import CURVES, TOLERANCE, curve_of
from protocols.errors import WindowError
from protocols.lowering.nodes import network as net
from protocols.lowering.scales import functions
from protocols.lowering.scales.emission import Writer
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.plaintext import evaluate
from protocols.mpc.program import Program

RANGES = [
    *((-reach, reach) for reach in (1e-7, 1e-3, 1.0, 40.0, 300.0, 1000.0, 4000.0, 60000.0)),
    *((0.0, reach) for reach in (1e-6, 1.0, 50.0, 30000.0)),
    *((-reach, 0.0) for reach in (1e-6, 1.0, 50.0, 30000.0)),
    *((middle - 0.5, middle + 0.5) for middle in (-1000.0, -400.5, -100.0, -65.0, -10.0, -2.5, 2.5, 10.0, 65.0, 100.0, 400.5, 1000.0)),
    *((-1.0, reach) for reach in (401.0, 1000.0)),
    *((-reach, 1.0) for reach in (401.0, 1000.0)),
    (0.4999, 0.5001),
    (0.9, 1.1),
    (9999.0, 10001.0),
]
SETTINGS = {
    "CELU": [{"alpha": 0.1}, {"alpha": 3.0}, {"alpha": 20.0}, {"alpha": 500.0}],
    "ELU": [{"alpha": -1.0}, {"alpha": 0.0}, {"alpha": 50.0}],
    "gelu_tanh": [{}],
    "soft_shrink": [{"threshold": 0.0}, {"threshold": 5.0}, {"threshold": 70.0}, {"threshold": 500.0}],
    "squareplus": [{"b": 0.0}, {"b": 0.1}, {"b": 100.0}],
}
WITH_SETTINGS = {f"{name} {given}": curve_of(SimpleNamespace(**given), name) for name, settings in SETTINGS.items() for given in settings}
ALL = {name: curve for name, curve in CURVES.items() if name not in ("swish", "hard_swish")} | WITH_SETTINGS
ROUNDINGS = (None, lambda shape: np.ones(shape, np.uint64))
NODE = net.Start(layer="tested", kind="Function", inputs=(), shape=(8,))


def on_grid(low, high):
    """Inputs that cover the range, and densely what lies within 12 of 0, as multiples of the step of inputs."""
    unit = 2.0 ** -min(32, 16 - np.ceil(np.log2(max(abs(low), abs(high)))))
    first, last = np.ceil(low / unit) * unit, np.floor(high / unit) * unit
    middle = np.linspace(np.clip(-12, first, last), np.clip(12, first, last), 800)
    return np.clip(np.rint(np.concatenate([np.linspace(first, last, 800), middle]) / unit) * unit, first, last).reshape(-1, 8)


def values(function, x, input_range, rounding):
    """What the program of a function gives, and the proved ends of its values."""
    writer = Writer((8,), input_range, None, 1.0)
    y = writer.share(function(writer, NODE, writer.input))
    program = Program(tuple(writer.ops), (), (8,), writer.input.scale, input_range, y.scale)
    found = decode(evaluate(program, [], encode(x, program.input_scale), rounding=rounding), y.scale)
    return found.reshape(x.shape), float(y.range.low.min()) * y.scale, float(y.range.high.max()) * y.scale


@pytest.mark.parametrize("name", ALL)
@pytest.mark.sample(5)
def test_every_curve_over_every_range(name):
    curve, held = ALL[name], 0
    refused = []
    for low, high in RANGES:
        x = on_grid(low, high)
        with np.errstate(over="ignore", invalid="ignore"):
            want = curve.function(x)
        allowed = (TOLERANCE + 2.0**-13) * np.maximum(1.0, np.abs(want) * curve.relative)
        try:
            found = [
                values(lambda w, node, v: functions.curve(w, node, v, curve.spline, steep=curve.steep), x, (low, high), each)
                for each in ROUNDINGS
            ]
        except WindowError as error:
            refused.append(str(error))
            continue
        held += 1
        for y, least, largest in found:
            assert (np.abs(y - want) <= allowed).all(), (low, high, np.abs(y - want).max())
            assert least <= y.min() <= y.max() <= largest, (low, high)
    assert all("Normalise its inputs" in text or "calibration=" in text for text in refused)
    assert held >= len(RANGES) / 2


POSITIVE = {
    "reciprocal": (functions.reciprocal, lambda x: 1 / x, lambda x: 1e-3 / x),
    "root": (functions.reciprocal_root, lambda x: x**-0.5, lambda x: 1e-3 * x**-0.5),
    "logarithm": (functions.logarithm, np.log, lambda x: 2.0**-10 + 0 * x),
}
SPANS = [(1e-3, 1.0), (1e-4, 1.0), (1e-6, 1.0), (0.01, 100.0), (0.1, 3e4), (1.0, 1000.0), (1.0, 3e4)]
SPANS += [(0.5, 0.50001), (1.0, 1.0001), (2.0, 3.0), (100.0, 101.0), (1e4, 1.0001e4), (1e4, 6e4), (1e5, 1.1e5), (1e-6, 2e-6), (1e7, 1e8)]


@pytest.mark.parametrize("name", POSITIVE)
@pytest.mark.sample(1)
def test_functions_of_positive_values_over_every_range(name):
    function, exact, allowed = POSITIVE[name]
    held, refused = 0, []
    for low, high in SPANS:
        unit = 2.0 ** -min(32, 16 - np.ceil(np.log2(high)))
        x = np.unique(np.rint(np.geomspace(low, high, 2000) / unit)) * unit
        x = np.resize(x[(x >= low) & (x <= high)], (100, 8))
        try:
            found = [values(function, x, (low, high), each)[0] for each in ROUNDINGS]
        except WindowError as error:
            refused.append(str(error))
            continue
        held += 1
        assert all((np.abs(y - exact(x)) <= allowed(x)).all() for y in found), (low, high)
    assert all("calibration=" in text for text in refused)
    assert held >= 10
