"""A fit of an estimator in the simulator: in the place of `protocols.estimators.run.Run`, without workers."""

from __future__ import annotations

import numpy as np
from training_deployment import Trainers

from protocols.datasets.dataset import SharedDataset
from protocols.errors import Diverged
from protocols.mpc.numbers.fixed_point import decode
from protocols.owner.stored import described, encoded
from protocols.training.regression.logistic import WEIGHT_BITS
from protocols.training.terms import TrainingTerms, check
from protocols.training.trees import Binning

HELD: dict[bytes, np.ndarray] = {}


def stored(name, array, classes=None):
    """What `Cluster.store` makes of an array."""
    values, content = encoded(name, np.asarray(array), classes)
    handle = f"{name}{len(HELD)}".encode()
    HELD[handle] = values
    return SharedDataset(described(name, values, content, handle=handle), b"")


class SimulatedRun:
    """What `Run` does, both servers in this process."""

    def __init__(self, cluster, name):
        self._steps = 0

    async def __aenter__(self):
        return self

    async def __aexit__(self, kind, error, trace):
        return None

    async def store(self, name, array, *, classes=None):
        return stored(name, array, classes)

    def _epoch(self, plan, data, batch, epoch, values, *, summed=()):
        x, y, *weights = [array.dataset for array in data]
        terms = TrainingTerms(b"run", plan, x, y, batch, None, 1 << 30, False, "model", w=weights[0] if weights else None)
        check(terms)
        arrays = {name: HELD[dataset.handle] for name, dataset in terms.datasets.items()}
        sums = {}
        circuits = {}
        for rows in terms.rows(epoch):
            given = {name: terms.targets(array[rows]) if name == "y" else array[rows] for name, array in arrays.items()}
            circuit = plan.circuit(len(rows), self._steps) if plan.changing else circuits.setdefault(len(rows), plan.circuit(len(rows)))
            values = Trainers(circuit, str(self._steps)).outputs({**values, **given})
            self._steps += 1
            for name in summed:
                sums[name] = sums.get(name, np.uint64(0)) + values.pop(name)
        if values["outside"].any():
            raise Diverged(1)
        return values, sums

    async def moments(self, plan, data, batch):
        self._steps = 0
        return self._epoch(plan, data, batch, 0, {}, summed=plan.asks)[1]

    async def minimised(self, plan, data, batch):
        self._steps = 0
        values = {name: np.zeros(shape, np.uint64) for name, shape in (plan.shapes | plan.states).items()}
        made, epoch, steep = 0, 0, True
        while steep and made < plan.iterations:
            values, _ = self._epoch(plan, data, batch, epoch, values)
            steep = bool(values["steep"].any())
            made, epoch = made + plan.repeats(epoch), epoch + 1
        return [decode(values[name], 2.0**-WEIGHT_BITS) for name in plan.shapes], made, not steep

    async def opened(self, plan, data, placed, told, batch):
        self._steps = 0
        return self._epoch(plan, data, batch, 0, placed, summed=told)[1]

    async def grown(self, plan, data, placed, compared, memory):
        self._steps = 0
        values = {name: np.zeros(shape, np.uint64) for name, shape in (plan.shapes | plan.states).items()} | placed
        if compared is not None:
            values, _ = self._epoch(Binning(plan), data, compared, 0, values)
        values, _ = self._epoch(plan, data, plan.examples, 0, values)
        return {name: values[name] for name in plan.shapes}
