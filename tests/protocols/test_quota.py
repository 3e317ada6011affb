"""What servers and provider count, who is next, and how large the models of one owner may be."""

import asyncio
import pickle

import numpy as np
import pytest

from actors import Caller
from protocols.datasets.dataset import Dataset
from protocols.errors import Busy, InputError, QuotaSpent, TooLarge
from protocols.mpc.operations import weights as linear
from protocols.mpc.operations.weights import Dense, summed_weight_masks
from protocols.mpc.operations.wires import Input
from protocols.mpc.parties.keystream import KeyStream, derive
from protocols.mpc.program import Program
from protocols.serving import quota as quota_module
from protocols.serving import room, turns
from protocols.serving.hosting import check_program
from protocols.serving.pool import Chunk, Pool
from protocols.serving.quota import Quota
from protocols.serving.requests import RequestPart, Requests
from protocols.serving.room import Room, weight_bytes
from protocols.serving.ticket import Ticket, identifier
from protocols.serving.turns import Turns, client_of


def ticket(request: bytes, examples: int = 1, part: int = 0) -> Ticket:
    return Ticket(b"model", request, part, "logits", b"chunk", 0, examples)


async def idle() -> None:
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


class TestQuotaOfAServer:
    def test_examples_count_from_the_beginning_of_a_part_and_no_longer_if_it_fails(self):
        quota = Quota("mnist")
        quota.allow(9, 10)
        quota.begin(ticket(b"a", 6))
        with pytest.raises(QuotaSpent, match=r"5 examples were asked for; 4 of the 10 examples .*'mnist' allowed are left"):
            quota.begin(ticket(b"b", 5))
        quota.begin(ticket(b"b", 4))
        quota.end(ticket(b"a", 6), released=False)
        quota.begin(ticket(b"c", 6))
        for one in (ticket(b"b", 4), ticket(b"c", 6)):
            quota.end(one, released=True)
        with pytest.raises(QuotaSpent, match="1 examples were asked for; 0 of the 10"):
            quota.begin(ticket(b"d"))
        quota.allow(9, 11)
        quota.begin(ticket(b"d"))

    def test_what_was_answered_before_this_process_counts(self):
        quota = Quota("mnist", 2, 7)
        quota.allow(4, 10)
        with pytest.raises(QuotaSpent, match="4 examples were asked for; 3 of the 10"):
            quota.begin(ticket(b"a", 4))
        quota.begin(ticket(b"a", 1))
        quota.begin(ticket(b"a", 1, part=1))
        assert quota.begun == (3, 9)  # one request: it is on the disk before any part of it is answered
        quota.end(ticket(b"a", 1), released=True)
        quota.end(ticket(b"a", 1, part=1), released=True)
        assert quota.begun == (3, 9)
        quota.begin(ticket(b"b", 1))
        assert quota.begun == (4, 10)
        quota.end(ticket(b"b", 1), released=False)
        assert quota.begun == (3, 9)
        quota.begin(ticket(b"c", 1))
        with pytest.raises(QuotaSpent, match="as often as its owner allowed"):
            quota.begin(ticket(b"d", 0))

    def test_a_part_that_comes_after_very_many_other_requests_counts_as_one_of_its_own(self, monkeypatch):
        monkeypatch.setattr(quota_module, "REMEMBERED", 2)
        quota = Quota("mnist")
        quota.allow(4)
        for number in (1, 2, 3, 3):
            one = ticket(bytes([number]))
            quota.begin(one)
            quota.end(one, released=True)
        quota.begin(ticket(bytes([3])))  # known
        quota.begin(ticket(bytes([1])))  # forgotten
        with pytest.raises(QuotaSpent):
            quota.begin(ticket(bytes([4])))

    def test_without_a_number_of_examples_any_number_is_answered(self):
        quota = Quota("mnist")
        quota.allow(1)
        quota.begin(ticket(b"a", 1 << 40))

    def test_parts_of_one_request_are_one_request_and_each_has_its_examples(self):
        quota = Quota("mnist")
        quota.allow(1, 10)
        for part in (0, 1):
            quota.begin(ticket(b"a", 4, part))
        assert quota.under_way(b"a") == [0, 1]
        quota.end(ticket(b"a", 4, 0), released=True)
        assert quota.under_way(b"a") == [1]
        quota.end(ticket(b"a", 4, 1), released=False)
        with pytest.raises(QuotaSpent, match="as often as its owner allowed"):
            quota.begin(ticket(b"b"))
        with pytest.raises(QuotaSpent, match="6 of the 10"):
            quota.begin(ticket(b"a", 7, 2))
        quota.begin(ticket(b"a", 6, 2))

    def test_two_parts_of_one_number_count_twice(self):  # a provider that gives the same part out again
        quota = Quota("mnist")
        quota.allow(1, 3)
        quota.begin(ticket(b"a", 2))
        with pytest.raises(QuotaSpent):
            quota.begin(ticket(b"a", 2))
        quota.begin(ticket(b"a", 1))
        quota.end(ticket(b"a", 1), released=True)
        assert quota.under_way(b"a") == [0]


def answered(request, *sizes: int) -> None:
    request.parts = [RequestPart(ticket(request.identifier, size, number), {0: True, 1: True}) for number, size in enumerate(sizes)]
    request.granted = sum(sizes)


class TestRequestsOfTheProvider:
    async def test_examples_that_are_left_are_told(self):
        requests = Requests("mnist")
        requests.allow(9, 10)
        first = requests.open(6, "logits")
        with pytest.raises(Busy):  # 4 are free, and 6 may become free
            requests.open(5, "logits")
        with pytest.raises(QuotaSpent, match=r"11 examples were asked for; 10 of the 10"):
            requests.open(11, "logits")
        answered(first, 6)
        with pytest.raises(QuotaSpent, match=r"5 examples were asked for; 4 of the 10 .*'mnist' allowed are left; ask for fewer"):
            requests.open(5, "logits")
        await requests.close(first)
        with pytest.raises(QuotaSpent, match="4 of the 10"):
            requests.open(5, "logits")
        last = requests.open(4, "logits")
        answered(last, 4)
        await requests.close(last)
        assert (requests.answered, requests.examples, requests.left) == (2, 10, 0)

    async def test_what_was_counted_before_this_process_counts_and_who_writes_it_down_is_told_of_each_that_ends(self):
        requests, told = Requests("mnist", 2, 7), []
        requests.closed = told.append
        requests.allow(3, 10)
        with pytest.raises(QuotaSpent, match="4 examples were asked for; 3 of the 10"):
            requests.open(4, "logits")
        request = requests.open(3, "logits")
        with pytest.raises(Busy):
            requests.open(1, "logits")
        answered(request, 3)
        await requests.close(request)
        await requests.close(request)
        assert told == [request]
        assert (requests.answered, requests.examples) == (3, 10)
        with pytest.raises(QuotaSpent, match="3 requests"):
            requests.open(1, "logits")

    async def test_of_a_request_that_is_answered_in_part_only_that_part_counts(self):
        requests = Requests("mnist")
        requests.allow(9, 10)
        request = requests.open(10, "logits")
        answered(request, 3)
        request.give_up()
        await requests.close(request)
        await requests.close(request)  # once
        assert (requests.answered, requests.examples) == (1, 3)
        requests.open(7, "logits")

    async def test_who_holds_how_many_is_forgotten_with_them(self):
        requests, alice = Requests("mnist"), Caller()
        requests.allow(3)
        both = [requests.open(1, "logits", sender=alice) for _ in range(2)]
        assert (requests.held(alice), requests.held(Caller())) == (2, 0)
        for request in both:
            request.give_up()
            await requests.close(request)
        assert requests.held(alice) == 0
        assert not requests._held


class TestTurns:
    async def order(self, held: dict, waiting: list) -> list:
        """Who gets the turn after whom, if the first of `waiting` has it and the others wait in this order."""
        turns, done = Turns(lambda client: held.get(client, 0)), []

        async def wait(client):
            async with turns.turn(client):
                await asyncio.sleep(0)
                done.append(client)
                held[client] = held.get(client, 0) + 1

        async with asyncio.TaskGroup() as group:
            for client in waiting:
                group.create_task(wait(client))
        return done

    async def test_many_requests_of_one_client_delay_another_by_one_turn(self):
        assert (await self.order({}, [*["greedy"] * 20, "modest", "modest"]))[:3] == ["greedy", "modest", "greedy"]

    async def test_a_client_with_a_certificate_comes_before_connections_of_nobody(self):
        crowd = [Caller() for _ in range(20)]
        assert (await self.order({}, [*crowd, "alice"])).index("alice") == 1
        assert (await self.order({"alice": 1}, [*crowd, "alice"])).index("alice") == 20

    async def test_equal_ones_in_the_order_of_their_coming(self):
        assert await self.order({}, list("abcd")) == list("abcd")

    async def test_whoever_gives_up_waiting_is_passed_over(self):
        turns = Turns(lambda _: 0)
        async with turns.turn("a"):
            tasks = [asyncio.create_task(turns._wait(client)) for client in ("b", "c", "d")]
            await idle()
            tasks[0].cancel()
            await idle()
            assert turns.others("a") == 2
        tasks[1].cancel()  # the turn has just been given to it
        await idle()
        assert [task.cancelled() for task in tasks] == [True, True, False]
        assert tasks[2].done()

    async def test_one_client_cannot_wait_without_end(self, monkeypatch):
        monkeypatch.setattr(turns, "MOST_WAITING", 2)
        line = Turns(lambda _: 0)
        async with line.turn("a"):
            tasks = [asyncio.create_task(line._wait("a")) for _ in range(2)]
            await idle()
            with pytest.raises(Busy, match="2 requests of this client wait"):
                await line._wait("a")
            for task in tasks:
                task.cancel()

    def test_a_client_is_its_certificate_or_its_connection(self):
        one, other = Caller(), Caller()
        assert client_of(one) != client_of(other)
        assert client_of(one) == one
        for connection in (one, other):
            vars(connection)["common_name"] = "alice"  # as if it had shown a certificate of that name
        assert client_of(one) == client_of(other) == "alice"


class TestPoolInTurns:
    async def test_while_others_wait_nobody_takes_more_than_a_share(self):
        async def deal(examples: int) -> Chunk:
            return Chunk(identifier(), np.zeros((examples, 1), np.uint64))

        blocked = []
        pool = Pool(deal, chunk=4, capacity=8, ahead=8, blocked=lambda: blocked.append(1))
        task = asyncio.create_task(pool.run())
        await idle()
        first = asyncio.create_task(pool.take(8, "greedy"))
        await idle()
        assert sum(grant.stop - grant.start for grant in first.result()) == 8
        assert not blocked
        waiting = [asyncio.create_task(pool.take(8, client)) for client in ("greedy", "greedy", "modest")]
        await idle()
        assert blocked
        assert pool.blocked
        await pool.settle(8, "greedy")
        await idle()
        sizes = [sum(grant.stop - grant.start for grant in one.result()) if one.done() else 0 for one in waiting]
        assert sizes[0] == 4  # of 8, while "modest" waits
        assert sizes[1] == 0
        assert 0 < sizes[2] <= 4  # before the second of the other
        for one in (*waiting, task):
            one.cancel()
        await asyncio.gather(*waiting, task, return_exceptions=True)


def test_busy_says_when_and_survives_the_wire():
    error = Busy("others are served", 2.5)
    assert str(error) == "busy, retry in 2.5 s: others are served"
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.seconds, again.args) == (str(error), 2.5, ("others are served", 2.5))


class TestRoom:
    def test_all_models_of_one_owner_together(self, monkeypatch):
        monkeypatch.setattr(room, "OWNER_LIMIT", 3 << 20)
        place = Room()
        place.take("alice", 2 << 20)
        place.take("bob", 3 << 20)
        with pytest.raises(TooLarge, match=r"2 MiB .* 'alice' may have 3 MiB at a worker, of which 2 MiB are taken: stop a model first"):
            place.take("alice", 2 << 20)
        place.take("alice", 1 << 20)
        place.give("alice", 2 << 20)
        place.take("alice", 2 << 20)
        place.give("bob", 3 << 20)
        assert "bob" not in place._taken
        place.take("", 3 << 20)
        with pytest.raises(TooLarge, match="owners without a certificate together"):
            place.take("", 1)

    def test_three_hundred_million_weights_are_refused_before_one_exists(self):
        program = Program((Input(), Dense(0, 0)), ((30_000, 10_000),), (30_000,), 1.0, (0.0, 1.0), 1.0)
        assert weight_bytes(program) == 2_400_000_000
        with pytest.raises(TooLarge, match="2288 MiB of shared weights, 2048 MiB are allowed"):
            check_program(program)


@pytest.mark.parametrize("shape", [(1 << 20, 1 << 20), (1 << 60, 1 << 60), (1 << 28, 2)])
def test_an_array_whose_shape_is_all_that_was_sent_has_a_limit(shape):
    with pytest.raises(TooLarge, match="2048 MiB are allowed"):
        Dataset("x", shape, "numbers", b"handle").check()
    Dataset("x", (1 << 28, 1), "numbers", b"handle").check()
    with pytest.raises(InputError, match="none of that shape"):
        Dataset("x", (-1, 3), "numbers", b"handle").check()


def test_masks_added_in_place_and_in_pieces_are_those_of_both_servers(monkeypatch):
    monkeypatch.setattr(linear, "PIECE", 3)
    keys, shapes = (b"a" * 16, b"b" * 16), [(4, 2), (5,), (3,), ()]
    for index, mask in enumerate(summed_weight_masks(keys, shapes)):
        halves = [KeyStream(derive(key, "weight", index)).words(shapes[index]) for key in keys]
        np.testing.assert_array_equal(mask, halves[0] + halves[1])
