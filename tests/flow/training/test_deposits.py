"""Data that stay with the workers when their owner has gone: one owner, several, horizontally and vertically; who may use them."""

import asyncio
import contextlib
import json
import stat

import keras
import numpy as np
import pytest
from keras import layers

from inner_workers import NAMES, inner_cluster, inner_worker
from protocols import Cluster, Worker, share
from protocols.clusters.roles import helper_of
from protocols.errors import ClusterError, InputError, KeepsNothing, NameTaken, NotGranted, UnknownData, VaultError
from protocols.owner.deposits import Grant, write_grants
from protocols.storage.vault import Vault


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "workers"


def new_cluster(folder):
    """Processes that end with the block, and leave their folders."""
    first, second, third = (Worker("localhost:0", data=folder / name) for name in NAMES)
    return Cluster(first, second, crypto_provider=third)


@pytest.fixture
async def cluster(folder):
    async with inner_cluster(folder) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (60, 6)).astype(np.float32)
    return x, (x @ rng.normal(size=(6, 3))).argmax(1)


def network(inputs=6):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([layers.Input((inputs,)), layers.Dense(8, activation="relu"), layers.Dense(3)], name="net")
    model.compile(keras.optimizers.SGD(0.3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


async def trained(cluster, x, y):
    async with await share(network(), cluster) as shared:
        async for _ in shared.fit(x, y, epochs=2, batch_size=20, shuffle=False):
            pass
        return (await shared.reveal()).get_weights()


def assert_trained_as_in_the_clear(weights, x, y):
    model = network()
    model.fit(x, y, epochs=2, batch_size=20, shuffle=False, verbose=0)
    for mine, theirs in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=0.005)


def files(folder, name, *, versions=1):
    """The newest file of each worker, of so many versions that it keeps."""
    found = [sorted((folder / worker / "data" / name).glob("*.share")) for worker in NAMES]
    assert [len(one) for one in found] == [versions] * 3
    return [one[-1] for one in found]


async def test_owners_of_other_examples_and_of_other_features_come_and_go(folder, data, tmp_path):
    """Nobody is there at the same time, not even the workers. Training equals that on the joined arrays."""
    x, y = data
    async with new_cluster(folder) as cluster:
        north = [await cluster.deposit("north.x", x[:25]), await cluster.deposit("north.y", y[:25])]
        write_grants(tmp_path / "north.json", [grant.to_give() for grant in north])
    async with new_cluster(folder) as cluster:
        south = [await cluster.deposit("south.x", x[25:]), await cluster.deposit("south.y", y[25:], classes=3)]
        ids = [f"patient {number}" for number in range(60)]
        lab = await cluster.deposit("lab.x", x[:, :2], ids=ids)
        ward = [await cluster.deposit("ward.x", x[:, 2:], ids=ids), await cluster.deposit("ward.y", y, ids=ids)]
        write_grants(tmp_path / "others.json", [grant.to_give() for grant in (*south, lab, *ward)])
    before = {name: [file.read_bytes() for file in files(folder, name)] for name in ("north.x", "lab.x")}
    async with new_cluster(folder) as cluster:
        features = await cluster.load("north.x", "south.x", grants=tmp_path)
        labels = await cluster.load("north.y", "south.y", grants=tmp_path)
        assert (features.shape, labels.shape) == ((60, 6), (60, 3))
        assert_trained_as_in_the_clear(await trained(cluster, features, labels), x, y)
        features = await cluster.load("lab.x", "ward.x", axis=1, grants=tmp_path)
        labels = await cluster.load("ward.y", grants=tmp_path / "others.json")
        assert features.shape == (60, 6)
        assert_trained_as_in_the_clear(await trained(cluster, features, labels), x, y)
        for name, old in before.items():  # each load writes other files, and the next one removes those of before
            new = [file.read_bytes() for file in files(folder, name, versions=2)]
            assert all(now != one for now, one in zip(new, old, strict=True))
            await cluster.load(name, grants=tmp_path)
            files(folder, name, versions=2)
            for worker, one, loaded in zip(NAMES, old, new, strict=True):
                left = [file.read_bytes() for file in (folder / worker / "data" / name).iterdir()]
                assert one not in left
                assert loaded in left
        for grant in (*north, *south, lab, *ward):
            await cluster.withdraw(grant)
        assert await cluster.deposits() == []


def shares(folder, name):
    """What the three parties keep: (m, lambda_0), (m, lambda_1), lambda."""
    kept = []
    for worker in NAMES:
        vault = Vault.open(folder / worker)
        kept.append(vault.read(vault.labels("data", name)[-1])[1])
        vault.close()
    return kept


async def test_shares_are_new_after_each_load_and_old_ones_are_worth_nothing(folder, tmp_path):
    array = np.arange(12.0).reshape(4, 3)
    async with inner_cluster(folder) as cluster:
        grant = await cluster.deposit("a", array)
    old = shares(folder, "a")
    async with inner_cluster(folder) as cluster:
        await cluster.load("a", grants=grant)
    new = shares(folder, "a")
    for first, second, third in (old, new):
        np.testing.assert_array_equal(first["masked"], second["masked"])
        assert set(third) == {"mask0", "mask1"}
        np.testing.assert_array_equal((first["mask"], second["mask"]), (third["mask0"], third["mask1"]))
        np.testing.assert_array_equal((first["masked"] - third["mask0"] - third["mask1"]) / 65536, array)
    for party in range(3):
        for name in old[party]:
            assert not (old[party][name] == new[party][name]).any()
    mixed = old[0]["masked"] - old[0]["mask"] - new[1]["mask"]
    assert not (mixed / 65536 == array).any()
    assert not ((old[0]["masked"] - new[2]["mask0"] - new[2]["mask1"]) / 65536 == array).any()
    async with inner_cluster(folder) as cluster:
        await cluster.withdraw(grant)


@pytest.mark.long
async def test_three_equals_keep_data_for_trainings_with_any_helper(folder, data, tmp_path):
    """Deposited once; each training has another helper, and is resumed by workers that were started anew."""
    async with inner_cluster(folder, equals=True) as cluster:
        grants = [await cluster.deposit("x", data[0]), await cluster.deposit("y", data[1])]
    weights = {}
    for epochs in (1, 2):
        async with inner_cluster(folder, equals=True) as cluster:
            x, y = await cluster.load("x", grants=grants), await cluster.load("y", grants=grants)
            for name in ("a", "b", "g"):
                async with await share(network(), cluster, name=name) as shared:
                    made = shared.fit(x, y, epochs=epochs, batch_size=20, shuffle=False, folder=tmp_path / name, resume=True)
                    assert [epoch.number async for epoch in made] == [epochs]
                    weights[name] = (await shared.reveal()).get_weights()
    assert {helper_of(name) for name in weights} == {0, 1, 2}
    for found in weights.values():
        assert_trained_as_in_the_clear(found, *data)


async def test_strangers_are_refused_and_names_are_taken_once(cluster, folder):
    grant = await cluster.deposit("mine", np.zeros((3, 2)))
    other = await cluster.deposit("other", np.zeros((3, 2)))
    for wrong in ((), Grant("mine", b"guess"), Grant("mine", bytes(32)), Grant("mine", grant.own), Grant("mine", other.right)):
        with pytest.raises(NotGranted, match="'mine' may not be used"):
            await cluster.load("mine", grants=wrong)
    with pytest.raises(NotGranted, match="not remove it"):
        await cluster.withdraw(grant.to_give())
    with pytest.raises(NotGranted, match="secret has 5 bytes"):
        await cluster.withdraw(Grant("mine", grant.right, b"guess"))
    with pytest.raises(NotGranted, match="only the owner"):
        await cluster.withdraw(Grant("mine", grant.right, other.own))
    with pytest.raises(NameTaken, match="'mine' are kept here already"):
        await cluster.deposit("mine", np.ones((3, 2)))
    listed = await cluster.deposits()
    assert [(one.name, one.shape, one.content, one.complete) for one in listed] == [
        ("mine", (3, 2), "numbers", True),
        ("other", (3, 2), "numbers", True),
    ]
    assert (await cluster.load("mine", grants=[grant, other])).shape == (3, 2)
    await cluster.withdraw(grant)
    with pytest.raises(UnknownData, match="no data of the name 'mine' are kept"):
        await cluster.load("mine", grants=grant)
    await cluster.withdraw(other)


async def test_what_does_not_fit_is_refused(cluster):
    async def left(name, array, **settings):
        return await cluster.deposit(name, array, **settings)

    rows = np.zeros((4, 2))
    grants = [
        await left("a", rows, ids="abcd"),
        await left("narrow", np.zeros((4, 1)), ids="abcd"),
        await left("short", np.zeros((3, 2))),
        await left("sorted", rows, ids="abdc"),
        await left("no-ids", rows),
        await left("labels", np.array([0, 1, 1, 0]), ids="abcd"),
        await left("few", np.array([0, 0])),
    ]
    for names, axis, match in [
        (("a", "narrow"), 0, "2 and 1 features an example"),
        (("a", "short"), 1, "4 and 3 examples"),
        (("a", "sorted"), 1, "other record ids, or another order"),
        (("a", "no-ids"), 1, "only one was shared with record ids"),
        (("a", "labels"), 0, "'a' holds numbers, 'labels' labels"),
        (("a", "narrow"), 2, "axis=2"),
        (("a", "a"), 0, "twice"),
        ((), 0, "at least one"),
    ]:
        with pytest.raises(InputError, match=match):
            await cluster.load(*names, axis=axis, grants=grants)
    both = await cluster.load("a", "narrow", axis=1, grants=grants)
    assert (both.shape, both.name) == ((4, 3), "a+narrow")
    assert (await cluster.load("labels", "few", grants=grants)).shape == (6, 2)  # two classes, and one
    x, y = await cluster.load("sorted", grants=grants), await cluster.load("labels", grants=grants)
    async with await share(network(2), cluster) as shared:
        with pytest.raises(InputError, match="other record ids"):
            await anext(shared.fit(x, y))
    for name, array, settings, match in [
        ("../up", rows, {}, "no name for data"),
        ("b", rows, {"ids": "abc"}, "4 examples and 3 record ids"),
        ("b", rows * np.nan, {}, "NaN"),
        ("b", rows, {"allow": [""]}, "a name is not empty"),
    ]:
        with pytest.raises(InputError, match=match):
            await left(name, array, **settings)
    for grant in grants:
        await cluster.withdraw(grant)


async def test_an_owner_whose_data_do_not_arrive_everywhere_leaves_nothing(cluster, folder):
    """The name is free at two workers and taken at the third."""
    taken = folder / "me" / "data" / "a"
    taken.mkdir(parents=True)
    (taken / f"00000001-{'0' * 32}.share").write_bytes(b"somebody else's")
    with pytest.raises(NameTaken, match="'a' are kept here already"):
        await cluster.deposit("a", np.ones((3, 2)))
    assert not [file for name in NAMES[:2] for file in (folder / name / "data").glob("a/*")]


async def test_several_load_the_same_at_once(cluster):
    array = np.arange(40.0).reshape(20, 2)
    grant = await cluster.deposit("a", array)
    columns = await asyncio.gather(*(cluster.load("a", grants=grant) for _ in range(3)), return_exceptions=True)
    loaded = [column for column in columns if not isinstance(column, UnknownData | VaultError)]
    assert loaded  # who loses three times in a row is told so
    assert {column.shape for column in loaded} == {(20, 2)}
    assert (await cluster.load("a", grants=grant)).shape == (20, 2)
    await cluster.withdraw(grant)


async def test_running_workers_are_in_one_order_for_everybody(cluster):
    grant = await cluster.deposit("a", np.ones((3, 2)))
    julia, greg, me = cluster.workers
    for order in ((greg, julia, me), (julia, me, greg)):
        with pytest.raises(ClusterError, match="name the three in the same order"):
            async with Cluster(*order[:2], crypto_provider=order[2]):
                pass
    assert (await cluster.load("a", grants=grant)).shape == (3, 2)
    await cluster.withdraw(grant)


async def test_workers_in_other_parts_than_when_the_data_came(folder):
    """Started anew with the same folders, and listed in another order: rights hold at one worker, and the parts are those of before."""
    async with inner_cluster(folder) as cluster:
        grant = await cluster.deposit("a", np.ones((3, 2)))
    for order in (("greg", "julia", "me"), ("julia", "me", "greg"), ("me", "julia", "greg")):
        async with contextlib.AsyncExitStack() as stack:
            turned = [await stack.enter_async_context(inner_worker(folder / name)) for name in order]
            first, second, third = (Worker(one.system.address) for one in turned)
            cluster = await stack.enter_async_context(Cluster(first, second, crypto_provider=third))
            with pytest.raises((NotGranted, InputError), match=r"'a' may not be used|as its owner did"):
                await cluster.load("a", grants=grant)
    async with inner_cluster(folder) as cluster:
        assert (await cluster.load("a", grants=grant)).shape == (3, 2)
        await cluster.withdraw(grant)


async def test_a_damaged_file_and_one_that_is_gone(cluster, folder):
    grant, sound = await cluster.deposit("a", np.ones((30, 2))), await cluster.deposit("b", np.ones((3, 2)))
    file = files(folder, "a")[1]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(VaultError, match=r"Worker\(.*is damaged"):
        await cluster.load("a", grants=grant)
    file.write_bytes(whole[:50])
    with pytest.raises(VaultError, match=r"Worker\(.*damaged"):
        await cluster.load("a", grants=grant)
    assert (await cluster.load("b", grants=sound)).shape == (3, 2)  # other work goes on
    assert [(one.name, one.complete) for one in await cluster.deposits()] == [("a", False), ("b", True)]
    file.write_bytes(whole)
    assert (await cluster.load("a", grants=grant)).shape == (30, 2)
    newest = max((folder / "greg" / "data" / "a").iterdir())
    assert newest != file
    newest.unlink()
    assert (await cluster.load("a", grants=grant)).shape == (30, 2)  # all three have the version from which it was made
    for one in (folder / "greg" / "data" / "a").iterdir():
        one.unlink()
    with pytest.raises(UnknownData, match="do not all keep the same data of the name 'a'"):
        await cluster.load("a", grants=grant)
    assert not (await cluster.deposits())[0].complete
    await cluster.withdraw(grant)
    await cluster.withdraw(sound)


async def test_workers_without_a_folder_say_so():
    async with inner_cluster(None) as cluster:
        for asked in (cluster.deposit("a", np.ones((3, 2))), cluster.load("a"), cluster.deposits()):
            with pytest.raises(KeepsNothing, match=r"Worker\('ws://.*keeps nothing: start it with .* --data FOLDER"):
                await asked


def test_grants_are_files_for_their_user_alone(tmp_path):
    grant = Grant("a", b"r" * 32, b"o" * 32)
    write_grants(tmp_path / "a.json", [grant])
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o600
    assert "right" in json.loads((tmp_path / "a.json").read_text())[0]
    assert "r" * 32 not in repr(grant)
