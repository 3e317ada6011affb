"""What an owner of kept data allows holds at each worker by itself, whatever the one who trains says, and whatever the other two do."""

import keras
import numpy as np
import pytest

from certified import configured, running
from inner_workers import inner_workers
from protocols import Use, share
from protocols.errors import NotGranted

ROWS = 12


def network():
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2, kernel_initializer="zeros")], name="net")
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


async def trained(shared, x, y, **settings):
    return [epoch async for epoch in shared.fit(x, y, **({"epochs": 1, "metrics": False, "shuffle": False} | settings))]


def dishonest(inner):
    """Workers that have forgotten what the owners allow."""
    for one in inner:
        one.holdings.stretches.clear()


@pytest.mark.parametrize("equals", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("honest", range(3))
async def test_steps_of_fewer_examples_are_refused_at_each_worker_alone(tmp_path, honest, equals):
    async with inner_workers(tmp_path, equals=equals) as (inner, cluster):
        grant = (await cluster.deposit("ward", np.ones((ROWS, 3)), use=Use(min_batch=4))).to_give()
        x, y = await cluster.load("ward", grants=grant), await cluster.store("y", np.ones((ROWS, 2)))
        dishonest([one for place, one in enumerate(inner) if place != honest])
        async with await share(network(), cluster) as shared:
            for size in (1, 3, 5, 11):  # 12 examples in steps of 5 leave 2
                with pytest.raises(NotGranted, match="steps with at least 4"):
                    await trained(shared, x, y, batch_size=size)
            (epoch,) = await trained(shared, x, y, batch_size=4)
            assert epoch.steps == 3


async def test_examples_of_others_do_not_count(tmp_path):
    """One row of the ward in a step of the trainer's own rows is a step of one row."""
    async with inner_workers(tmp_path) as (_, cluster):
        use = Use(min_batch=4)
        grants = [await cluster.deposit("ward", np.ones((5, 3)), use=use), await cluster.deposit("own", np.ones((7, 3)))]
        x, y = await cluster.load("ward", "own", grants=grants), await cluster.store("y", np.ones((ROWS, 2)))
        async with await share(network(), cluster) as shared:
            with pytest.raises(NotGranted, match="a step has 1 examples of an owner who allows steps with at least 4"):
                await trained(shared, x, y, batch_size=4)
            (epoch,) = await trained(shared, x, y, batch_size=6)  # 5 of the ward and 1, then 6
            assert epoch.steps == 2
            with pytest.raises(NotGranted):  # an order that puts few of them into a step; each epoch has its own
                await trained(shared, x, y, batch_size=6, shuffle=True, epochs=50)


@pytest.mark.parametrize("honest", [0, 1])
async def test_weights_and_metrics_go_to_those_only_whom_the_owner_names(tmp_path, honest):
    """Also after a checkpoint: what may be done with weights is kept beside them."""
    async with inner_workers(tmp_path / "workers") as (inner, cluster):
        grant = await cluster.deposit("ward", np.ones((ROWS, 3)), use=Use(reveal_to=("ward-1", "ward-2")))
        x, y = await cluster.load("ward", grants=grant), await cluster.store("y", np.ones((ROWS, 2)))
        async with await share(network(), cluster) as shared:
            np.testing.assert_array_equal((await shared.reveal()).get_weights()[0], 0)  # nothing of the ward is in them
            await trained(shared, x, y, batch_size=4, folder=tmp_path / "run")
            for one in inner[:2]:
                if one is not inner[honest]:
                    for model in one.holdings.models.values():
                        model.use = Use()
            with pytest.raises(NotGranted, match="opened to ward-1, ward-2 only"):
                await shared.reveal()
            with pytest.raises(NotGranted, match="opened to ward-1, ward-2 only"):
                await trained(shared, x, y, batch_size=4, metrics=True)
        async with await share(network(), cluster, name="again") as shared:
            await trained(shared, x, y, batch_size=4, folder=tmp_path / "run", resume=True, epochs=2)
            with pytest.raises(NotGranted, match="opened to ward-1, ward-2 only"):
                await shared.reveal()


async def test_by_certificate_each_has_what_the_owner_says_of_it(tmp_path):
    made = configured(tmp_path, dict.fromkeys(("ward", "trainer", "reader"), 'role = "client"\n'), keeps=True)
    allow = {"trainer": Use(min_batch=6, reveal_to=("reader",)), "reader": Use(min_batch=4)}
    async with running(made):
        async with made.cluster("ward") as cluster:
            await cluster.deposit("ward", np.ones((ROWS, 3)), allow=allow)
        for name, size, opened in (("trainer", 6, False), ("reader", 4, True)):
            async with made.cluster(name) as cluster:
                x, y = await cluster.load("ward"), await cluster.store("y", np.ones((ROWS, 2)))
                async with await share(network(), cluster, name=name) as shared:
                    with pytest.raises(NotGranted, match=f"at least {size}"):
                        await trained(shared, x, y, batch_size=size - 1)
                    await trained(shared, x, y, batch_size=size)
                    if opened:
                        assert np.abs((await shared.reveal()).get_weights()[0]).max() > 0
                    else:
                        with pytest.raises(NotGranted, match="the certificate shown is trainer"):
                            await shared.reveal()
