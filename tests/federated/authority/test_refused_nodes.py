"""Whoever listens, and is refused by whoever dials: both read why, over real TLS."""

import asyncio
import logging
from datetime import timedelta

import pytest

from actors import Actor, ActorSystem, ConnectFailed, message
from authorities import HOST, Members


class Desk(Actor):
    @message
    async def greet(self) -> str:
        return "hello"


@pytest.fixture
def members(tmp_path):
    made = Members(tmp_path)
    made.add("hub", "aggregator", HOST)
    made.add("a", "server", HOST)
    return made


async def told(caplog, count):
    """The lines of the log, as soon as there are so many: what the other side says arrives after the error here."""
    async with asyncio.timeout(20):
        while len(found := [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]) < count:
            await asyncio.sleep(0.001)
    return found


async def refused(hub, says, host=HOST, **options):
    async with ActorSystem(timeout=20.0, **options) as system:
        with pytest.raises(ConnectFailed, match=says):
            await system.connect(f"{hub.address.replace(HOST, host)}/desk", Desk)


@pytest.fixture
async def hub(members):
    credentials = members.credentials("hub")
    async with ActorSystem(f"wss://{HOST}:0", ssl=credentials.listen, connect_ssl=credentials.connect, timeout=20.0) as system:
        await system.spawn(Desk, name="desk")
        yield system


async def test_an_authority_that_is_not_trusted(members, hub, tmp_path, caplog):
    (tmp_path / "other").mkdir()
    other = Members(tmp_path / "other")
    other.add("a")
    await refused(hub, "its certificate was refused: certificate verify failed", connect_ssl=other.credentials("a").connect)
    (line,) = await told(caplog, 1)
    assert line == (
        "a connection from 127.0.0.1 failed: it refused our certificate, that of 'hub' (it was signed by an authority that is not trusted"
        " there)"
    )


async def test_another_host(members, hub, caplog):
    members.add("far", "aggregator", "far.example")
    far = members.credentials("far")
    async with ActorSystem(f"wss://{HOST}:0", ssl=far.listen, timeout=20.0) as system:
        await refused(system, "certificate verify failed: IP address mismatch", connect_ssl=members.credentials("a").connect)
        (line,) = await told(caplog, 1)
    assert line.startswith("a connection from 127.0.0.1 failed: it refused our certificate, that of 'far'")


async def test_an_expired_certificate(members, caplog):
    now = members.now[0]
    members.now[0] = now - timedelta(days=90)
    members.add("late", "aggregator", HOST, days=60)
    late = members.credentials("late")
    async with ActorSystem(f"wss://{HOST}:0", ssl=late.listen, timeout=20.0) as system:
        await refused(system, "certificate verify failed: certificate has expired", connect_ssl=members.credentials("a").connect)
        (line,) = await told(caplog, 1)
    ended = now - timedelta(days=30)
    assert line == f"a connection from 127.0.0.1 failed: it refused our certificate, that of 'late' (expired on {ended:%Y-%m-%d})"


async def test_another_name(members, hub, caplog):
    options = {"connect_ssl": members.credentials("a").connect, "named": {hub.address: "julia"}}
    await refused(hub, "has shown the certificate of 'hub'; that of 'julia' is expected there", **options)
    (line,) = await told(caplog, 1)
    assert line.startswith("127.0.0.1:")
    assert line.endswith("has refused this system: the certificate of 'julia' is expected there")


async def test_a_node_that_refuses_logs_it_and_a_client_does_not(members, hub, caplog):
    """The client reads the error; of a node that dials another one somebody else may read it, far away."""
    members.revoke("hub", "a")
    a = members.credentials("a")
    await refused(hub, "the certificate of 'hub' was revoked on", connect_ssl=a.connect)
    (line,) = await told(caplog, 1)
    assert "has refused this system: the certificate of 'hub' was revoked on" in line
    await refused(hub, "the certificate of 'hub' was revoked on", listen=f"wss://{HOST}:0", ssl=a.listen, connect_ssl=a.connect)
    lines = await told(caplog, 3)
    assert sum(line.startswith(f"refused by this system: {hub.address} cannot be trusted: the certificate") for line in lines) == 1
