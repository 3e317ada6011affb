"""What a server checks by itself, whatever provider and clients say."""

import numpy as np
import pytest

from protocols.errors import BudgetSpent, NotServed, ProgramError, QuotaSpent, ServingError, TicketRefused, TooLarge
from protocols.mpc import inference
from protocols.mpc.operations.argmax import Argmax
from protocols.mpc.operations.noise import AddNoise
from protocols.mpc.operations.weights import Dense
from protocols.mpc.operations.wires import Input
from protocols.mpc.program import Program
from protocols.noisy_answers import Guarantee
from protocols.serving import hosting
from protocols.serving.hosting import HostedModel, Hosting, Terms, fingerprint
from protocols.serving.ticket import Ticket

PROGRAM = Program((Input(), Dense(0, 0)), ((3, 2),), (3,), 1.0, (0.0, 1.0), 1.0, Argmax(1, 0, 20))
NOISY = Program((Input(), Dense(0, 0), AddNoise(1, 3)), ((3, 2),), (3,), 1.0, (0.0, 1.0), 1.0, Argmax(2, 0, 20))


def hosted(party: int = 0, program: Program = PROGRAM, guarantee: Guarantee | None = None) -> HostedModel:
    model, weights, tickets, seal = (bytes([i]) * 16 for i in range(4))
    return HostedModel(Hosting("small", program, party, False, model, weights, tickets, seal, guarantee))


def ticket(request: bytes, reveal: str = "logits", examples: int = 1, client: str = "") -> Ticket:
    return Ticket(b"model", request, 0, reveal, b"chunk", 0, examples, client)


def test_the_quota_is_the_server_s_own():
    model = hosted()
    model.serve(Terms(2))
    for request in (b"one", b"two", b"one"):  # another part of a request counts once
        model.admit(ticket(request))
    with pytest.raises(QuotaSpent, match="as often as its owner allowed"):
        model.admit(ticket(b"three"))
    model.ended(ticket(b"two"), False)  # without an answer it does not count
    model.admit(ticket(b"three"))
    model.serve(Terms(3))
    model.admit(ticket(b"four"))
    with pytest.raises(QuotaSpent):
        model.admit(ticket(b"five"))


def test_the_budget_of_each_client_is_the_server_s_own_too():
    model = hosted(program=NOISY, guarantee=Guarantee(1.0, 3.0, 5, 8.0, 1e-5))
    model.serve(Terms(4))
    model.admit(ticket(b"one", examples=3, client="alice"), "alice")
    with pytest.raises(BudgetSpent, match=r"3 noisy answers .* 2 of 5 are left for client 'alice'"):
        model.admit(ticket(b"two", examples=3, client="alice"), "alice")
    with pytest.raises(TicketRefused, match="issued to client 'bob', and client 'alice' came"):
        model.admit(ticket(b"two", client="bob"), "alice")
    model.admit(ticket(b"two", examples=5, client="bob"), "bob")
    model.ended(ticket(b"one", examples=3, client="alice"), False)  # the quota comes back, the budget does not
    with pytest.raises(BudgetSpent):
        model.admit(ticket(b"three", examples=3, client="alice"), "alice")
    model.admit(ticket(b"three", "label", 2, "alice"), "alice")
    for request in (b"four", b"five"):
        model.admit(ticket(request, client="carol"), "carol")
    with pytest.raises(QuotaSpent):
        model.admit(ticket(b"six", client="carol"), "carol")


def test_nothing_is_answered_before_serving_nor_in_a_way_that_is_not_served():
    model = hosted()
    with pytest.raises(NotServed, match="serves \\[\\]"):
        model.admit(ticket(b"one"))
    model.serve(Terms(2, ("label",)))
    model.admit(ticket(b"one", "label"))
    with pytest.raises(NotServed, match="'logits'"):
        model.admit(ticket(b"two"))


def test_weights_must_be_there_and_fit():
    model = hosted()
    with pytest.raises(NotServed, match="has not sent its weights"):
        _ = model.weights
    with pytest.raises(ValueError, match=r"\(2, 3\).* the program has"):
        model.load([np.zeros((2, 3), np.uint64)])
    model.load([np.zeros((3, 2), np.uint64)])
    assert [w.shape for w in model.weights.share] == [(3, 2)]


def test_weights_come_once_for_two_under_one_mask_would_show_how_they_differ():
    model = hosted()
    model.load([np.zeros((3, 2), np.uint64)])
    before = model.weights
    with pytest.raises(ServingError, match="are here already: share a changed model anew"):
        model.load([np.ones((3, 2), np.uint64)])
    assert model.weights is before


def test_the_fingerprint_of_a_program_tells_it_from_others():
    others = [Program(PROGRAM.ops, ((3, 3),), (3,), 1.0, (0.0, 1.0), 1.0), Program(PROGRAM.ops, ((3, 2),), (3,), 0.5, (0.0, 1.0), 1.0)]
    assert len({fingerprint(program) for program in (PROGRAM, *others)}) == 3
    assert fingerprint(Program(*(getattr(PROGRAM, field) for field in PROGRAM.__struct_fields__))) == fingerprint(PROGRAM)


def test_dealt_randomness_must_have_the_size_of_the_program():
    model = hosted(1)
    model.load([np.zeros((3, 2), np.uint64)])
    words = inference.layout(PROGRAM).dealt
    with pytest.raises(ValueError, match=f"{words} words were dealt for 2 examples, {2 * words} are needed"):
        model.prepared("logits", bytes(16), 2, np.zeros(words, np.uint64))
    given = np.zeros(2 * words, np.uint64)
    given.flags.writeable = False
    assert model.prepared("logits", bytes(16), 2, given).examples == 2


@pytest.mark.parametrize("m", [np.zeros((2, 3), np.uint64), np.zeros((1, 4), np.uint64), np.zeros((1, 3), np.int64), np.zeros((1, 3))])
def test_masked_examples_must_fit_the_ticket(m):
    with pytest.raises(ValueError, match=r"the ticket is for \(1, 3\) uint64"):
        hosted().check_input(ticket(b"one"), m)


def test_programs_are_checked_before_anything_is_allocated(monkeypatch):
    with pytest.raises(ProgramError, match="does not fit a weight"):
        hosted(0, Program((Input(), Dense(0, 0)), ((4, 2),), (3,), 1.0, (0.0, 1.0), 1.0))
    with pytest.raises(ProgramError, match="is not possible"):
        hosted(0, Program((Input(), Dense(0, 0)), ((1, 1 << 40),), (1,), 1.0, (0.0, 1.0), 1.0))
    monkeypatch.setattr(hosting, "MODEL_LIMIT", 40)
    with pytest.raises(TooLarge, match="MiB of shared weights"):
        hosted()


def test_secrets_stay_out_of_reprs():
    model = hosted()
    model.load([np.full((3, 2), 123456789, np.uint64)])
    assert "123456789" not in repr(model.weights) + repr(model.hosting) + repr(model)
    assert "\\x01" not in repr(model.hosting)
