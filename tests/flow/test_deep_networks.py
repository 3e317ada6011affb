"""ResNet-20, as its paper has it, on one image with real processes; its batch normalisation has seen images."""

import asyncio
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from protocols import connect, share
from protocols.errors import WindowError
from protocols.lowering import lower

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import resnet

import digits


@pytest.fixture(scope="module")
def network():
    """The model, and images that it has not seen."""
    keras.utils.set_random_seed(0)
    model, images = resnet.build(), resnet.colour(digits.load().x_train[:136], 0)
    for start in range(0, 128, 32):
        model(images[start : start + 32], training=True)
    means = [np.asarray(variable) for variable in model.variables if "moving_mean" in variable.path]
    assert all(np.abs(mean).max() > 0.01 for mean in means)
    return model, images


async def test_one_image(cluster, network):
    model, images = network
    async with await share(model, cluster, name="resnet20", calibration=images[:64]) as shared:
        serving = asyncio.create_task(shared.serve(1, reveal=["logits"]))
        async with connect(cluster, "resnet20") as remote:
            logits = await resnet.answer(remote, images[128:129])
            cost = remote.last
        await serving
    expected = model.predict(images[128:129], verbose=0)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits, expected, atol=0.02)
    assert cost.rounds == 19 * 4  # three of a rectifier, one to open what it gives


def test_without_samples_the_error_says_what_to_do(network):
    with pytest.raises(WindowError, match=r"layer 're_lu.*' \(ReLU\): .* Give sample inputs as calibration="):
        lower(network[0])


def test_every_normalisation_and_shortcut_is_folded(network):
    model, images = network
    program = lower(model, calibration=images[:8]).program
    kinds = [type(op).__name__ for op in program.ops]
    assert kinds.count("Conv2D") == 21
    assert kinds.count("Select") == 19
    assert "Truncate" not in kinds
