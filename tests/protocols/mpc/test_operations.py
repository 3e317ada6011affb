"""Operations that say all about themselves: what is missing is found at once, and what each means is what its protocol gives."""

import contextlib

import msgspec
import numpy as np
import pytest
from training_deployment import Trainers

from deployment import Deployment, key, random_ring
from protocols.errors import ProgramError
from protocols.mpc import operations
from protocols.mpc.circuit import Builder, Circuit, meaning
from protocols.mpc.engine import loops
from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.sides import Clear, Scope, Server
from protocols.mpc.engine.tape import Tape
from protocols.mpc.engine.values import Affine, Value
from protocols.mpc.inference import layout
from protocols.mpc.operations.argmax import Argmax, OneHotArgmax
from protocols.mpc.operations.bilinear import Bilinear, Convolve, InputGradient, KernelGradient, MatMul
from protocols.mpc.operations.clamp import ClampedInput
from protocols.mpc.operations.drawn import Drawn
from protocols.mpc.operations.flat import Piece, Row
from protocols.mpc.operations.local import Local, Move
from protocols.mpc.operations.moves import Concatenate, Pad, Permute, Put, Reshape, Take
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.noise import AddNoise
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Project, Scale, Sum, SumPool
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.weights import Conv2D, Dense, Shift
from protocols.mpc.operations.wires import AsShare, Given, Input, Open
from protocols.mpc.parties.material import Field
from protocols.mpc.plaintext import evaluate
from protocols.mpc.program import Program, infer
from protocols.training.networks.random import tables


class AtLeast(Local, frozen=True):
    """An operation of an exercise: x - threshold, to be compared. All that the engine needs to know is here."""

    x: int
    threshold: int

    def gradient(self, tape, at, gradient, side):
        return gradient

    def value(self, scope: Scope) -> Value:
        value = scope.operand(self.x)
        return Value(
            value.shape, value.kind if value.kind == "wire" else "share", value.batched, value.parts if value.kind == "wire" else ()
        )

    def apply(self, xs, value, *, constant):
        return xs[0] - np.uint64(self.threshold % 2**64) if constant else xs[0]


X, Y = Given("x", (6, 4), "wire"), Given("y", (4, 5), "wire")
IMAGE, KERNEL, BACK = Given("image", (2, 6, 5, 3), "wire"), Given("kernel", (3, 2, 3, 4), "wire"), Given("back", (2, 3, 2, 4), "wire")
ONE = (IMAGE, Take(0, 0, (1,)), Reshape(1, (6, 5, 3)))
SHARE = (X, Truncate(0, 6, 30), AsShare(1))
STEP = {"strides": (2, 2), "padding": ((1, 0), (0, 0))}


def circuit(*ops):
    build = Builder()
    for op in ops:
        build(op)
    return build.circuit({"out": len(ops) - 1})


CIRCUITS = {
    "Open": (X, AsShare(0), Open(1)),
    "Truncate": (X, Truncate(0, 6, 30)),
    "Select": (X, Select(0, 6, 30, 3, -2, 5)),
    "Piecewise": (X, Piecewise(0, 6, 30, (-20, 40), (1, -2, 3), (0, 5, 7))),
    "Sign of a wire": (X, Sign(0, 30)),
    "Sign of a wire without its low bits": (X, Sign(0, 10, drop=6)),
    "Sign of a wire without its low bits, strict": (X, Combine((0,), (1,), -(1 << 6)), Sign(1, 10, True, 6)),
    "Row of wires": (X, Y, Row((0, 1, 0)), Truncate(2, 6, 30)),
    "Row of a wire and a share": (X, Y, Truncate(1, 6, 30), Row((2, 0))),
    "Piece of a wire": (X, Row((0,)), Piece(1, 3, (2, 5)), Multiply(2, 2)),
    "Piece of a truncation": (X, Row((0,)), Truncate(1, 6, 30), Piece(2, 4, (5, 3)), Multiply(3, 3)),
    "Sign of a truncation, strict": (X, Truncate(0, 6, 30), Sign(1, None, True)),
    "Largest": (X, OneHotArgmax(0, 30)),
    "Multiply wires": (X, Multiply(0, 0)),
    "Multiply a row": (X, Take(0, 0, (2,)), Multiply(0, 1)),
    "Multiply truncations": (X, Truncate(0, 6, 30), Truncate(0, 3, 30), Multiply(1, 2)),
    "Multiply a truncation by itself": (X, Truncate(0, 6, 30), Multiply(1, 1)),
    "Multiply a sign and a wire": (X, Sign(0, 30), Multiply(1, 0)),
    "Multiply what has moved": (X, Truncate(0, 6, 30), Permute(1, (1, 0)), Reshape(2, (6, 4)), Take(3, 1, (3, 0, 0, 1)), Multiply(4, 1)),
    "Multiply what is padded": (*ONE, Truncate(2, 6, 30), Pad(3, ((1, 0), (0, 2))), Multiply(4, 4)),
    "MatMul": (X, Y, MatMul(0, 1)),
    "MatMul, turned": (X, MatMul(0, 0, True, False), MatMul(0, 0, False, True), Sum(1), Sum(2), Combine((3, 4), (1, -3), 9)),
    "Convolve": (IMAGE, KERNEL, Convolve(0, 1, **STEP)),
    "KernelGradient": (IMAGE, BACK, KernelGradient(0, 1, (3, 2), **STEP)),
    "InputGradient": (BACK, KERNEL, InputGradient(0, 1, (6, 5), **STEP)),
    "moves of a share": (*SHARE, Permute(2, (1, 0)), Reshape(3, (3, 8)), Take(4, 0, (0, 2)), Put((5, 5), 1, ((0,) * 8, (1,) * 8), 3)),
    "moves of a wire": (X, Put((0,), 0, ((1, 1, 0, 3, 4, 5),), 7), Concatenate((0, 1), 0), Sum(2, 1, False)),
    "sums": (X, Scale(0, (1, -2, 3, 4), (4,)), Combine((0, 1), (3, -1), -7), Project(2, 3, 8), Sum(3, 0)),
    "a wire and a share": (X, Truncate(0, 6, 30), Combine((0, 1), (1, 64)), Concatenate((0, 2), 1)),
    "Drawn": (X, Truncate(0, 6, 30), Drawn(1, "a", (6, 1), 1 << 15), Drawn(2, "b", (6, 4), 0, 64, 3)),
    "Drawn and added": (X, Drawn(0, "c", (6, 4), 0, 9, 0, True), Combine((0, 1), (1, 2))),
    "an operation of an exercise": (X, AtLeast(0, 100), Sign(1, 30)),
    "the same on a share": (X, Truncate(0, 2, 30), AtLeast(1, 100), Truncate(2, 2, 28), Sign(3)),
}


@pytest.mark.parametrize("name", CIRCUITS)
def test_what_an_operation_means_is_what_its_protocol_gives(name):
    """But for rounding: each truncation may be one off, so that its low bits are zero here, and so are those of what is made of it."""
    made = circuit(*CIRCUITS[name])
    given = {op.name: random_ring(op.shape, 300, op.name) * np.uint64(1 << 6) for op in made.ops if isinstance(op, Given)}
    clear = meaning(made, given | tables(made, key("drawn")), lambda shape: np.zeros(shape, np.uint64))
    found = Trainers(made).outputs(given)["out"]
    np.testing.assert_array_equal(found.reshape(clear["out"].shape), clear["out"])


@pytest.mark.parametrize("name", CIRCUITS)
def test_a_circuit_that_differs_in_anything_that_is_public_has_another_fingerprint(name):
    made, changed = circuit(*CIRCUITS[name]), {bool: lambda one: not one, int: lambda one: one + 1, str: "{}x".format}
    others = [Circuit(made.ops, made.values, made.outputs, {"kept": 0}), Circuit(made.ops, made.values, {"other": made.outputs["out"]})]
    for at, op in enumerate(made.ops):
        for field in op.__struct_fields__:
            value = getattr(op, field)
            other = (*value, 1) if isinstance(value, tuple) else 7 if value is None else changed[type(value)](value)
            with contextlib.suppress(ProgramError):  # what checks itself when it is made
                ops = (*made.ops[:at], msgspec.structs.replace(op, **{field: other}), *made.ops[at + 1 :])
                others.append(Circuit(ops, made.values, made.outputs))
    assert len({made.fingerprint, *(one.fingerprint for one in others)}) == 1 + len(others)


@pytest.mark.parametrize("name", CIRCUITS)
def test_what_an_operation_costs_is_what_the_simulator_counts(name):
    made = circuit(*CIRCUITS[name])
    run = Trainers(made).run({op.name: np.zeros(op.shape, np.uint64) for op in made.ops if isinstance(op, Given)})
    assert run.sent.get((0, 1), 0) == run.sent.get((1, 0), 0)
    assert loops.costs(made.ops, made.values) == (run.rounds, run.sent.get((0, 1), 0), 8 * made.layout.dealt)


PROGRAMS = {
    "Input, Dense": ((Input(), Dense(0, 0, 1)), [(3, 7), (7,)], (5, 3)),
    "ClampedInput": ((ClampedInput(-9, 9), AsShare(0)), [], (70,)),
    "Conv2D, Select": ((Input(), Conv2D(0, 0, None), Select(1, 3, 9, 1, 0, 0)), [(2, 2, 3, 4)], (4, 5, 3)),
    "SumPool, Shift": ((Input(), SumPool(0, (2, 2), (2, 2)), Shift(1, 0), Truncate(2, 1, 20)), [(2, 2, 3)], (4, 5, 3)),
    "Piecewise": ((Input(), Piecewise(0, 3, 25, (-5, 9), (1, 2, 3), (0, 1, 2))), [], (67,)),
    "AddNoise": ((Input(), AddNoise(0, 3)), [], (3,)),
    "Argmax": ((Input(), Truncate(0, 2, 30), AsShare(1), Argmax(2, 0, 20)), [], (9,)),
    "two that wait for none of each other": (
        (Input(), Truncate(0, 2, 20), Piecewise(0, 3, 25, (5,), (1, 2), (0, 1)), Combine((1, 2), (1, 1))),
        [],
        (3,),
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("examples", [1, 3])
def test_what_a_program_costs_is_what_the_simulator_counts(name, examples):
    ops, weights, shape = PROGRAMS[name]
    program = Program(ops, tuple(weights), shape, 1.0, (-9.0, 9.0), 1.0)
    run = Deployment(program, [random_ring(one, 3, "w") for one in weights]).run(random_ring((examples, *shape), 9, "x"))
    dealt = 8 * layout(program).words(examples, dealt=True)
    assert loops.costs(ops, infer(program), examples) == (run.rounds, run.sent.get((0, 1), 0), dealt)


def test_each_operation_is_run_by_a_circuit_or_a_program_here():
    """What those for single examples of a client mean is in `test_inference.py`, `test_clamp.py` and `test_noisy_answers.py`."""
    tested = {type(op) for ops in CIRCUITS.values() for op in ops}
    others = {type(op).__name__ for ops, _, _ in PROGRAMS.values() for op in ops} - {one.__name__ for one in tested}
    assert {one.__name__ for one in operations.AnyOp.__args__} == {one.__name__ for one in tested - {AtLeast}} | others


def test_a_rule_that_is_missing_is_found_when_the_class_is_made():
    with pytest.raises(
        TypeError, match="the operation Silent has no rule value and no rule meaning and no rule run or protocol and no rule gradient"
    ):
        type("Silent", (Operation,), {"__module__": __name__}, frozen=True)

    class Known(Operation, frozen=True):
        abstract = True

        flat = True

        def value(self, scope: Scope) -> Value:
            return scope.operand(0)

    with pytest.raises(TypeError, match="the operation Half has no rule meaning and no rule run or protocol"):
        type("Half", (Known,), {"__module__": __name__}, frozen=True)

    class Whole(Known, frozen=True):
        def run(self, server: Server, at: int) -> Affine:
            return server.affine(0)

        def meaning(self, clear: Clear, at: int) -> np.ndarray:
            return clear[0]

    with pytest.raises(TypeError, match="the operation Spoken has no rule sends and no rule fields"):

        class Spoken(Whole, frozen=True):
            async def protocol(self, server: Server, at: int) -> Affine:
                return server.affine(0)

    with pytest.raises(TypeError, match="the operation Both has no rule gradient"):

        class Both(Whole, frozen=True):
            def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
                return gradient

    with pytest.raises(TypeError, match="the operation Needy has no rule deal or mask"):

        class Needy(Whole, frozen=True):
            def fields(self, value: Value, xs: list, columns: int) -> list[Field]:
                return [Field("r", columns)]

    assert not Whole.abstract
    assert Move.abstract


@pytest.mark.parametrize(("shared", "rules"), [(Local, "apply"), (Move, "move"), (Bilinear, "product and no rule transposed")])
def test_what_several_operations_leave_to_each_of_them_is_found_when_it_is_missing(shared, rules):
    def value(self, scope: Scope) -> Value:
        return scope.operand(0)

    with pytest.raises(TypeError, match=f"the operation Silent has no rule {rules}"):
        type("Silent", (shared,), {"__module__": __name__, "value": value, "flat": True, "ungraded": ""}, frozen=True)


def test_programs_for_clients_take_nothing_by_name_and_circuits_nothing_from_clients():
    with pytest.raises(ProgramError, match="first operation, and only that"):
        Builder()(Input())
    with pytest.raises(ProgramError, match=r"operation 1 \(MatMul\): operand 0 is a share, a wire is needed"):
        circuit(Given("s", (2, 2), "share"), MatMul(0, 0))


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ((X, Sign(0, 24, drop=40)), "a window of 2 to 63 bits, dropped ones included"),
        ((X, Sign(0, 24, drop=-1)), "a window of 2 to 63 bits, dropped ones included"),
        ((X, Truncate(0, 6, 30), Sign(1, drop=2)), "a truncation has its window already"),
        ((X, Row(())), "a row is made of at least one value"),
        ((X, Piece(0, 0, (4,))), r"there are no 4 elements from number 0 on in a value of shape \(6, 4\)"),
        ((X, Row((0,)), Piece(1, 21, (2, 2))), "there are no 4 elements from number 21 on"),
        ((X, Row((0,)), Piece(1, -1, (2, 2))), "there are no 4 elements from number -1 on"),
    ],
)
def test_settings_that_do_not_fit_are_refused(ops, message):
    with pytest.raises(ProgramError, match=message):
        circuit(*ops)


def test_a_sign_without_low_bits_opens_nothing_for_itself():
    """Beside a truncation of its own that saves a round and 8 bytes an element: what is sent are bits, 2 (B - 1) + 1 of each element."""
    made = {
        name: Trainers(circuit(*ops))
        for name, ops in {"of a wire": (X, Sign(0, 10, drop=6)), "of a truncation": (X, Truncate(0, 6, 10), Sign(1))}.items()
    }
    runs = {name: one.run({"x": random_ring(X.shape, 200, "x")}) for name, one in made.items()}
    assert (runs["of a wire"].rounds, runs["of a truncation"].rounds) == (2, 3)
    assert runs["of a truncation"].sent[0, 1] - runs["of a wire"].sent[0, 1] == 8 * 24


def test_values_are_freed_as_soon_as_nothing_needs_them():
    """A long chain holds one value at a time, at a server and in the clear."""
    ops = [Input()]
    for _ in range(6):
        ops += [Truncate(len(ops) - 1, 1, 40), Multiply(len(ops), len(ops)), Open(len(ops) + 1)]
    program = Program((*ops, Truncate(len(ops) - 1, 1, 40)), (), (5,), 1.0, (0.0, 1.0), 1.0)
    seen = []

    class Watched(dict):
        def __setitem__(self, key, value):
            super().__setitem__(key, value)
            seen.append(len(self))

    from protocols.mpc.engine import sides

    made = sides.Server.__init__

    def watched(self, *args, **kwargs):
        made(self, *args, **kwargs)
        self.results = Watched()

    x = random_ring((3, 5), 2, "x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sides.Server, "__init__", watched)
        output = Deployment(program, []).output(x)
    assert max(seen) <= 2
    assert np.abs((output - evaluate(program, [], x).reshape(output.shape)).view(np.int64)).max() <= 40
