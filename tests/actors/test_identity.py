"""Who is at the other end of a connection, what roles allow, and what nobody can pretend to be on loopback."""

from __future__ import annotations

import asyncio
import os
import stat

import pytest

from actors import ANYONE, Actor, ActorSystem, Caller, ConnectFailed, MessageRejected, NotAllowed, caller, message
from actors.address import Address
from actors.identity import published
from actors.identity.proofs import Identity, Introduction

LISTEN = "ws://127.0.0.1:0"


class Door(Actor):
    """Says who stands before it."""

    @message(reentrant=True)
    async def seen(self) -> list[bool | str]:
        one = caller()
        return [one.local, one.same_user, one.dialed, one.address, one.common_name]

    @message
    def seen_at_once(self) -> bool:
        return caller().same_user

    @message(by="friend")
    async def open(self, secret: bytes) -> str:
        return "open"

    @message(by=ANYONE)
    async def ring(self) -> str:
        return "ring"

    @message(by=("friend", "owner"), reentrant=True)
    def paint(self) -> str:
        return "green"

    @message
    async def undeclared(self) -> str:
        return "never from outside, where roles are known"

    @message(by=ANYONE, reentrant=True)
    async def call_back(self, other: Door) -> list[bool | str]:
        return await other.seen()


@pytest.fixture(autouse=True)
def runtime(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "confide"


async def test_a_process_of_the_same_user_is_known_and_nothing_is_left_behind(runtime):
    async with ActorSystem(LISTEN) as system, ActorSystem() as other:
        door = await system.spawn(Door, name="door")
        [file] = runtime.iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
        assert await door.seen() == [True, False, False, "", ""]
        remote = await other.connect(f"{system.address}/door", Door)
        assert await remote.seen() == [False, True, False, "", ""]
        assert await remote.seen_at_once()
        assert caller().local
        mine = await other.spawn(Door)  # of a system that does not listen: reached over the connection that it dialed
        assert await remote.call_back(mine) == [False, True, True, system.address, ""]
    assert list(runtime.iterdir()) == []


async def test_a_system_that_listens_is_known_by_its_address_and_need_not_act_for_its_user():
    async with ActorSystem(LISTEN) as system, ActorSystem(LISTEN, for_user=False) as worker:
        await system.spawn(Door, name="door")
        remote = await worker.connect(f"{system.address}/door", Door)
        assert await remote.seen() == [False, False, False, worker.address, ""]


async def test_localhost_is_the_same_address():
    async with ActorSystem("ws://localhost:0") as system, ActorSystem() as other:
        await system.spawn(Door, name="door")
        for host in ("localhost", "127.0.0.1"):
            remote = await other.connect(f"ws://{host}:{Address.parse(system.address).port}/door", Door)
            assert (await remote.seen())[1]


async def test_another_user_is_known_by_nothing(monkeypatch, tmp_path):
    async with ActorSystem(LISTEN) as system, ActorSystem() as other:
        await system.spawn(Door, name="door")
        monkeypatch.setattr(published, "find", lambda address: None)  # another user cannot read the file
        remote = await other.connect(f"{system.address}/door", Door)
        assert await remote.seen() == [False, False, False, "", ""]


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
async def test_a_file_that_others_can_read_counts_for_nothing(runtime, mode):
    async with ActorSystem(LISTEN) as system, ActorSystem() as other:
        await system.spawn(Door, name="door")
        os.chmod(next(runtime.iterdir()), mode)
        remote = await other.connect(f"{system.address}/door", Door)
        assert await remote.seen() == [False, False, False, "", ""]


async def test_a_link_instead_of_the_file_is_not_followed(runtime, tmp_path):
    async with ActorSystem(LISTEN) as system:
        file = next(runtime.iterdir())
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
        assert published.find(Address.parse(system.address)) is None


async def test_a_folder_that_others_can_enter_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "confide").mkdir(mode=0o755)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    identity = Identity(Address.parse("ws://127.0.0.1:7"))
    assert (tmp_path / "home" / ".cache" / "confide" / "run" / "127.0.0.1-7").is_file()
    identity.withdraw()


async def test_whoever_takes_a_port_is_not_taken_for_its_owner():
    async with ActorSystem(LISTEN) as system:
        address = Address.parse(system.address)
        stale = Identity(address)  # replaces the file: as after a kill, when somebody else has taken the port
        try:
            async with ActorSystem() as other:
                with pytest.raises(ConnectFailed, match="not the process that wrote"):
                    await other.connect(f"{system.address}/door", Door)
        finally:
            stale.withdraw()


async def carried(source, target):
    while data := await source.read(1 << 16):
        target.write(data)
    target.close()


async def test_a_proof_that_is_passed_on_to_another_address_is_worth_nothing():
    """Somebody in between, at a port whose file is stale, relays every byte to the system that is meant."""
    async with ActorSystem(LISTEN) as system, ActorSystem() as other:
        await system.spawn(Door, name="door")
        meant = Address.parse(system.address)

        async def relay(reader, writer):
            there, back = await asyncio.open_connection(meant.host, meant.port)
            await asyncio.gather(carried(reader, back), carried(there, writer), return_exceptions=True)

        server = await asyncio.start_server(relay, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            found = published.find(meant)
            assert found is not None
            between = Address(False, "127.0.0.1", port)
            path = published.publish(between, found[0])  # even the very keys of the system that is meant
            with pytest.raises(ConnectFailed, match="not the process that wrote"):
                await other.connect(f"{between}/door", Door)
            path.unlink()


def test_tags_are_for_one_direction_one_sender_and_one_pair_of_nonces():
    address = Address.parse("ws://127.0.0.1:9")
    own = Identity(address)
    try:

        def ends():
            dialer, listener = Introduction(None, address, for_user=True), Introduction(own, None, for_user=False)
            proof = dialer.greeted(listener.nonce)
            assert listener.greeted(dialer.nonce) is None
            assert proof is not None
            return dialer, listener, proof

        dialer, listener, proof = ends()
        answer, known = listener.checked(proof, Caller())
        assert known.same_user
        assert dialer.answered(answer, Caller()).same_user
        _, other, replayed = ends()[0], ends()[1], proof
        other.greeted(dialer.nonce)
        assert not other.checked(replayed, Caller())[1].same_user  # other nonces
        third, fourth, proof = ends()
        assert not fourth.checked(type(proof)("ws://127.0.0.1:10", proof.user, proof.user), Caller())[1].same_user  # another sender
        with pytest.raises(Exception, match="not the process"):
            third.answered(proof, Caller())  # reflected
    finally:
        own.withdraw()


async def test_roles_are_checked_where_a_message_arrives_and_nobody_is_the_default(caplog):
    def roles(one: Caller) -> set[str]:
        return {"friend"} if one.same_user else set()

    async with ActorSystem(LISTEN, roles=roles) as system, ActorSystem() as friend, ActorSystem(for_user=False) as stranger:
        here = await system.spawn(Door, name="door")
        assert await here.undeclared()  # whoever has the reference in this process can do what it likes
        known, unknown = [await one.connect(f"{system.address}/door", Door) for one in (friend, stranger)]
        assert [await known.open(b"s3cret"), await known.ring(), await known.paint(), await unknown.ring()] == [
            "open",
            "ring",
            "green",
            "ring",
        ]
        for refused in (known.undeclared(), unknown.undeclared(), unknown.open(b"s3cret"), unknown.paint(), known.seen()):
            with pytest.raises(NotAllowed, match=r"may be sent by: (nobody|friend)"):
                await refused
        lines = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
        assert lines[1] == "refused: Door.undeclared sent by somebody who has shown nothing from 127.0.0.1"
        assert len(lines) == 5
        assert "s3cret" not in caplog.text
        assert await unknown.with_options(one_way=True).open(b"s3cret") is None  # refused there, and reported here


async def test_a_message_cannot_make_a_system_connect_elsewhere():
    async with (
        ActorSystem(LISTEN, refer=False) as system,
        ActorSystem(LISTEN) as elsewhere,
        ActorSystem() as other,
        ActorSystem(LISTEN) as listening,
    ):
        door = await system.spawn(Door, name="door")
        await elsewhere.spawn(Door, name="door")
        remote = await other.connect(f"{system.address}/door", Door)
        named = await other.connect(f"{elsewhere.address}/door", Door)
        with pytest.raises(MessageRejected, match="another system"):
            await remote.call_back(named)
        assert (await remote.call_back(await other.spawn(Door)))[2]  # over the same connection
        assert await remote.call_back(remote) == [True, False, False, "", ""]  # to itself
        assert elsewhere.address not in system._network._dialed
        theirs, mine = await listening.connect(f"{system.address}/door", Door), await listening.spawn(Door)
        with pytest.raises(MessageRejected, match="another system"):
            await theirs.call_back(mine)
        assert door


async def test_the_holder_of_a_reference_is_the_one_who_sent_it():
    class Desk(Actor):
        @message
        async def same(self, other: Door) -> bool:
            return self.system.holder(other) is caller()

    async with ActorSystem(LISTEN) as system, ActorSystem() as first, ActorSystem(LISTEN) as second:
        desk = await system.spawn(Desk, name="desk")
        assert await desk.same(await system.spawn(Door))
        remote = await first.connect(f"{system.address}/desk", Desk)
        assert await remote.same(await first.spawn(Door))
        elsewhere = await second.spawn(Door, name="door")
        with pytest.raises(MessageRejected, match="has to send it itself"):
            await remote.same(elsewhere)
        with pytest.raises(MessageRejected, match="has to send it itself"):
            await remote.same(remote)


async def test_a_port_that_was_left_in_order_is_not_dialed_when_somebody_else_has_taken_it():
    """There is no file then, so nobody proves anything: only those that must reach their own user find out."""
    async with ActorSystem(LISTEN) as taker:
        await taker.spawn(Door, name="door")
        taker.identity.withdraw()  # another user's: its file is not among ours
        async with ActorSystem() as client, ActorSystem(known_only=True) as careful, ActorSystem(LISTEN, known_only=True) as worker:
            assert await (await client.connect(f"{taker.address}/door", Door)).ring() == "ring"
            for system in (careful, worker):
                with pytest.raises(ConnectFailed, match="has not proven to run for the same user"):
                    await system.connect(f"{taker.address}/door", Door)
    async with ActorSystem(LISTEN) as own, ActorSystem(known_only=True) as careful:
        await own.spawn(Door, name="door")
        assert await (await careful.connect(f"{own.address}/door", Door)).ring() == "ring"


async def test_localhost_is_not_dialed_where_another_user_may_listen(monkeypatch):
    """A machine may know it as ::1 first, and there anybody could pass every byte on to 127.0.0.1, proofs included."""
    dialed = []
    monkeypatch.setattr(
        "actors.connection.opening.connect", lambda url, **options: dialed.append(url) or (_ for _ in ()).throw(OSError("stop"))
    )
    async with ActorSystem() as system:
        with pytest.raises(ConnectFailed):
            await system.connect("ws://localhost:7/door", Door)
    assert dialed == ["ws://127.0.0.1:7"]
