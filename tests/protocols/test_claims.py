"""What one party says of a shared model is checked by each party that is told it, and refused by name."""

import msgspec
import numpy as np
import pytest

from protocols.errors import ProgramError, ProtocolError, ServingError
from protocols.mpc.operations.argmax import Argmax
from protocols.mpc.operations.noise import AddNoise
from protocols.mpc.operations.weights import Dense
from protocols.mpc.operations.wires import AsShare, Input
from protocols.mpc.program import Program, infer
from protocols.noisy_answers import Guarantee
from protocols.serving.claims import check_described, check_granted, check_guarantee, check_share
from protocols.serving.hosting import HostedModel, Hosting, Terms
from protocols.serving.ticket import Ticket

PROGRAM = Program((Input(), Dense(0, 0)), ((3, 2),), (3,), 2.0**-16, (0.0, 1.0), 2.0**-36, Argmax(1, 0, 20))
NOISY = Program((Input(), Dense(0, 0), AddNoise(1, 4)), ((3, 2),), (3,), 1.0, (0.0, 1.0), 0.5)
PROMISE = Guarantee(1.0, 2.0, 5, 8.0, 1e-5)
MODEL = bytes(16)


def hosted(program, guarantee=None):
    return HostedModel(Hosting("small", program, 0, False, MODEL, b"w" * 16, b"t" * 16, b"s" * 16, guarantee))


def described(program, guarantee=None, *, model=MODEL, name="small"):
    check_described(program, guarantee, model, name=name, wanted="small")


NUMBERS = [
    ("input_scale", 1e300),
    ("input_scale", float("nan")),
    ("input_scale", float("inf")),
    ("input_scale", 0.0),
    ("input_scale", -1.0),
    ("input_scale", 1e-300),
    ("input_scale", 2.0**30),
    ("input_scale", 2.0**-70),
    ("output_scale", 1e300),
    ("output_scale", float("nan")),
    ("output_scale", 0.0),
    ("output_scale", -(2.0**-36)),
    ("output_scale", 5e-324),
    ("input_range", (0.0, float("nan"))),
    ("input_range", (float("-inf"), 1.0)),
    ("input_range", (1.0, 0.0)),
    ("input_range", (0.0, 1e300)),
    ("input_range", (0.0, 0.0)),
    ("input_shape", (-3,)),
    ("input_shape", (0,)),
    ("input_shape", (1,) * 40),
    ("answer", (-1, -1)),
    ("answer", (7,)),
    ("label", Argmax(9, 0, 20)),
    ("label", Argmax(9, 0, 20)),
    ("label", Argmax(1, 0, 90)),
    ("label", Argmax(-1, 0, 20)),
]


@pytest.mark.parametrize("told", [described, hosted, infer], ids=["client", "server", "provider"])
@pytest.mark.parametrize(("name", "value"), NUMBERS, ids=str)
def test_numbers_of_a_program_are_checked_by_whoever_is_told_them(name, value, told):
    told(PROGRAM)
    with pytest.raises(ProgramError):
        told(msgspec.structs.replace(PROGRAM, **{name: value}))


def test_a_label_has_as_many_classes_as_the_answer():
    ops = (*PROGRAM.ops, Dense(0, 1))
    with pytest.raises(ProgramError, match=r"a label of operation 1 does not fit an answer of shape \(4,\)"):
        described(msgspec.structs.replace(PROGRAM, ops=ops, weights=((3, 2), (3, 4))))


@pytest.mark.parametrize("told", [described, hosted, check_guarantee], ids=["client", "server", "provider"])
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"clip": float("nan")}, "clip=nan"),
        ({"clip": -1.0}, "clip=-1"),
        ({"sigma": float("inf")}, "sigma=inf"),
        ({"sigma": 1.5}, r"sigma=1\.5 is promised, and the program adds noise of 2"),
        ({"answers": 0}, "0 answers"),
        ({"answers": -5}, "-5 answers"),
        ({"answers": 1 << 60}, "answers"),
        ({"epsilon": float("nan")}, "epsilon=nan"),
        ({"epsilon": 0.0}, "epsilon=0"),
        ({"delta": 1.0}, r"delta=1\.0"),
    ],
    ids=str,
)
def test_a_promise_about_noise_is_that_of_the_program(changes, why, told):
    told(NOISY, PROMISE)
    with pytest.raises(ProgramError, match=why):
        told(NOISY, msgspec.structs.replace(PROMISE, **changes))


def test_noise_and_its_promise_come_together():
    with pytest.raises(ProgramError, match="the program adds no noise"):
        check_guarantee(PROGRAM, PROMISE)
    with pytest.raises(ProgramError, match="nothing says how many answers"):
        check_guarantee(NOISY, None)


@pytest.mark.parametrize(("model", "name"), [(b"", "small"), (b"x" * 17, "small"), (MODEL, "other")])
def test_another_model_is_refused(model, name):
    with pytest.raises(ProtocolError, match="describe another one"):
        described(PROGRAM, model=model, name=name)


@pytest.mark.parametrize(
    "terms",
    [Terms(-1), Terms(1 << 63), Terms(5, examples=-2), Terms(5, ()), Terms(5, ("label", "label")), Terms(5, ("label",))],
    ids=str,
)
def test_what_an_owner_allows_is_checked(terms):
    model = hosted(msgspec.structs.replace(PROGRAM, label=None))
    with pytest.raises(ServingError, match="were allowed"):
        model.serve(terms)
    assert model.reveal == ()


def granted(mask=None, **changes):
    ticket = msgspec.structs.replace(Ticket(MODEL, b"request", 0, "logits", b"chunk", 2, 5), **changes)
    mask = np.zeros((3, 3), np.uint64) if mask is None else mask
    check_granted(ticket, mask, model=MODEL, reveal="logits", most=4, input_shape=(3,))


@pytest.mark.parametrize(
    "changes",
    [
        {"mask": np.zeros((1, 3), np.uint64)},
        {"mask": np.zeros((3, 1), np.uint64)},
        {"mask": np.zeros((3, 3))},
        {"stop": 2},
        {"stop": 1},
        {"stop": 7},
        {"reveal": "label"},
        {"model": b"another"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_client_checks_tickets_and_masks(changes):
    granted()
    with pytest.raises(ProtocolError, match="the crypto provider is faulty"):
        granted(**changes)


@pytest.mark.parametrize(("reveal", "words"), [("logits", 2), ("label", 1)])
def test_a_client_checks_the_shares_of_its_answers(reveal, words):
    check_share(np.zeros((4, words), np.uint64), PROGRAM, 4, reveal)
    for share in (np.zeros((1, words), np.uint64), np.zeros((4, words + 1), np.uint64), np.zeros((4, words)), np.zeros(4, np.uint64)):
        with pytest.raises(ProtocolError, match="a server is faulty"):
            check_share(share, PROGRAM, 4, reveal)


def test_a_range_of_half_a_step_is_the_coarsest():
    infer(Program((Input(), AsShare(0)), (), (3,), 2.0, (0.0, 1.0), 1.0))
    with pytest.raises(ProgramError, match="a range has from half a step"):
        infer(Program((Input(), AsShare(0)), (), (3,), 4.0, (0.0, 1.0), 1.0))
