"""Whose a worker is: seats, rights at one worker, roles of callers, and how workers of one machine learn it."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import itertools

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from actors import ActorNotFound, ActorSystem, BadAddress, Caller, NotAllowed
from actors.identity.caller import CALLER, LOCAL
from actors.messages.schema import messages_of
from federated.aggregation.shared_aggregation import _SharedSession
from federated.machines.certificates import encryption, issue
from federated.owners.hiding import Hiding
from inner_workers import inner_worker, inner_workers
from protocols import Cluster, Worker
from protocols.authority.enrolment import ENROLMENT, Enrolment
from protocols.authority.membership import ADMINISTRATOR, CLIENT, OWNER, PEOPLE, WORKERS, Member, Membership, Trio
from protocols.authority.rights import Claim, digest, digest_at, new_secret, right_at, shows
from protocols.authority.seats import helper_of, seats
from protocols.clusters.roles import roles
from protocols.errors import ClusterError, NotOwner
from protocols.workers.compute_server import ComputeServer
from protocols.workers.crypto_provider import CryptoProvider
from protocols.workers.worker_process import PARTS, opened

URLS = ("ws://127.0.0.1:4000", "ws://127.0.0.1:4001", "ws://127.0.0.1:4002")
TRIO = Trio((Member(URLS[0]), Member(URLS[1]), Member(URLS[2])), 0)
NAMED = Trio((Member(URLS[0], "julia"), Member(URLS[1], "greg"), Member(URLS[2], "me")), 0)


def certificate(*names: str) -> bytes:
    """Of a common name, DER; who has signed it is TLS's concern."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in names])
    private, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(private.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    return builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def holder(*names: str) -> Caller:
    return Caller(certificate=certificate(*names))


@contextlib.contextmanager
def sent_by(sender: Caller):
    """As a cell does before it runs a handler."""
    before = CALLER.set(sender)
    try:
        yield sender
    finally:
        CALLER.reset(before)


class TestSeats:
    @given(st.text())
    def test_among_equals_the_name_decides_as_owners_and_clients_reckon(self, name):
        helper = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 3
        sat = seats(True, name)
        assert (sat.third, sat.helper, helper_of(name)) == (helper, helper, helper)
        assert sat.all == ((helper + 1) % 3, (helper + 2) % 3, helper)
        assert [URLS[place] for place in sat.all] == [*roles(URLS, helper).all]
        assert [sat.party(place) for place in sat.all] == [0, 1, 2]

    @given(st.text())
    def test_a_crypto_provider_deals_for_every_name(self, name):
        sat = seats(False, name)
        assert (sat.servers, sat.third, sat.helper, sat.all) == ((0, 1), 2, None, (0, 1, 2))
        assert [sat.party(place) for place in range(3)] == [0, 1, 2]

    def test_each_place_helps(self):
        assert {helper_of(f"model {number}") for number in range(30)} == {0, 1, 2}


class TestRights:
    def test_those_at_different_places_have_nothing_in_common(self):
        secrets = [new_secret() for _ in range(3)]
        rights = [right_at(secret, place) for secret in secrets for place in range(3)]
        told = [digest_at(secret, place) for secret in secrets for place in range(3)]
        assert len({*secrets, *rights, *told}) == 3 + 9 + 9
        assert {len(right) for right in rights} == {16}
        for secret, right in itertools.product(secrets, rights):
            assert right not in secret
        known = [*rights, *told, *(digest(one) for one in told), *(right_at(right, place) for right in rights for place in range(3))]
        for right, other in itertools.product(rights, known):  # of what one worker has been shown or told, nothing is a right elsewhere
            assert (right == other) == (other in rights and rights.index(right) == rights.index(other))

    def test_the_digest_recognises_its_right_and_no_other(self):
        secret = new_secret()
        for place in range(3):
            assert digest_at(secret, place) == digest(right_at(secret, place))
            assert shows(right_at(secret, place), digest_at(secret, place))
            others = (right_at(secret, (place + 1) % 3), right_at(new_secret(), place), secret, digest_at(secret, place), b"")
            assert not any(shows(other, digest_at(secret, place)) for other in others)

    def test_a_claim_is_bound_to_the_certificate_of_who_made_it(self):
        right = right_at(new_secret(), 0)
        with sent_by(holder("alice")):
            claim = Claim.of_caller(digest(right))
        assert claim.holder == "alice"
        with sent_by(holder("alice")):  # over another connection, with a renewed certificate
            assert claim.allows(right)
            claim.check(right, "the model 'mnist'")
            with pytest.raises(NotOwner, match="the model 'mnist' was placed here by somebody else"):
                claim.check(right_at(new_secret(), 0), "the model 'mnist'")
        for other in (holder("bob"), Caller(), Caller(same_user=True), Caller(address=URLS[1]), LOCAL):
            with sent_by(other):
                assert not claim.allows(right)
                with pytest.raises(NotOwner, match="only who placed it may do this"):
                    claim.check(right, "the model 'mnist'")

    def test_without_certificates_the_right_alone_decides(self):
        right = right_at(new_secret(), 0)
        with sent_by(Caller(same_user=True)):
            claim = Claim.of_caller(digest(right))
        for other in (Caller(same_user=True), Caller()):
            with sent_by(other):
                assert claim.allows(right)
                assert not claim.allows(right_at(new_secret(), 0))
        with sent_by(holder("alice")):
            assert not claim.allows(right)

    @pytest.mark.parametrize("length", [0, 16, 31, 33])
    def test_something_else_than_a_digest_is_no_claim(self, length):
        with pytest.raises(NotOwner, match=f"a claim of {length} bytes arrived; the digest of a right has 32"):
            Claim.of_caller(bytes(length))

    def test_no_repr_shows_a_digest(self):
        told = digest_at(new_secret(), 0)
        assert repr(told) not in repr(Claim(told, "alice"))


class TestRoles:
    @pytest.mark.parametrize(
        "sender",
        [
            Caller(),
            Caller(dialed=True),
            Caller(address="ws://127.0.0.1:4009"),
            Caller(address=URLS[0]),
            holder("greg"),
            holder("greg", "me"),
        ],
    )
    def test_whoever_is_not_known_is_a_client_and_nothing_else(self, sender):
        for cluster in (Membership(), Membership(TRIO), Membership(TRIO, people={"alice": frozenset({OWNER})})):
            assert cluster.roles(sender) == {CLIENT}
            assert cluster.place_of(sender) == -1

    def test_a_worker_is_known_on_loopback_by_where_it_has_proven_to_listen(self):
        cluster = Membership(TRIO)
        for place in (1, 2):
            sender = Caller(address=URLS[place], same_user=True)  # also if it says that it runs for the user: it gets no right of an owner
            assert cluster.place_of(sender) == place
            assert cluster.roles(sender) == WORKERS

    def test_a_worker_with_a_certificate_is_known_by_it_alone(self):
        cluster = Membership(NAMED, people={"greg": frozenset({OWNER}), "alice": frozenset({OWNER})})
        assert cluster.names == dict(zip(URLS, ("julia", "greg", "me"), strict=True))
        assert [cluster.place_of(holder(name)) for name in ("julia", "greg", "me", "alice")] == [-1, 1, 2, -1]
        assert cluster.roles(holder("greg")) == WORKERS
        assert cluster.roles(Caller(address=URLS[1])) == {CLIENT}
        assert Membership(TRIO).names == {}

    def test_nobody_is_the_worker_itself_over_a_connection(self):
        assert Membership(TRIO).place_of(Caller(address=URLS[0])) == -1
        assert Membership(NAMED).place_of(holder("julia")) == -1

    def test_nodes_of_the_cluster_file_have_the_roles_of_their_certificates_and_may_ask(self):
        cluster = Membership(NAMED, people={"alice": frozenset({OWNER}), "hub": frozenset({"an aggregator"})})
        assert cluster.roles(holder("alice")) == {OWNER, CLIENT}
        assert cluster.roles(holder("hub")) == {"an aggregator", CLIENT}
        assert cluster.roles(holder("bob")) == {CLIENT}

    def test_a_process_of_the_same_user_has_all_roles_of_people_and_none_of_a_worker(self):
        for cluster in (Membership(), Membership(TRIO)):
            assert cluster.roles(Caller(same_user=True)) == PEOPLE
        assert not PEOPLE & WORKERS

    def test_believing_is_for_plaintext_between_machines_and_gives_everybody_everything(self):
        cluster = Membership(TRIO, believe=True, models={"mnist": "alice"})
        assert cluster.roles(Caller()) == WORKERS | PEOPLE
        with sent_by(Caller()):
            cluster.require(1, "deliver")
            cluster.check_name("mnist")

    def test_somebody_who_called_before_the_worker_was_told_whose_it_is_is_known_afterwards(self):
        cluster, sender = Membership(), Caller(address=URLS[1])
        assert cluster.place_of(sender) == -1
        cluster.enrol(TRIO)
        assert cluster.place_of(sender) == 1

    def test_what_only_the_worker_at_one_place_may_send(self, caplog):
        cluster = Membership(TRIO)
        for place, allowed in ((1, URLS[1]), (2, URLS[2])):
            for sender in (Caller(address=allowed), LOCAL):
                with sent_by(sender):
                    cluster.require(place, "deliver")
            others = (*(Caller(address=url) for url in URLS if url != allowed), Caller(), Caller(same_user=True), holder("greg"))
            for other in others:
                with sent_by(other), pytest.raises(NotAllowed, match=f"deliver is for the worker at place {place} of this cluster alone"):
                    cluster.require(place, "deliver")
        assert "refused: deliver sent by the system at ws://127.0.0.1:4002" in caplog.messages
        with sent_by(Caller(address=URLS[1])), pytest.raises(NotAllowed):
            Membership().require(1, "deliver")

    def test_names_of_models_that_belong_to_somebody(self, caplog):
        cluster = Membership(NAMED, models={"mnist": "alice"})
        with sent_by(holder("alice")):
            cluster.check_name("mnist")
        for other in (holder("bob"), Caller(same_user=True), Caller(), LOCAL):
            with sent_by(other):
                cluster.check_name("another")
                with pytest.raises(NotAllowed, match="the name 'mnist' is for the models of 'alice' alone"):
                    cluster.check_name("mnist")
        assert any("'mnist', sent by the holder of the certificate of 'bob'" in line for line in caplog.messages)


class TestMembership:
    def test_a_worker_of_no_cluster_takes_part_in_nothing(self):
        for asked in (lambda one: one.trio, lambda one: one.place, lambda one: one.address(0), lambda one: one.seats(False, "")):
            with pytest.raises(ClusterError, match="belongs to no cluster, and computes with nobody"):
                asked(Membership())

    def test_it_is_told_once(self):
        cluster = Membership()
        cluster.enrol(TRIO)
        cluster.enrol(Trio(TRIO.members, 0))  # the same again is fine
        assert (cluster.place, cluster.address(2)) == (0, URLS[2])
        other = Member("ws://127.0.0.1:4003")
        for trio in (
            Trio((TRIO.members[0], TRIO.members[1], other), 0),
            Trio((TRIO.members[0], TRIO.members[2], TRIO.members[1]), 0),
            Trio((TRIO.members[1], TRIO.members[0], TRIO.members[2]), 1),
            Trio(TRIO.members, 1),
            NAMED,
        ):
            with pytest.raises(ClusterError, match=r"belongs to the cluster ws://127.0.0.1:4000, .*:4001, .*:4002, in this order"):
                cluster.enrol(trio)
            assert cluster.trio is TRIO

    @pytest.mark.parametrize("equals", [False, True])
    def test_the_form_of_the_cluster_may_be_fixed(self, equals):
        cluster = Membership(Trio(TRIO.members, 0, equals))
        assert cluster.seats(equals, "net") == seats(equals, "net")
        with pytest.raises(ClusterError, match="consists of three equals" if equals else "two servers and a crypto provider"):
            cluster.seats(not equals, "net")
        for form in (False, True):  # on loopback it is for the owner to say
            assert Membership(TRIO).seats(form, "net") == seats(form, "net")


def test_every_message_of_a_worker_says_who_may_send_it_and_no_worker_may_do_what_people_do():
    """But ask which models there are: `confide status` on the machine of a worker has that worker's certificate."""
    both = set()
    for part in (*PARTS.values(), Enrolment):
        for name, declared in messages_of(part).items():
            assert declared.by or name == "drain", f"{part.__name__}.{name}"  # which its own process sends
            assert declared.by <= WORKERS | PEOPLE
            if declared.by & WORKERS and declared.by & PEOPLE:
                both.add(f"{part.__name__}.{name}")
    assert both == {"ComputeServer.names"}
    assert {one.by for one in messages_of(Enrolment).values()} == {frozenset({ADMINISTRATOR})}


class TestEnrolment:
    """With real systems on loopback."""

    async def test_nobody_outside_of_its_process_has_a_worker_drain(self):
        async with inner_workers() as (inner, _), ActorSystem() as other:
            for name, part in (("server", ComputeServer), ("provider", CryptoProvider)):
                actor = await other.connect(f"{inner[0].system.address}/{name}", part)
                with pytest.raises(NotAllowed, match="nobody outside of its process"):
                    await actor.drain()

    async def test_a_process_of_the_same_user_says_whose_the_workers_are(self):
        async with inner_workers() as (inner, cluster):
            urls = tuple(one.system.address for one in inner)
            for place, one in enumerate(inner):
                assert one.membership.place == place
                assert [one.membership.address(other) for other in range(3)] == [*urls]
            async with Cluster(*cluster.workers[:2], crypto_provider=cluster.workers[2]), Cluster(*cluster.workers):
                pass  # the same again, from other processes, and in the other form
            turned = Cluster(*cluster.workers[1:], cluster.workers[0])
            with pytest.raises(ClusterError, match="belongs to the cluster"):
                async with turned:
                    pass
            for place, one in enumerate(inner):
                assert (one.membership.place, one.membership.address(0)) == (place, urls[0])

    @pytest.mark.parametrize("place", range(3))
    async def test_a_worker_that_was_started_again_is_told_by_the_cluster_that_goes_on(self, tmp_path, place):
        """Before the next thing that needs it; its folder is that of before, its memory is empty."""
        array, hiding = np.ones((3, 2)), Hiding(8.0, 100)
        async with contextlib.AsyncExitStack() as stack:
            others = [await stack.enter_async_context(inner_worker(tmp_path / f"other {number}")) for number in range(2)]
            mine, address = tmp_path / "mine", "127.0.0.1:0"
            async with inner_worker(mine) as one:
                address = one.system.address.removeprefix("ws://")
                urls = [other.system.address for other in others]
                urls.insert(place, one.system.address)
                first, second, third = map(Worker, urls)
                cluster = await stack.enter_async_context(Cluster(first, second, crypto_provider=third, auto_managed=False))
                grant = await cluster.deposit("a", array)
            for asked in (
                lambda: cluster.load("a", grants=grant),
                lambda: cluster.store("b", array),
                lambda: cluster.deposits(),
                lambda: _SharedSession.begin(cluster, (4, 0), hiding, 3, 3),
            ):
                async with inner_worker(mine, address=address) as again:
                    with pytest.raises(ClusterError, match="belongs to no cluster"):
                        _ = again.membership.trio
                    assert await asked()
                    assert (again.membership.place, again.membership.address(place)) == (place, urls[place])

    async def test_nobody_else_does(self):
        """Neither another user, nor another worker of this one, nor one of the cluster itself."""
        async with inner_worker() as target, inner_worker() as other, inner_worker() as third:
            addresses = tuple(one.system.address for one in (target, other, third))
            async with ActorSystem(for_user=False) as stranger, ActorSystem("ws://127.0.0.1:0", for_user=False) as listening:
                for system in (stranger, listening, other.system):
                    enrolment = await system.connect(f"{addresses[0]}/{ENROLMENT}", Enrolment)
                    with pytest.raises(NotAllowed, match=r"join may be sent by: the administrator; you are"):
                        await enrolment.join(addresses)
                    with pytest.raises(ClusterError, match="belongs to no cluster"):
                        _ = target.membership.trio
            async with ActorSystem() as own:
                await (await own.connect(f"{addresses[0]}/{ENROLMENT}", Enrolment)).join(addresses)
            enrolment = await other.system.connect(f"{addresses[0]}/{ENROLMENT}", Enrolment)
            with pytest.raises(NotAllowed, match="the administrator; you are the system at"):
                await enrolment.join(addresses)

    @pytest.mark.parametrize(
        ("others", "error", "complaint"),
        [
            (("ws://10.0.0.1:4001", "ws://127.0.0.1:4002"), ClusterError, "on its own machine only"),
            (("ws://127.0.0.1:4001", "ws://example.org:4002"), ClusterError, "on its own machine only"),
            (("wss://127.0.0.1:4001", "ws://127.0.0.1:4002"), ClusterError, "on its own machine only"),
            (("ws://127.0.0.1:4001", "ws://localhost:4001"), ClusterError, "three different workers"),
            (("ws://127.0.0.1:4001", "not an address"), BadAddress, "not an address"),
        ],
    )
    async def test_of_a_cluster_that_is_none_of_this_machine_it_hears_nothing(self, others, error, complaint):
        async with inner_worker() as one, ActorSystem() as own:
            enrolment = await own.connect(f"{one.system.address}/{ENROLMENT}", Enrolment)
            for addresses in itertools.permutations((one.system.address, *others)):
                with pytest.raises(error, match=complaint):
                    await enrolment.join(addresses)
            with pytest.raises(ClusterError, match="belongs to no cluster"):
                _ = one.membership.trio

    async def test_only_a_cluster_that_it_is_in(self):
        async with inner_worker() as one, ActorSystem() as own:
            enrolment = await own.connect(f"{one.system.address}/{ENROLMENT}", Enrolment)
            twice = (one.system.address, one.system.address.replace("127.0.0.1", "localhost"), URLS[0])
            for addresses in (URLS, twice):
                with pytest.raises(ClusterError, match="three different workers are needed, and one of them is"):
                    await enrolment.join(addresses)
            with pytest.raises(ClusterError, match="belongs to no cluster"):
                _ = one.membership.trio
            await enrolment.join((URLS[0], URLS[1], one.system.address.replace("127.0.0.1", "localhost")))
            assert one.membership.place == 2

    async def test_a_worker_with_a_certificate_is_told_by_nobody(self, tmp_path):
        issue({"one": "127.0.0.1", "owner": None}, tmp_path)
        membership = Membership()
        async with (
            opened("127.0.0.1:0", encryption(tmp_path, "one"), membership) as (system, _),
            ActorSystem(connect_ssl=encryption(tmp_path, "owner").connect) as own,
        ):
            assert system.address.startswith("wss://")
            with pytest.raises(ActorNotFound):
                await own.connect(f"{system.address}/{ENROLMENT}", Enrolment)
            workers = [Worker(system.address), Worker("wss://127.0.0.1:1"), Worker("wss://127.0.0.1:2")]
            await Cluster(*workers)._enrol(own, workers[0])  # asks nothing of it
            with pytest.raises(ClusterError, match="belongs to no cluster"):
                _ = membership.trio
