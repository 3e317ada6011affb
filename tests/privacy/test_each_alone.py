"""Layers without a rule: what is recorded is what the model computes, on this machine with its TensorFlow, or it is not trained."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from privacy import ModelRefused, PrivacyEngine
from privacy.models import recording
from privacy.rules.gradients import Materialised
from privacy.rules.registry import LayerCall

layers = keras.layers
TESTS = Path(__file__).parents[1]
CASES = [
    "attention with LoRA",
    "attention with a frozen kernel",
    "EinsumDense with LoRA",
    "x @ w",
    "einsum",
    "matmul",
    "loss with a product",
    "GPT with tied embeddings",
]


def run(case, *, onednn):
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "TF_ENABLE_ONEDNN_OPTS": onednn}
    return subprocess.run(
        [sys.executable, str(TESTS / "alone_program.py"), case], env=environment, capture_output=True, text=True, check=False
    )


QUICK = {("x @ w", "0")}
"""Each process loads TensorFlow, so the others are for `make test-long`."""


@pytest.mark.parametrize(
    ("case", "onednn"),
    [
        pytest.param(case, onednn, marks=() if (case, onednn) in QUICK else pytest.mark.long, id=f"{case}, oneDNN {onednn}")
        for case in CASES
        for onednn in ("1", "0")
    ],
)
def test_in_a_process_of_its_own(case, onednn):
    """Several sizes: with batches of one, products read past their buffers, so that all of it was garbage, or the process ended."""
    ran = run(case, onednn=onednn)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    assert "each example alone" in ran.stdout or case == "loss with a product"


class Inner(layers.Layer):
    """A layer of one's own with a random one inside, that is not told whether this is training."""

    def __init__(self):
        super().__init__()
        self.drop = layers.Dropout(0.4)

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 5))

    def call(self, x):
        return self.drop(keras.ops.matmul(x, self.w))


def grouped():
    return keras.Sequential([keras.Input((5, 5, 2)), layers.Conv2D(4, 2, groups=2), layers.Flatten(), layers.Dense(2)])


def specs(model):
    return tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)


@pytest.mark.parametrize(
    "build",
    [
        grouped,
        lambda: keras.Sequential([keras.Input((7, 4)), Inner(), layers.GaussianNoise(0.5), layers.Dropout(0.3), layers.Dense(2)]),
        pytest.param(
            lambda: keras.Sequential([keras.Input((6, 4)), layers.GRU(5, dropout=0.3, recurrent_dropout=0.2), layers.Dense(2)]),
            marks=pytest.mark.long,
        ),
        lambda: keras.Sequential([keras.Input((6, 4)), layers.LSTM(5), layers.Dropout(0.5), layers.Dense(2)]),
        lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.RandomFlip(), layers.Conv2D(4, 3), layers.GroupNormalization(2)]),
    ],
    ids=["groups", "random inside", "random loop", "random outside", "augmentation"],
)
def test_what_is_recorded_is_the_model_with_its_randomness(build):
    model = build()
    state = [np.array(variable) for variable in model.non_trainable_variables]
    assert recording.disagreement(model, recording.units(model), specs(model)) is None
    assert all(np.array_equal(a, b) for a, b in zip(state, model.non_trainable_variables, strict=True))


@pytest.mark.parametrize("broken", ["forward", "nan", "gradient"])
def test_a_recording_that_is_not_the_model_is_refused(monkeypatch, broken):
    """Whatever the cause: a product that reads past its buffers, a release of TensorFlow or Keras in which a rule is wrong."""
    right = recording.alone

    def wrong(layer, run, watch, *args, **kwargs):
        outputs, call = right(layer, run, watch, *args, **kwargs)
        if broken == "gradient":
            return outputs, LayerCall(call.watched, lambda dz: Materialised([1.2 * one for one in call.gradients(dz).each()]))
        return outputs + (float("nan") if broken == "nan" else 0.01), call

    monkeypatch.setattr(recording, "alone", wrong)
    model = grouped()
    model.compile("sgd", "mse")
    PrivacyEngine("rdp").make_private(model, noise_multiplier=1.0, max_grad_norm=1.0)
    before = model.get_weights()
    with pytest.raises(
        ModelRefused, match=r"(?s)(forward pass is off|add up to another sum).*conv2d.*each example alone.*TF_ENABLE_ONEDNN_OPTS=0"
    ):
        model.fit(np.ones((8, 5, 5, 2), np.float32), np.ones((8, 2), np.float32), batch_size=4, verbose=0)
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
