"""What each layer costs, from the costs that its operations state: `python docs/making/layers.py` writes docs/reference/layers.md.

A layer's row is what it adds to a small network, between a rectifier and a Dense layer. Models are read as `share` and `fit` read them;
nothing is run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

from protocols.errors import ModelError
from protocols.lowering import lower
from protocols.mpc.engine.loops import Costs, costs
from protocols.mpc.program import infer
from protocols.owner.compiled import plan
from protocols.training.step import step

PAGE = Path(__file__).parents[1] / "reference" / "layers.md"
BATCH = 32
IMAGE, ROW, STEPS, WORDS = (8, 8, 4), (16,), (8, 16), (8,)
Build = Callable[[Any], Any]


class Case(NamedTuple):
    """A layer, with the settings that its row is about, on an input without the axis of examples."""

    name: str
    shape: tuple[int, ...]
    build: Build


def _attended(layer: Any) -> Build:
    return lambda x: layer(x, x)


def cases() -> tuple[Case, ...]:
    """Return the rows: layers are made anew each time, from random numbers that are the same after the same seed."""
    return (
        Case("Dense(16)", ROW, layers.Dense(16)),
        Case("Conv2D(4, 3)", IMAGE, layers.Conv2D(4, 3)),
        Case("DepthwiseConv2D(3)", IMAGE, layers.DepthwiseConv2D(3)),
        Case("SeparableConv2D(4, 3)", IMAGE, layers.SeparableConv2D(4, 3)),
        Case("Conv2DTranspose(4, 3)", IMAGE, layers.Conv2DTranspose(4, 3)),
        Case("Conv1D(16, 3)", STEPS, layers.Conv1D(16, 3)),
        Case("ReLU()", ROW, layers.ReLU()),
        Case("LeakyReLU()", ROW, layers.LeakyReLU()),
        Case("PReLU()", ROW, layers.PReLU()),
        Case("ELU()", ROW, layers.ELU()),
        Case('Activation("sigmoid")', ROW, layers.Activation("sigmoid")),
        Case('Activation("tanh")', ROW, layers.Activation("tanh")),
        Case('Activation("gelu")', ROW, layers.Activation("gelu")),
        Case("Softmax()", ROW, layers.Softmax()),
        Case("AveragePooling2D(2)", IMAGE, layers.AveragePooling2D(2)),
        Case("GlobalAveragePooling2D()", IMAGE, layers.GlobalAveragePooling2D()),
        Case("MaxPooling2D(2)", IMAGE, layers.MaxPooling2D(2)),
        Case("GlobalMaxPooling2D()", IMAGE, layers.GlobalMaxPooling2D()),
        Case("BatchNormalization()", IMAGE, layers.BatchNormalization()),
        Case("LayerNormalization()", ROW, layers.LayerNormalization()),
        Case("GroupNormalization(2)", IMAGE, layers.GroupNormalization(2)),
        Case("UnitNormalization()", ROW, layers.UnitNormalization()),
        Case("Add(), of x and x", ROW, lambda x: layers.Add()([x, x])),
        Case("Multiply(), of x and x", ROW, lambda x: layers.Multiply()([x, x])),
        Case("Maximum(), of x and Dense(x)", ROW, lambda x: layers.Maximum()([x, layers.Dense(16)(x)])),
        Case("Flatten()", IMAGE, layers.Flatten()),
        Case("Reshape((4, 4))", ROW, layers.Reshape((4, 4))),
        Case("ZeroPadding2D()", IMAGE, layers.ZeroPadding2D()),
        Case("UpSampling2D()", IMAGE, layers.UpSampling2D()),
        Case("Dropout(0.5)", ROW, layers.Dropout(0.5)),
        Case("Embedding(50, 16)", WORDS, layers.Embedding(50, 16)),
        Case("MultiHeadAttention(2, 8), of x and x", STEPS, _attended(layers.MultiHeadAttention(2, 8))),
        Case("SimpleRNN(8), 8 steps", STEPS, layers.SimpleRNN(8)),
        Case("LSTM(8), 8 steps", STEPS, layers.LSTM(8)),
        Case("GRU(8), 8 steps", STEPS, layers.GRU(8)),
    )


def _model(case: Case, *, with_it: bool) -> keras.Model:
    words = case.shape == WORDS
    given = keras.Input(case.shape, dtype="int32" if words else "float32")
    x = given if words else layers.ReLU()(given)
    if with_it:
        x = case.build(x)
    elif words:
        x = layers.Rescaling(1.0 / 50)(x)
    outputs = layers.Dense(4)(x if len(x.shape) == 2 else layers.Flatten()(x))
    model = keras.Model(given, outputs)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mean_squared_error")
    return model


def served(model: keras.Model) -> Costs:
    """Return what a prediction of one example costs."""
    (given,) = model.inputs
    words = str(given.dtype).startswith("int")
    random = np.random.default_rng(0)
    samples = random.integers(0, 50, (64, *given.shape[1:])) if words else random.uniform(0, 1, (64, *given.shape[1:])).astype(np.float32)
    program = lower(model, input_range=(0, 49) if words else (0.0, 1.0), calibration=samples).program
    return costs(program.ops, infer(program))


def trained(model: keras.Model) -> Costs:
    """Return what a step of gradient descent on `BATCH` examples costs."""
    circuit = step(plan(model), BATCH)
    return costs(circuit.ops, circuit.values)


def _added(case: Case, of: Callable[[keras.Model], Costs]) -> str:
    try:
        more, less = of(_model(case, with_it=True)), of(_model(case, with_it=False))
    except ModelError:
        return "no | | "
    rounds, sent, dealt = (one - other for one, other in zip(more, less, strict=True))
    return f"{rounds} | {sent / 1e3:,.1f} | {dealt / 1e3:,.1f}"


def rows() -> Iterator[str]:
    """Make the rows of the table."""
    keras.utils.set_random_seed(0)
    for case in cases():
        shape = " x ".join(map(str, case.shape))
        yield f"| `{case.name}` | {shape} | {_added(case, served)} | {_added(case, trained)} |"


def page() -> str:
    """Make the page."""
    head = f"""\
---
hide: [toc]
---

# What each layer costs

A row is what a layer adds to a small network (a rectifier, the layer, a Dense layer with four outputs), from the costs that the operations
themselves state: *rounds*, messages of each server to the other, one after the other; *sent*, thousands of bytes from each server to the
other; *dealt*, thousands of bytes from the third party ahead of time. *Served*: a prediction of one example. *Trained*: a step of
gradient descent on a batch of {BATCH}, forward, backward and update. Rounds do not grow with the batch, bytes do. A number below zero: with
the layer there is less for the Dense layer behind it to do. Windows follow from weights, so that other weights make recurrent layers a
little cheaper or dearer.

Written by `python docs/making/layers.py`. A layer that is not here may well be served: `share` refuses by name what has no private form.

| layer | on | served: rounds | sent, kB | dealt, kB | trained: rounds | sent, kB | dealt, kB |
|---|---|---|---|---|---|---|---|
"""
    return head + "\n".join(rows()) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
