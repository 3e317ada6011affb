"""The audit of trainings: it catches three seeded bugs of the engine, and not the engine as it is.

The canaries are one-hot rows, far longer than the clip, so that each has weights to itself: what the loss of one tells, no other blurs. The
noise is the operating system's, so the margins are wide.
"""

import keras
import numpy as np
import pytest

from privacy import GaussianNoise, PrivacyEngine, audit
from privacy.training import PrivateTraining

M, EXAMPLES, BATCH, EPOCHS, DELTA, TARGET = 1000, 200, 350, 3, 1e-5, 1.0


def rows(count, width, *, scale):
    """One-hot rows from the first on, with alternating labels."""
    return scale * np.eye(count, width, dtype=np.float32), np.arange(count) % 2


def data():
    """Examples on dimensions that no canary has."""
    random = np.random.default_rng(1)
    x = np.zeros((EXAMPLES, M + 8), np.float32)
    x[:, M:] = random.normal(size=(EXAMPLES, 8))
    return x, (x[:, M] > 0).astype(np.int64)


def linear(width):
    return keras.Sequential([keras.Input((width,)), keras.layers.Dense(2, use_bias=False, kernel_initializer="zeros")])


def compiled(model, rate):
    model.compile(keras.optimizers.SGD(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def train_with(engine):
    """A private training whose claim is epsilon = 1."""

    def train(x, y):
        plan = {"target_epsilon": TARGET, "target_delta": DELTA, "epochs": EPOCHS, "batch_size": BATCH, "examples": len(x)}
        model = compiled(engine.make_private_with_epsilon(linear(x.shape[1]), **plan, max_grad_norm=1.0), 0.01)
        model.fit(x, y, epochs=EPOCHS, verbose=0)
        return model

    return train


class Off(GaussianNoise):
    """Bug 1: no noise."""

    def rounded(self, shape, sigma):
        return 0 * super().rounded(shape, sigma)


class OfTheMean(GaussianNoise):
    """Bug 2: the noise is scaled as if it were added to the mean, but is added to the sum."""

    def rounded(self, shape, sigma):
        return super().rounded(shape, sigma / BATCH)


class Unclipped:
    """A step that computes its sum with no clip."""

    def __init__(self, step):
        self.parameters, self._step = step.parameters, step

    def whole(self, batch, clip, *noise):
        return self._step.whole(batch, 1e9, *noise)


def skip_clipping_in_the_last_batch(patch):
    """Bug 3: the last step does not clip; its noise is that of C."""
    once = PrivateTraining._once

    def wrong(self, step, *others):
        return once(self, Unclipped(step) if self.steps == self.plan.steps - 1 else step, *others)

    patch.setattr(PrivateTraining, "_once", wrong)


def audited(engine):
    canaries = audit.Canaries.of(*rows(M, M + 8, scale=500.0))
    result = audit.audit_training(train_with(engine), *data(), canaries=canaries, delta=DELTA, guesses=(150, 0))
    assert 0.9 < engine.epsilon(delta=DELTA) <= TARGET
    return result


def test_the_engine_is_not_caught():
    result = audited(PrivacyEngine("pld"))
    assert result.epsilon < TARGET, result


@pytest.mark.parametrize("noise", [Off, OfTheMean])
def test_noise_that_is_not_what_is_accounted_for_is_caught(noise):
    result = audited(PrivacyEngine("pld", noise=noise()))
    assert result.epsilon > 2 * TARGET, result


def test_a_last_batch_without_clipping_is_caught(monkeypatch):
    skip_clipping_in_the_last_batch(monkeypatch)
    result = audited(PrivacyEngine("pld"))
    assert result.epsilon > 2 * TARGET, result
