"""The link of keepers: the same as that of trainings and predictions, so that who waits hears at once of who is gone."""

import asyncio

import msgspec
import numpy as np
import pytest

from deployment import key
from inner_workers import inner_workers
from protocols.datasets.dataset import Dataset
from protocols.errors import InputError, WorkerLost
from protocols.mpc.parties.exchange import Party
from protocols.mpc.parties.simulator import simulate
from protocols.owner.kept_versions import keepers
from protocols.storage.renewal import joint_key, told
from protocols.storage.vault import Label
from protocols.storage.versions import DATA, About


@pytest.mark.parametrize("place", [0, 2])
async def test_who_waits_for_a_server_that_is_gone_hears_of_it_at_once(tmp_path, place):
    """Not when the patience of 30 s is over: that would be another error."""
    async with inner_workers(tmp_path) as (inner, cluster):
        grant = await cluster.deposit("a", np.ones((3, 2)))
        old, new = inner[0].holdings.vault.labels(DATA, "a")[0], Label(DATA, "a", 2, key("new"))
        parties, links = await keepers(cluster, cluster.addresses), inner[place].actor("keeper")._links
        waiting = asyncio.create_task(parties[place].refresh(old, new, grant.rights((0, 1, 2))[place], False, ""))
        async with asyncio.timeout(30):
            while 1 not in links or not len(links[1].inboxes):
                await asyncio.sleep(0)
        await inner[1].system.stop(inner[1].system.reference("", "keeper"))
        with pytest.raises(WorkerLost, match=r"the other server (is gone|cannot be reached)"):
            await waiting
        assert len(inner[place].holdings.vault.labels(DATA, "a")) == 1


async def test_a_version_that_is_asked_for_twice_at_once_is_made_once_and_whole(tmp_path):
    async with inner_workers(tmp_path) as (inner, cluster):
        grant = await cluster.deposit("a", np.ones((3, 2)))
        old, new = inner[0].holdings.vault.labels(DATA, "a")[0], Label(DATA, "a", 2, key("new"))
        parties, rights = await keepers(cluster, cluster.addresses), grant.rights((0, 1, 2))
        asked = [parties[place].refresh(old, new, rights[place], False, "") for place in (0, 1, 2) for _ in range(2)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        for pair in (outcomes[:2], outcomes[2:4], outcomes[4:]):
            refused = [outcome for outcome in pair if outcome is not None]
            assert [type(outcome) for outcome in refused] == [InputError]
            assert "under way" in str(refused[0])
        for place in (0, 1, 2):
            await parties[place].commit(new, rights[place], False, "")
        first, second, third = (one.holdings.vault.read(new)[1] for one in inner)
        np.testing.assert_array_equal(first["masked"], second["masked"])
        for name, server in (("mask0", first), ("mask1", second)):
            np.testing.assert_array_equal(third[name], server["mask"])


async def test_a_keeper_takes_nothing_but_seeds_of_workers_and_makes_no_links_for_anything_else(tmp_path):
    async with inner_workers(tmp_path) as (inner, cluster):
        await cluster.deposit("a", np.ones((3, 2)))
        keeper = inner[0].actor("keeper")
        for arrays in ([], [np.zeros(3, np.uint64)], [np.zeros(2, np.uint64)] * 2, [np.zeros((1, 2), np.uint64)]):
            with pytest.raises(InputError, match="one seed of two words is needed"):
                keeper.deliver(b"\1", key("channel"), 0, arrays)
        for name in (b"", b"\3", b"\0\1", key("name")):
            keeper.deliver(name, key("channel"), 0, [np.zeros(2, np.uint64)])
        assert keeper._links == {}


def test_seeds_are_told_in_one_round_and_whoever_hears_both_has_the_same_key():
    seeds, tag = [key("0"), key("1")], key("tag")
    both = simulate({party: told(Party(party), seeds[party], hears=True) for party in (0, 1)})
    assert (both.rounds, both.sent) == (1, {(0, 1): 16, (1, 0): 16})
    third = [simulate({0: told(Party(0), seed, hears=False), 1: told(Party(1), None, hears=True)}) for seed in seeds]
    assert [(one.rounds, one.sent) for one in third] == [(1, {(0, 1): 16})] * 2
    heard = [[seeds[0], both.results[0]], [both.results[1], seeds[1]], [one.results[1] for one in third]]
    assert len({joint_key(one, tag) for one in heard}) == 1
    assert joint_key(seeds, tag) not in (joint_key(seeds, key("another")), joint_key(seeds[::-1], tag))


def test_files_that_were_written_when_datasets_were_called_columns_are_read():
    dataset = Dataset("a", (3, 2), "numbers", b"", binary=True)
    written = {"role": "server", "use": b"use", "own": b"own", "column": dataset}
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(written), type=About).dataset == dataset
