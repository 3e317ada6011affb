"""What is kept of data and trainings: how arrays of several owners fit, rights, and which version is current."""

import asyncio
import contextlib
from types import EllipsisType

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import message
from deployment import key
from inner_workers import inner_workers
from protocols.authority.membership import SERVER
from protocols.authority.rights import digest, new_secret, right_at, shows
from protocols.datasets.dataset import Dataset, records
from protocols.datasets.joined import joined, put_together
from protocols.datasets.masked import MaskedDataset, halves, mask
from protocols.datasets.use import Stretch, Use, check_steps
from protocols.errors import Altered, InputError, NotGranted, UnknownData, UnknownModel, VaultError
from protocols.owner.kept_versions import VersionedShares, current, keepers
from protocols.storage.renewal import change
from protocols.storage.vault import Label, Vault
from protocols.storage.versions import DATA, RUN, About, Progress, run_name
from protocols.workers.keeper import Keeper, Version

IDS = records("abcd")


def dataset(name, rows=4, columns=2, content="numbers", ids=b""):
    return Dataset(name, (rows, columns), content, b"", ids)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 3))
def test_joined_columns_have_the_shape_of_joined_arrays(lengths, width):
    rows = [np.full((length, width), length, np.uint64) for length in lengths]
    below = joined([dataset(str(i), length, width) for i, length in enumerate(lengths)], 0, b"")
    np.testing.assert_array_equal(put_together(rows, 0), np.concatenate(rows))
    assert put_together(rows, 0).shape == below.shape
    sides = [row.T for row in rows]
    beside = joined([dataset(str(i), width, length) for i, length in enumerate(lengths)], 1, b"")
    assert put_together(sides, 1).shape == beside.shape


def test_labels_of_owners_who_know_fewer_classes():
    both = joined([dataset("a", 2, 3, "labels"), dataset("b", 1, 1, "labels")], 0, b"h")
    assert (both.shape, both.handle) == ((3, 3), b"h")
    np.testing.assert_array_equal(put_together([np.eye(3)[1:], np.ones((1, 1))], 0), [[0, 1, 0], [0, 0, 1], [1, 0, 0]])


def test_images_of_owners_have_their_axes_in_one_order():
    one, other = (Dataset(name, (2, 90), "numbers", b"", example=shape) for name, shape in (("a", (6, 5, 3)), ("b", (3, 6, 5))))
    with pytest.raises(
        InputError, match=r"'a' and 'b' do not fit below each other: their examples had the shapes \(6, 5, 3\) and \(3, 6, 5\)"
    ):
        joined([one, other], 0, b"")
    assert joined([one, one], 0, b"").example == (6, 5, 3)
    assert joined([one, one], 1, b"").example == ()


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=4), st.integers(1, 12), st.randoms())
def test_steps_count_the_examples_of_each_owner(owners, batch, random):
    total = sum(rows for rows, _ in owners)
    order = random.sample(range(total), total)
    steps = [np.array(order[start : start + batch]) for start in range(0, total, batch)]
    whose = [owner for owner, (rows, _) in enumerate(owners) for _ in range(rows)]
    too_few = any(0 < sum(whose[row] == owner for row in rows) < least for rows in steps for owner, (_, least) in enumerate(owners))
    with pytest.raises(NotGranted) if too_few else contextlib.nullcontext():
        check_steps([Stretch(rows, Use(min_batch=least)) for rows, least in owners], steps)


def test_what_several_owners_allow():
    some, other, all_of_them = Use(min_batch=3, reveal_to=("a", "b")), Use(reveal_to=("b", "c")), Use(min_batch=8)
    assert some & other & all_of_them == Use(min_batch=8, reveal_to=("b",))
    assert all_of_them & Use() == all_of_them
    with pytest.raises(NotGranted, match="opened to nobody only"):
        (some & Use(reveal_to=("c",))).check_reveal("a")
    for wrong in (Use(min_batch=0), Use(reveal_to=()), Use(reveal_to=("a", ""))):
        with pytest.raises(InputError, match="Use"):
            wrong.check()


def test_record_ids():
    assert joined([dataset("a", ids=IDS), dataset("b", ids=IDS)], 1, b"").records == IDS
    assert joined([dataset("a", ids=IDS)], 0, b"").records == IDS
    stacked = joined([dataset("a", ids=IDS), dataset("b", ids=records("wxyz"))], 0, b"").records
    assert stacked not in (IDS, b"", joined([dataset("b", ids=records("wxyz")), dataset("a", ids=IDS)], 0, b"").records)
    assert joined([dataset("a", ids=IDS), dataset("b")], 0, b"").records == b""
    assert records(["ab", "c"]) != records(["a", "bc"])
    assert records([1, 2]) == records(["1", "2"])
    for other in (records("abdc"), b""):
        with pytest.raises(InputError, match="record ids"):
            joined([dataset("a", ids=IDS), dataset("b", ids=other)], 1, b"")


def test_rights():
    assert shows(b"right", digest(b"right"))
    assert not shows(b"", digest(b"right"))
    assert digest(b"right") != b"right"
    assert run_name(b"right") != run_name(b"wrong")


def version(serial, tag, check=b""):
    return Version(Label("data", "a", serial, key(tag)), About("server", b"", b"", check=check))


def test_the_newest_version_that_all_have_is_current():
    old, new, half, other = version(1, "old"), version(2, "new"), version(3, "half"), version(2, "other")
    for found in ([[old, new]] * 3, [[old, new, half], [old, new], [new]], [[new, half], [new, other], [new]]):
        chosen, following = current(found, "data")
        assert chosen == new
        assert following.serial == new.label.serial + 1  # whatever higher number somebody has left at one of them
    assert current([[old, half], [old, other]], "data")[0] == old
    mixed = [version(4, "mixed", check) for check in (b"1", b"1", b"2")]  # not made together
    chosen, following = current([[new, one] for one in mixed], "data")
    assert (chosen, following.serial) == (new, 3)
    with pytest.raises(UnknownData, match="do not all keep the same data"):
        current([[new], [other], [new]], "data")
    with pytest.raises(UnknownData, match="no data is kept"):
        current([[], [], []], "data")


def test_what_a_refresh_adds_changes_no_value():
    """m' - lambda' = m - lambda, the halves stay halves, and zero shares cancel."""
    masked = [change(key("k"), "masked", (5, 2), party) for party in (0, 1)]
    halves = [change(key("k"), "mask", (5, 2), party) for party in (0, 1)]
    np.testing.assert_array_equal(*masked)
    np.testing.assert_array_equal(halves, [change(key("k"), name, (5, 2), 2) for name in ("mask0", "mask1")])
    np.testing.assert_array_equal(halves[0] + halves[1], masked[0])
    weights = [change(key("k"), "kernel0", (5, 2), party) for party in (0, 1)]
    assert not (weights[0] + weights[1]).any()
    assert all(change.all() for change in (*masked, *halves, *weights))
    assert not (weights[0] == change(key("k"), "bias0", (5, 2), 0)).any()


def test_a_masked_dataset_is_what_it_was_with_both_halves_and_every_time_under_another_mask():
    values, one = np.arange(8, dtype=np.uint64).reshape(4, 2), dataset("a")
    (masked, keys), (again, others) = mask(values), mask(values)
    assert not (masked == again).any()
    assert len({*keys, *others}) == 4
    parts = [MaskedDataset.expanded(one, masked, each) for each in keys]
    for part, half in zip(parts, halves(one, keys), strict=True):
        np.testing.assert_array_equal(part.mask, half)
    np.testing.assert_array_equal(masked - parts[0].mask - parts[1].mask, values)
    rows = np.array([2, 0])
    wires = [part.wire(None, rows) for part in parts]
    np.testing.assert_array_equal(wires[0].a - wires[0].mask - wires[1].mask, values[rows])
    with pytest.raises(UnknownModel, match="store it anew"):
        parts[0].wire(2, rows)
    with pytest.raises(InputError, match=r"shape \(4, 2\) arrived for 'a' of shape \(5, 2\)"):
        MaskedDataset.expanded(dataset("a", 5), masked, keys[0])


class Saying(Keeper):
    """A keeper that may say something else than what is so of its versions from the third on."""

    says: bytes | EllipsisType | None = ...

    @message(reentrant=True, by=SERVER)
    async def holds(self, label: Label) -> bytes | None:
        return await super().holds(label) if self.says is ... or label.serial < 3 else self.says


@contextlib.asynccontextmanager
async def keeping(folder):
    """Workers whose keepers can be told what to say; gives their classes, too."""
    told = [type("Told", (Saying,), {}) for _ in range(3)]
    async with inner_workers(folder, parts=[{"keeper": one} for one in told]) as (inner, cluster):
        yield told, inner, cluster


def serials(inner, kind):
    return [[label.serial for label in one.holdings.vault.labels(kind)] for one in inner]


@pytest.mark.parametrize("answer", [b"another", b"", None])
@pytest.mark.parametrize("liar", range(3))
@pytest.mark.sample(5)
async def test_old_versions_of_data_go_only_when_all_three_have_the_same(tmp_path, liar, answer):
    async with keeping(tmp_path) as (told, inner, cluster):
        grant = await cluster.deposit("a", np.ones((3, 2)))
        await cluster.load("a", grants=grant)
        assert serials(inner, DATA) == [[1, 2]] * 3  # the one before stays until the next has been made
        told[liar].says = answer
        with pytest.raises((Altered, UnknownData), match=r"the old ones stand|made version|not all parties keep"):
            await cluster.load("a", grants=grant)
        assert all(one[:2] == [1, 2] for place, one in enumerate(serials(inner, DATA)) if place != liar)
        told[liar].says = ...
        assert (await cluster.load("a", grants=grant)).shape == (3, 2)
        last = max(serials(inner, DATA)[0])
        assert all(one[-1] == last and 1 not in one for one in serials(inner, DATA))


@pytest.mark.parametrize(("liar", "answer"), [(0, b"another"), (0, None), (1, b"another"), (1, None), (2, b"another"), (2, None)])
async def test_old_versions_of_a_training_go_only_when_both_servers_have_the_same(tmp_path, liar, answer):
    async with keeping(tmp_path) as (told, inner, cluster):
        secret, name = new_secret(), "training"
        rights = [right_at(secret, place) for place in (0, 1)]
        labels = [Label(RUN, name, serial, key(f"{serial}")) for serial in (1, 2, 3)]
        for one, right in zip(inner, rights, strict=False):
            for label in labels[:2]:
                about = About("server", digest(right), digest(right), progress=Progress(0, 0), check=label.tag)
                one.holdings.vault.write(label, msgspec.msgpack.encode(about), {"kernel0": np.ones(4, np.uint64)})
        kept = VersionedShares(cluster.addresses, await keepers(cluster, cluster.addresses, 2), rights, equals=False, model="net")
        told[liar].says = answer
        if liar == 2:  # the third party has no share of a weight, and is not asked
            await kept.refreshed(labels[1], labels[2])
            assert serials(inner, RUN) == [[2, 3], [2, 3], []]
        else:
            with pytest.raises(Altered, match="the old ones stand"):
                await kept.refreshed(labels[1], labels[2])
            assert serials(inner, RUN)[1 - liar] == [1, 2, 3]


@pytest.mark.parametrize("turned", range(3))
async def test_parties_that_begin_from_different_versions_have_made_nothing_together(tmp_path, turned):
    """Whoever may only use data has one party go on from another version than the others, under one label. Nothing is lost by that."""
    async with keeping(tmp_path) as (_, inner, cluster):
        array = np.arange(6.0).reshape(3, 2)
        grant = await cluster.deposit("a", array)
        await cluster.load("a", grants=grant)
        first, second = inner[0].holdings.vault.labels(DATA, "a")
        mixed, kept = Label(DATA, "a", 3, key("mixed")), await keepers(cluster, cluster.addresses)
        rights, beside = grant.rights((0, 1, 2)), Label(DATA, "a", 2, key("beside"))
        await asyncio.gather(*(one.refresh(first, beside, right, False, "") for one, right in zip(kept, rights, strict=True)))
        begun = [second if place == turned else beside for place in range(3)]
        made = (one.refresh(old, mixed, right, False, "") for one, old, right in zip(kept, begun, rights, strict=True))
        await asyncio.gather(*made)
        assert serials(inner, DATA) == [[1, 2, 2, 3]] * 3
        for one, right in zip(kept, rights, strict=True):
            with pytest.raises(Altered, match="do not belong together; the old ones stand"):
                await one.commit(mixed, right, False, "")
        following = Label(DATA, "a", 4, key("following"))
        made = (one.refresh(mixed, following, right, False, "") for one, right in zip(kept, rights, strict=True))
        assert all(isinstance(outcome, Altered) for outcome in await asyncio.gather(*made, return_exceptions=True))
        for _ in range(2):
            await cluster.load("a", grants=grant)
            newest = current([await one.versions(DATA, "a") for one in kept], "data")[0].label
            parts = [one.holdings.vault.read(newest)[1] for one in inner]
            assert ((parts[0]["masked"] - parts[0]["mask"] - parts[1]["mask"]) / 65536 == array).all()
            assert ((parts[1]["masked"] - parts[2]["mask0"] - parts[2]["mask1"]) / 65536 == array).all()


async def test_the_version_from_which_the_current_one_was_made_stays_also_if_others_lie_between(tmp_path):
    """A party could not write at first: the others have versions that count for nothing. Afterwards the newest file of one is lost."""
    async with keeping(tmp_path) as (_, inner, cluster):
        grant = await cluster.deposit("a", np.ones((3, 2)))
        vault = inner[1].holdings.vault
        [file] = (tmp_path / "greg" / "data" / "a").iterdir()
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(VaultError, match="damaged"):
            await cluster.load("a", grants=grant)
        file.write_bytes(whole)
        await cluster.load("a", grants=grant)
        assert all(labels[0] == 1 for labels in serials(inner, DATA))
        newest = vault.labels(DATA, "a")[-1]
        max((tmp_path / "greg" / "data" / "a").iterdir()).unlink()
        assert newest not in vault.labels(DATA, "a")
        assert (await cluster.load("a", grants=grant)).shape == (3, 2)


async def test_a_keeper_believes_nobody_s_word_that_a_version_was_made(tmp_path):
    """Who may only use data cannot have the old version removed by saying that there is a new one."""
    async with keeping(tmp_path) as (_, inner, cluster):
        grant = await cluster.deposit("a", np.ones((3, 2)))
        await cluster.load("a", grants=grant)
        keeper, *_ = await keepers(cluster, cluster.addresses)
        vault = inner[0].holdings.vault
        last = vault.labels(DATA, "a")[-1]
        alone = Label(DATA, "a", 3, key("alone"))
        vault.write(alone, *vault.read(last))
        with pytest.raises(Altered, match="not all parties have version 3"):
            await keeper.commit(alone, right_at(grant.right, 0), False, "")
        with pytest.raises(UnknownData, match="not all parties keep version 3"):
            await keeper.refresh(alone, Label(DATA, "a", 4, key("next")), right_at(grant.right, 0), False, "")
        with pytest.raises(NotGranted):
            await keeper.commit(last, right_at(grant.right, 1), False, "")  # the right at another worker
        assert serials(inner, DATA) == [[1, 2, 3], [1, 2], [1, 2]]


async def test_versions_that_workers_have_made_are_known_to_them_when_they_are_started_again(tmp_path):
    async with keeping(tmp_path) as (_, _, cluster):
        grant = await cluster.deposit("a", np.ones((3, 2)))
        await cluster.load("a", grants=grant)
    async with keeping(tmp_path) as (_, inner, cluster):
        last = inner[0].holdings.vault.labels(DATA, "a")[-1]
        for keeper, right in zip(await keepers(cluster, cluster.addresses), grant.rights((0, 1, 2)), strict=True):
            await keeper.commit(last, right, False, "")
        await cluster.load("a", grants=grant)
        assert serials(inner, DATA) == [[2, 3]] * 3


async def test_who_may_use_data_neither_replaces_a_version_nor_uses_up_the_numbers(tmp_path):
    async with keeping(tmp_path) as (_, inner, cluster):
        grant = (await cluster.deposit("a", np.ones((3, 2)))).to_give()
        await cluster.load("a", grants=grant)
        first, second = inner[0].holdings.vault.labels(DATA, "a")
        kept, rights = await keepers(cluster, cluster.addresses), grant.rights((0, 1, 2))

        async def refreshed(new, parties=3):
            made = (one.refresh(first, new, right, False, "") for one, right in list(zip(kept, rights, strict=True))[:parties])
            return await asyncio.gather(*made, return_exceptions=True)

        assert all(isinstance(one, InputError) for one in await refreshed(second, 2))  # no mask of theirs at the provider
        for serial in (1, 3, 2**63 - 1, 2**64 - 1):  # after the last number nobody could load the data again
            assert all(isinstance(one, InputError) for one in await refreshed(Label(DATA, "a", serial, key("last"))))
        for tag in (b"", b"short"):  # a file that nobody lists, and nobody removes
            assert all(isinstance(one, InputError) for one in await refreshed(Label(DATA, "a", 2, tag)))
        assert serials(inner, DATA) == [[1, 2]] * 3
        assert (await cluster.load("a", grants=grant)).shape == (3, 2)


async def test_a_version_that_is_being_written_is_not_written_again(tmp_path):
    vault, label = Vault.open(tmp_path / "v"), Label(DATA, "a", 1, key("a"))
    arrays = {"masked": np.zeros(1 << 20, np.uint64)}
    outcomes = await asyncio.gather(*(asyncio.to_thread(vault.write, label, b"", arrays) for _ in range(4)), return_exceptions=True)
    assert sum(one is None for one in outcomes) == 1
    assert sum(isinstance(one, VaultError) for one in outcomes) == 3
    vault.close()
