"""Clip, noise and budget: what the program does in the simulator, and what the settings promise."""

import keras
import numpy as np
import pytest
from dp_accounting import rdp
from keras import layers

from deployment import Deployment, key
from protocols.errors import BudgetSpent, ProgramError, WindowError
from protocols.lowering import lower
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.operations.argmax import Argmax
from protocols.mpc.operations.bits.blocks import blocks_for
from protocols.mpc.operations.bits.conjunction import unpack
from protocols.mpc.operations.noise import AddNoise
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.wires import Input
from protocols.mpc.parties import discrete_gaussian
from protocols.mpc.parties.keystream import KeyStream
from protocols.mpc.plaintext import evaluate
from protocols.mpc.program import Program, infer
from protocols.noisy_answers import NoisyAnswers
from protocols.serving.budget import Budget

CLIP = 2.0
EXAMPLES = 3000


def settings(**changes) -> NoisyAnswers:
    return NoisyAnswers(**{"clip": CLIP, "noise_multiplier": 0.02, "max_epsilon": 1e5} | changes)


def dense(kernel, bias=(0.0, 0.0, 0.0, 0.0)):
    model = keras.Sequential([layers.Input((2,)), layers.Dense(4)])
    model.set_weights([np.array(kernel, np.float32), np.array(bias, np.float32)])
    return model


MODEL = dense([[1, -1, 7, -7], [0.5, 0.25, 0, 0]], (0.1, 0, 0, 0))


@pytest.fixture(scope="module")
def noisy():
    return lower(MODEL, answers=settings())


def inputs(examples: int = EXAMPLES) -> np.ndarray:
    return np.stack([np.linspace(0, 1, examples), np.linspace(1, 0, examples)], 1)


def run(lowered, x, program=None):
    deployment = Deployment(program or lowered.program, lowered.weights)
    return deployment, deployment.run(encode(x, lowered.program.input_scale))


def answers(lowered, x) -> np.ndarray:
    _, transcript = run(lowered, x)
    return decode(transcript.results[0] + transcript.results[1], lowered.program.output_scale)


def sigma_of(lowered) -> float:
    return lowered.program.ops[-1].sigma * lowered.program.output_scale


def clipped(x) -> np.ndarray:
    return np.clip(MODEL.predict(x, verbose=0), -CLIP, CLIP)


def test_both_servers_add_the_full_noise_to_the_clipped_outputs(noisy):
    x = inputs()
    errors = answers(noisy, x) - clipped(x)
    sigma = sigma_of(noisy)
    assert sigma == pytest.approx(0.02 * 2 * CLIP * 2, rel=1e-3)
    assert abs(errors.var() / (2 * sigma**2) - 1) < 6 * np.sqrt(2 / errors.size)
    assert np.abs(errors.mean(axis=0)).max() < 6 * np.sqrt(2) * sigma / np.sqrt(EXAMPLES)
    correlation = np.corrcoef(errors.T) - np.eye(4)
    assert np.abs(correlation).max() < 6 / np.sqrt(EXAMPLES)


def bare(lowered, x, salt="") -> np.ndarray:
    """What is under the noise, for encoded inputs, in steps."""
    deployment = Deployment(lowered.program, lowered.weights, salt)
    results = deployment.run(x).results
    y = results[0] + results[1]
    for party in (0, 1):
        y = y - discrete_gaussian.sample(KeyStream(deployment.noise_key(party)), lowered.program.ops[-1].sigma, y.shape)
    return y.view(np.int64)


def test_the_clip_is_exact_however_large_an_output_is(noisy):
    scale = noisy.program.output_scale
    steps = int(CLIP / scale)
    y = bare(noisy, encode(inputs(), noisy.program.input_scale))
    assert (y.min(), y.max()) == (-steps, steps)
    assert (y[-1, 2:] == [steps, -steps]).any()
    np.testing.assert_allclose(y * scale, clipped(inputs()), atol=3 * scale)


def coarse():
    """Its outputs are rounded before, so that they have few bits to drop."""
    model = keras.Sequential([layers.Input((2,)), layers.Dense(3, activation="relu"), layers.ReLU(max_value=5.0)])
    model.set_weights([np.array([[1, -1, 7], [0.5, 0.25, 0]], np.float32), np.array([0.1, 0, 0], np.float32)])
    return model


@pytest.mark.parametrize("make", [lambda: MODEL, coarse], ids=["dense", "already rounded"])
def test_no_input_gets_past_the_clip(make):
    """A client that sends anything at all: every window before is left, and what is under the noise is still in [-B', B']."""
    lowered = lower(make(), answers=settings())
    steps = int(CLIP / lowered.program.output_scale)
    anything = KeyStream(key("anything")).words((EXAMPLES, 2))
    extremes = np.array([[a, b] for a in (0, 1, 2**31, 2**62, 2**63 - 1, 2**63, 2**64 - 1) for b in (0, 2**40, 2**63)], np.uint64)
    y = np.vstack([bare(lowered, x, salt) for x, salt in ((anything, "a"), (extremes, "b"), (np.tile(extremes, (9, 1)), "c"))])
    assert (y.min(), y.max()) == (-steps, steps) if make is not coarse else (y.min() >= -steps and y.max() <= steps)
    exact = evaluate(lowered.program, lowered.weights, encode(inputs(9), lowered.program.input_scale)).view(np.int64)
    assert np.abs(bare(lowered, encode(inputs(9), lowered.program.input_scale)) - exact).max() <= 3


def test_calibrated_windows_are_clipped_as_well():
    lowered = lower(MODEL, answers=settings(), calibration=inputs(4) / 100)
    steps = int(CLIP / lowered.program.output_scale)
    y = bare(lowered, encode(inputs(), lowered.program.input_scale))
    assert -steps <= y.min() <= y.max() <= steps


def test_a_server_that_helps_the_client_still_faces_the_noise_of_the_other(noisy):
    x = inputs()
    deployment, transcript = run(noisy, x)
    y = transcript.results[0] + transcript.results[1]
    sigma = noisy.program.ops[-1].sigma
    for party in (0, 1):
        own = discrete_gaussian.sample(KeyStream(deployment.noise_key(party)), sigma, y.shape)
        rest = decode(y - own, noisy.program.output_scale) - clipped(x)
        assert abs(rest.var() / sigma_of(noisy) ** 2 - 1) < 6 * np.sqrt(2 / rest.size)


def test_each_answer_has_noise_of_its_own(noisy):
    same = np.tile(inputs(1), (EXAMPLES, 1))
    y = answers(noisy, same)
    assert abs(y.var(axis=0).mean() / (2 * sigma_of(noisy) ** 2) - 1) < 0.05
    assert abs(np.corrcoef(y[:-1, 0], y[1:, 0])[0, 1]) < 6 / np.sqrt(EXAMPLES)


def test_labels_are_those_of_the_largest_noisy_output():
    lowered = lower(dense([[0] * 4, [0] * 4], (0.5, 0.2, 0, -0.3)), answers=settings(clip=1.0, noise_multiplier=0.1))
    program = lowered.program.for_label()
    _, transcript = run(lowered, inputs(), program)
    one_hot = unpack(transcript.results[0] ^ transcript.results[1], 4)
    assert (one_hot.sum(axis=1) == 1).all()
    counted = one_hot.mean(axis=0)
    draws = np.random.default_rng(0).normal((0.5, 0.2, 0, -0.3), np.sqrt(2) * sigma_of(lowered), (200_000, 4)).argmax(axis=1)
    expected = np.bincount(draws, minlength=4) / len(draws)
    assert 0.05 < expected.min() < expected.max() < 0.9
    assert np.abs(counted - expected).max() < 6 * np.sqrt(0.25 / EXAMPLES)


def test_rounds_and_bytes(noisy):
    """A dense layer alone needs no round: all is clamp and clip; the noise is free. A label needs three more for four classes."""
    _, plain = run(lower(MODEL), inputs(8))
    _, transcript = run(noisy, inputs(8))
    believed = lower(MODEL, answers=settings(), clients="semi-honest")
    _, unclamped = run(believed, inputs(8))
    assert (plain.rounds, transcript.rounds, unclamped.rounds) == (0, 3 + 4, 4)
    (window,) = {op.window for op in noisy.program.ops if isinstance(op, Select)}
    selection = 8 * (4 + blocks_for(window).opened + 1)  # c; packed in words: the opened bits, and e
    clip, clamp = 8 * (8 * 4 + 2 * selection), 8 * 8 * (2 + 3 * 14 + 2)
    assert unclamped.sent[0, 1] == unclamped.sent[1, 0] == clip
    assert transcript.sent[0, 1] == transcript.sent[1, 0] == clip + clamp
    for lowered, rounds in ((noisy, 10), (believed, 7)):
        _, label = run(lowered, inputs(8), lowered.program.for_label())
        assert label.rounds == rounds


def test_the_sigma_follows_clip_multiplier_and_number_of_outputs():
    small, large = (lower(MODEL, answers=settings(noise_multiplier=z)) for z in (0.5, 50.0))
    assert sigma_of(large) == pytest.approx(100 * sigma_of(small), rel=1e-4)
    assert sigma_of(lower(MODEL, answers=settings(clip=1.0, noise_multiplier=0.5))) == pytest.approx(sigma_of(small) / 2, rel=1e-4)
    steps = int(CLIP / small.program.output_scale)
    assert small.program.ops[-1].sigma >= 0.5 * 2 * steps * 2


def test_an_ensemble_needs_less_noise():
    """The mean of 20 networks: one record moves one of them."""
    whole, one = (lower(MODEL, answers=settings(noise_multiplier=1.0, sensitivity=s)) for s in (None, 2 * CLIP * 2 / 20))
    steps = 2 * CLIP * 2 / 20 / one.program.output_scale
    assert one.program.ops[-1].sigma == pytest.approx(steps + 2, abs=2)
    assert one.program.ops[-1].sigma < whole.program.ops[-1].sigma / 19
    assert lower(MODEL, answers=settings(noise_multiplier=1.0, sensitivity=1e9)).program == whole.program


@pytest.mark.parametrize("multiplier", [0.02, 1.0, 1000.0, 1e6])
def test_the_window_of_the_label_holds_all_the_noise_there_can_be(multiplier):
    program = lower(MODEL, answers=settings(noise_multiplier=multiplier)).program
    steps, sigma = int(CLIP / program.output_scale), program.ops[-1].sigma
    assert program.label.drop == 0
    assert 2 * (steps + 2 * discrete_gaussian.REACH * sigma) <= 2 ** (program.label.window - 1) - 2


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"clip": 1e-4}, r"clip=0.0001 is 3 steps .* at least 64"),
        ({"clip": 1e12}, r"clip=1e\+12 is beyond"),
        ({"noise_multiplier": 1e12}, r"noise_multiplier=1e\+12 with 4 outputs"),
    ],
)
def test_noise_that_the_fixed_point_cannot_hold_is_refused(changes, complaint):
    with pytest.raises(WindowError, match=complaint):
        lower(MODEL, answers=settings(**changes))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"clip": 0}, "clip=0"),
        ({"clip": float("nan")}, "clip=nan"),
        ({"noise_multiplier": -1}, "noise_multiplier=-1"),
        ({"max_epsilon": float("inf")}, "max_epsilon=inf"),
        ({"sensitivity": 0.0}, "sensitivity=0.0"),
        ({"noise_multiplier": None}, "noise_multiplier=None"),
        ({"delta": 0}, "delta=0"),
        ({"delta": 1.0}, "delta=1.0"),
        ({"max_epsilon": 1.0}, "one answer with noise_multiplier=0.02 costs epsilon="),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        settings(**changes)


@pytest.mark.parametrize(("z", "epsilon"), [(1.0, 8.0), (2.0, 8.0), (10.0, 8.0), (100.0, 1.0)])
def test_as_many_answers_as_the_budget_allows_and_no_more(z, epsilon):
    made = settings(noise_multiplier=z, max_epsilon=epsilon)
    assert made.epsilon(made.answers) <= epsilon < made.epsilon(made.answers + 1)
    rho = made.answers / (2 * z**2)
    assert exact_epsilon(rho, 1e-5) <= made.epsilon(made.answers) <= rho + 2 * np.sqrt(rho * np.log(1e5))


def exact_epsilon(rho: float, delta: float) -> float:
    """Of one Gaussian mechanism, which the composition equals: Balle and Wang (2018), Theorem 8, by bisection."""
    from statistics import NormalDist

    mu, cdf = np.sqrt(2 * rho), NormalDist().cdf
    low, high = 0.0, 100.0
    for _ in range(100):
        middle = (low + high) / 2
        if cdf(mu / 2 - middle / mu) - np.exp(middle) * cdf(-mu / 2 - middle / mu) > delta:
            low = middle
        else:
            high = middle
    return high


def test_the_event_for_a_ledger_costs_what_the_answers_do():
    answers = NoisyAnswers(clip=1.0, noise_multiplier=4.0, max_epsilon=5.0)
    accountant = rdp.RdpAccountant().compose(answers.event())
    assert answers.event().count == answers.answers
    assert accountant.get_epsilon(1e-5) == pytest.approx(answers.epsilon(answers.answers), rel=0.02)


def test_the_guarantee_says_what_the_settings_mean():
    made = settings(noise_multiplier=2.0, max_epsilon=8.0)
    told = made.guarantee(3.5)
    assert (told.clip, told.sigma, told.answers, told.delta) == (CLIP, 3.5, 9, 1e-5)
    assert told.epsilon == made.epsilon(9) <= 8


def test_a_program_with_impossible_noise_is_refused():
    for sigma in (0, -5, 1 << 60):
        with pytest.raises(ProgramError, match=f"sigma {sigma}"):
            infer(Program((Input(), AddNoise(0, sigma)), (), (2,), 1.0, (0.0, 1.0), 1.0))


def test_the_oracle_has_no_noise(noisy):
    x = encode(inputs(5), noisy.program.input_scale)
    exact = decode(evaluate(noisy.program, noisy.weights, x), noisy.program.output_scale)
    np.testing.assert_allclose(exact, clipped(inputs(5)), atol=3 * noisy.program.output_scale)
    assert isinstance(noisy.program.label, Argmax)


class TestBudget:
    def test_each_client_has_its_own_and_examples_count(self):
        budget = Budget("small", 5)
        budget.spend("alice", 3)
        budget.spend("bob", 5)
        with pytest.raises(BudgetSpent, match=r"3 noisy answers .* 2 of 5 are left for client 'alice'"):
            budget.spend("alice", 3)
        budget.spend("alice", 2)
        assert [budget.left(client) for client in ("alice", "bob", "carol")] == [0, 0, 5]

    def test_those_without_a_certificate_are_one(self):
        budget = Budget("small", 1)
        budget.spend("", 1)
        with pytest.raises(BudgetSpent, match="0 of 1 are left for all clients without a certificate together"):
            budget.check("", 1)
