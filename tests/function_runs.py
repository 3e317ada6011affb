"""One function of private values as a program of its own, run in the simulator."""

from deployment import Deployment
from protocols.lowering.nodes import network as net
from protocols.lowering.scales import functions, products
from protocols.lowering.scales.emission import Writer
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.program import Program


def measured(function, x, input_range, samples=None, margin=1.0):
    """What `function(writer, node, value)` makes of examples x, the transcript, the program, and the report of its windows."""
    writer = Writer(x.shape[1:], input_range, samples, margin)
    node = net.Start(layer="tested", kind="Function", inputs=(), shape=x.shape[1:])
    y = writer.share(function(writer, node, writer.input))
    assert y.position == len(writer.ops) - 1
    program = Program(tuple(writer.ops), (), x.shape[1:], writer.input.scale, input_range, y.scale)
    transcript = Deployment(program, []).run(encode(x, program.input_scale))
    values = decode(transcript.results[0] + transcript.results[1], y.scale).reshape(len(x), *y.shape)
    low, high = y.range.low * y.scale, y.range.high * y.scale
    assert ((low <= values) & (values <= high)).all()  # the proof holds
    return values, transcript, program, writer.layers


def halves(w, v):
    n = v.shape[0] // 2
    return w.taken(0, range(n), v), w.taken(0, range(n, 2 * n), v)


def quotient(w, node, x, y):
    """What `ops.divide` of two private values is written as."""
    return products.product(w, node, x, functions.reciprocal(w, node, y))


def difference(w, node, v):
    return w.added(node, *halves(w, v), -1)
