"""Sums for generalised linear models with a logarithmic link: what a step of Newton's method needs, for weights that stay secret.

The owner of the run has placed k and c. With z = x k + c and r = e^z for each example, the weighted products of (x, 1) with itself are
told, with the weights v = r (Poisson) or v = y r (gamma), times those of the examples; and for how many examples z is above 0, where r is
not e^z: then the owner asks again with a smaller c. Below -`FLOOR` e^-FLOOR is taken.

Numbers are bounded by what is public: |x| < 2^reach, y < 2^top, r <= 1; so sums cannot wrap around with `digits` fractional bits of v x.
r is within 4e-6, and within 0.1 % of itself where it is above 1e-3.

**Leaks** nothing to the servers but shapes. To the owner of the run what is told.
"""

from __future__ import annotations

from protocols.mpc.circuit import Builder, Circuit
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations.bilinear import MatMul
from protocols.mpc.operations.moves import Concatenate, Take
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine, Sum
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Given, Open
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.losses import Loss
from protocols.training.networks.step_plan import StepPlan
from protocols.training.regression.exponential import EXPONENT, FLOOR, POWER, exp

KERNEL = 24
"""Fractional bits of k, c and z."""

FAR = 20
"""z lies within +-2^FAR: whoever places k and c takes care of that."""


class LogLinear(StepPlan, frozen=True):
    """One pass over the examples. What is outside is told as `above`.

    Attributes:
        inputs: columns of x.
        examples: n.
        gamma: whether v = y r, or r.
        reach: |x| < 2^reach.
        top: y < 2^top, of gamma.
        weighted: whether there are weights of examples, a wire with values from 0 to 1.
    """

    inputs: int
    examples: int
    gamma: bool
    reach: int
    top: int
    weighted: bool = False

    @property
    def outputs(self) -> int:
        """One target."""
        return 1

    @property
    def loss(self) -> Loss:
        """How `TrainingTerms` reads y."""
        return "mse"

    @property
    def digits(self) -> int:
        """Fractional bits of v x."""
        return min(KERNEL, 61 - FRACTION - 2 * self.reach - (self.top if self.gamma else 0) - self.examples.bit_length())

    @property
    def shapes(self) -> dict[str, Shape]:
        """What is placed."""
        return {"kernel": (self.inputs, 1), "bias": (1, 1)}

    def circuit(self, batch: int, number: int = 0) -> Circuit:
        """Return the circuit of sums over some examples: `above` (1,), `gram` (inputs + 1, inputs + 1) with `FRACTION` + `digits` bits.

        Rounds: about 22.
        """
        build = Builder()
        values = {name: build(Given(name, shape, "share")) for name, shape in (self.shapes | self.states).items()}
        x = build(Given("x", (batch, self.inputs), "wire"))
        product = build(Combine((build(MatMul(x, build(Open(values["kernel"])))), values["bias"]), (1, 1 << FRACTION)))
        z = build(Truncate(product, FRACTION, 63 - FRACTION))
        above = build(Sum(build(Sign(build(Truncate(build(Combine((z,), (2,), -2)), 1, 62))))))
        drop, edge = KERNEL - EXPONENT, FLOOR << EXPONENT
        t = build(Piecewise(z, drop, KERNEL + FAR + 3 - drop, (-edge, 0), (0, 1, 0), (-edge, 0, 0)))
        v, bits = exp(build, t), POWER
        if self.gamma:
            y = build(Given("y", (batch, 1), "wire"))
            v = build(Truncate(build(Multiply(v, y)), POWER + FRACTION - KERNEL, 63 - POWER - FRACTION + KERNEL))
            bits = KERNEL
        if self.weighted:
            v = build(Truncate(build(Multiply(v, build(Given("w", (batch, 1), "wire")))), FRACTION, 63 - FRACTION))
        one = build(Combine((build(Take(x, 1, (0,))),), (0,), 1 << FRACTION))
        both = build(Concatenate((x, one), 1))
        drop = bits + FRACTION - self.digits
        left = build(Open(build(Truncate(build(Multiply(v, both)), drop, 63 - drop))))
        return build.circuit(values | {"above": above, "gram": build(MatMul(left, both, transpose_x=True))})
