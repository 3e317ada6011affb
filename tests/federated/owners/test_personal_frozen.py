"""What owners keep of their own is not what nobody changes: frozen weights stay the aggregator's, and have any form."""

import keras
import numpy as np
import pytest

from federated import Ditto, Federation, PersonalLayers, simulated_owners
from federated.models import blueprint
from federated.models.weights import moving
from federated.owners.training import Trainer
from federated.records.data import Data
from federated.tasks.update import LocalTraining, Task

RNG = np.random.default_rng(0)
WIDTH = 6
X, Y = RNG.normal(size=(24, WIDTH)).astype(np.float32), np.arange(24) % 2
PARTS = [(X[i::2], Y[i::2]) for i in range(2)]


def personal(alone, scale=1.0):
    """A head, or behind frozen layers (with integers and numbers without dimensions) that give it what it gets alone."""

    def build():
        keras.utils.set_random_seed(2)
        head = keras.layers.Dense(2, name="head")
        fixed = [] if alone else [normalization(), keras.layers.Dense(8, use_bias=False, trainable=False, name="fixed")]
        model = keras.Sequential([keras.Input((8 if alone else WIDTH,)), *fixed, head])
        if not alone:
            model.get_layer("fixed").set_weights([scale * KERNEL])
        head.set_weights([HEAD, np.zeros(2)])
        model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    return build


def normalization():
    layer = keras.layers.Normalization()
    layer.adapt(X)
    return layer


KERNEL, HEAD = (RNG.normal(size=shape).astype(np.float32) for shape in ((WIDTH, 8), (8, 2)))


@pytest.mark.long
async def test_personal_models_behind_frozen_layers_are_those_of_what_these_give():
    frozen = keras.Sequential([keras.Input((WIDTH,)), normalization(), keras.layers.Dense(8, use_bias=False)])
    frozen.layers[-1].set_weights([KERNEL])
    found = []
    for build, parts in [(personal(False), PARTS), (personal(True), [(frozen.predict(x, verbose=0), y) for x, y in PARTS])]:
        owners = simulated_owners(parts, evaluation=parts)
        async with Federation(model=build, owners=owners, strategy=Ditto(local_epochs=2), progress=False) as federation:
            outcomes = [outcome async for outcome in federation.rounds(2)]
        assert all(len(one.reported) == 2 for one in outcomes)
        found.append([one.metrics for one in outcomes])
    for here, there in zip(*found, strict=True):
        assert here == pytest.approx(there, rel=1e-4)


async def test_layers_of_owners_own_may_have_integers():
    strategy = PersonalLayers(layers=("head", "Normalization"))
    async with Federation(model=personal(False), owners=simulated_owners(PARTS), strategy=strategy, progress=False) as federation:
        assert [len(outcome.reported) async for outcome in federation.rounds(2)] == [2, 2]


async def test_a_personal_model_follows_frozen_weights_that_are_changed():
    state, kept = {}, []
    for scale in (1.0, 2.0):
        model = personal(False, scale)()
        task = Task(1, blueprint.draw(model), model.get_weights(), LocalTraining(method="ditto"), sent=moving(model), config={"near": 0.1})
        trainer, data = Trainer(), Data(PARTS[0])
        await trainer.train(task, data, evaluates=True, state=state)
        assert [array.shape for array in state["model"]] == [(8, 2), (2,)], "and a backbone is not kept once more"
        model.get_layer("head").set_weights(state["model"])
        kept.append((await trainer.evaluate(task, data, state=state)).metrics["loss"])
        assert kept[-1] == pytest.approx(model.evaluate(*PARTS[0], verbose=0), rel=1e-5)
        await trainer.close()
