"""Certificates that change while systems run, over real TLS: who is let in, who goes on, who is cut off, and what both sides read."""

import asyncio
import logging
import os
import re
import signal
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from actors import Actor, ActorSystem, BadCredentials, ConnectFailed, ConnectionLost, message
from actors.credentials import watching
from actors.credentials.files import Credentials, Paths
from actors.credentials.watching import watched
from authorities import HOST, Members, shown
from federated.authority import request

DAY = timedelta(days=1)


class Desk(Actor):
    """Answers, or waits until it is cancelled, and says so."""

    def __init__(self, waiting=None, cancelled=None):
        self.waiting, self.cancelled = waiting, cancelled

    @message
    async def greet(self) -> str:
        return "hello"

    @message
    async def wait(self) -> None:
        self.waiting.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.cancelled.set()


@pytest.fixture
def members(tmp_path):
    made = Members(tmp_path)
    made.add("hub", "aggregator", HOST)
    made.add("a")
    made.add("b")
    return made


@pytest.fixture
async def hub(members):
    """A system that listens with the certificate of the hub."""
    credentials = members.credentials("hub")
    async with ActorSystem(f"wss://{HOST}:0", ssl=credentials.listen, connect_ssl=credentials.connect, timeout=20.0) as system:
        await system.spawn(Desk, name="desk")
        system.credentials = credentials
        yield system


def dialing(credentials):
    return ActorSystem(connect_ssl=credentials.connect, timeout=20.0)


async def greeted(hub, credentials):
    async with dialing(credentials) as system:
        return await (await system.connect(f"{hub.address}/desk", Desk)).greet()


def lines(caplog, least=logging.WARNING):
    return [record.getMessage() for record in caplog.records if record.levelno >= least]


# New files.


async def test_new_connections_show_the_new_certificate_and_open_ones_go_on(members, hub):
    a = members.credentials("a")
    old = (await shown(hub.address, a.connect)).serial_number
    async with dialing(a) as system:
        desk = await system.connect(f"{hub.address}/desk", Desk)
        members.renew("hub")
        new = (await shown(hub.address, a.connect)).serial_number
        assert new != old
        assert members.authority.entries()[-1].signed.serial_number == new
        before = a.own.certificate
        members.renew("a")
        assert await greeted(hub, a) == "hello"
        assert a.own.certificate != before
        assert await desk.greet() == "hello"  # the same connection


async def test_a_member_that_comes_later_needs_nothing_at_the_others(members, hub):
    members.add("c")
    assert await greeted(hub, members.credentials("c")) == "hello"


async def test_files_that_cannot_be_used_change_nothing(members, hub, caplog):
    a, file = members.credentials("a"), members.keys("hub") / "hub.pem"
    good, old = file.read_bytes(), (await shown(hub.address, a.connect)).serial_number
    for bad in (b"", b"nonsense", (members.keys("a") / "a.pem").read_bytes(), good[: len(good) // 2]):
        file.write_bytes(bad)
        assert (await shown(hub.address, a.connect)).serial_number == old
    file.unlink()
    assert (await shown(hub.address, a.connect)).serial_number == old
    told = lines(caplog)
    assert len(told) == 5  # each of them once
    assert all("'hub' were not read again, those before stay in use" in line for line in told)
    assert "nonsense" not in "".join(told)
    file.write_bytes(good)
    assert hub.credentials.refresh()


async def test_a_new_key_is_used_once_its_certificate_has_come(members, hub):
    keys, a = members.keys("hub"), members.credentials("a")
    asked = request.read(request.make(keys, "hub", new_key=True))
    old = await shown(hub.address, a.connect)
    made = members.authority.renew("hub", asked)
    (keys / "hub.pem").write_bytes(made.certificate.public_bytes(Encoding.PEM))  # nothing but that, by hand
    new = await shown(hub.address, a.connect)
    assert new.public_key() == asked.public_key() != old.public_key()


async def test_settings_of_a_context_hold_for_new_files(members, hub):
    a = members.credentials("a")
    a.connect.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ConnectFailed, ssl.SSLError, ValueError)):
        await greeted(hub, a)
    a.connect.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
    members.renew("a")
    assert await greeted(hub, a) == "hello"


async def test_a_session_is_not_taken_up_again(members, hub):
    """Otherwise who has expired could go on with a ticket of before."""
    host, _, port = hub.address.removeprefix("wss://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=members.credentials("a").connect)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert await reader.read()
    session = writer.get_extra_info("ssl_object").session
    writer.close()
    assert session is None or not session.has_ticket


# Revocation.


async def test_who_is_revoked_is_cut_off_and_nobody_else(members, hub, caplog):
    begun, ended = asyncio.Event(), asyncio.Event()
    await hub.spawn(Desk, begun, ended, name="slow")
    async with dialing(members.credentials("a")) as ours, dialing(members.credentials("b")) as theirs:
        a = await ours.connect(f"{hub.address}/slow", Desk)
        b = await theirs.connect(f"{hub.address}/desk", Desk)
        waiting = asyncio.create_task(a.wait())
        await begun.wait()
        members.revoke("a", "hub")
        assert hub.credentials.refresh()
        with pytest.raises(ConnectionLost, match=r"closed by the other side: 1008 the certificate of 'a' was revoked on 20"):
            await waiting
        await ended.wait()  # what it had asked for is cancelled
        assert await b.greet() == "hello"  # over the connection that it had
        with pytest.raises(ConnectFailed, match=r"refused the connection: 403 the certificate of 'a' was revoked on 20"):
            await a.greet()
        assert await greeted(hub, members.credentials("b")) == "hello"
    told = lines(caplog)
    assert len(told) == 2
    assert all("the certificate of 'a' was revoked on" in line for line in told)
    assert "was closed" in told[0]
    assert "a connection from 127.0.0.1 was refused" in told[1]


async def test_who_is_revoked_is_not_dialed(members, hub, caplog):
    a = members.credentials("a")
    async with dialing(a) as system:
        desk = await system.connect(f"{hub.address}/desk", Desk)
        members.revoke("hub", "a")
        assert a.refresh()
        for _ in range(2):
            with pytest.raises((ConnectFailed, ConnectionLost), match="the certificate of 'hub' was revoked"):
                await desk.greet()
    assert any("was closed: the certificate of 'hub' was revoked" in line for line in lines(caplog))


async def test_a_renewed_certificate_does_not_outlive_a_revocation(members, hub):
    members.renew("a")
    members.revoke("a", "hub")
    for _ in range(2):
        with pytest.raises(ConnectFailed, match="revoked"):
            await greeted(hub, members.credentials("a"))
    members.add("a")  # anew, for who has lost a key
    assert await greeted(hub, members.credentials("a")) == "hello"


async def test_lists_that_are_old_or_gone_bring_nobody_back(members, hub, caplog):
    file = members.keys("hub") / "ca.crl"
    old = file.read_bytes()
    members.revoke("a", "hub")
    hub.credentials.refresh()
    file.write_bytes(old)
    with pytest.raises(ConnectFailed, match="revoked"):
        await greeted(hub, members.credentials("a"))
    assert await greeted(hub, members.credentials("b")) == "hello"
    file.unlink()
    with pytest.raises(ConnectFailed, match="revoked"):
        await greeted(hub, members.credentials("a"))
    assert await greeted(hub, members.credentials("b")) == "hello"
    told = "".join(lines(caplog))
    assert re.search(r"has list 1 of an authority, of .*, and list 2 of .* was read before, which stays in force: it is an old one", told)
    assert "is gone: the list of revoked certificates before stays in force" in told


@pytest.mark.parametrize("content", [b"nonsense", None])
def test_a_node_does_not_start_with_a_list_that_it_cannot_believe(members, tmp_path, content):
    (tmp_path / "other").mkdir()
    strange = Members(tmp_path / "other").authority.list_file.read_bytes()
    (members.keys("hub") / "ca.crl").write_bytes(content or strange)
    with pytest.raises(BadCredentials, match=r"ca\.crl"):
        members.credentials("hub")


async def test_folders_without_a_list_go_on_as_before(members, hub):
    (members.keys("a") / "ca.crl").unlink()
    a = members.credentials("a")
    assert a.revoked == 0
    assert await greeted(hub, a) == "hello"


# Time.


async def test_an_expired_certificate_and_one_that_is_not_valid_yet(members, hub, caplog):
    now = members.now[0]
    members.now[0] = now - 90 * DAY
    members.add("late", days=60)
    members.now[0] = now + 90 * DAY
    members.add("early")
    for name, told in (
        ("late", rf"it refused our certificate, that of 'late' \(expired on {now - 30 * DAY:%Y-%m-%d}\)"),
        ("early", rf"it refused our certificate, that of 'early' \(valid from {now + 89 * DAY:%Y-%m-%d}"),
    ):
        with pytest.raises(ConnectFailed, match=told):
            await greeted(hub, members.credentials(name))
    expired, early = lines(caplog)
    assert expired.startswith("a connection from 127.0.0.1 was refused: its certificate was refused")
    assert "expired" in expired
    assert "not yet valid" in early


async def test_a_node_whose_certificate_has_expired_is_not_dialed(members):
    now = members.now[0]
    members.now[0] = now - 90 * DAY
    members.add("late", "aggregator", HOST, days=60)
    late = members.credentials("late")
    async with ActorSystem(f"wss://{HOST}:0", ssl=late.listen) as system:
        with pytest.raises(ConnectFailed, match="its certificate was refused: certificate verify failed: certificate has expired"):
            await greeted(system, members.credentials("a"))


async def test_a_name_of_a_member_is_none_of_a_host(members):
    """A member called as a host cannot pass for it: alternative names count only, which the authority gives."""
    members.add("localhost", "owner")
    own = members.credentials("localhost")
    async with ActorSystem(f"wss://{HOST}:0", ssl=own.listen) as system:
        address = system.address.replace(HOST, "localhost")
        async with dialing(members.credentials("a")) as other:
            with pytest.raises(ConnectFailed, match="certificate verify failed: Hostname mismatch"):
                await other.connect(f"{address}/desk", Desk)


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (0, []),
        (334, []),
        (336, ["the certificate of 'a' expires on {until}, in 28 days"]),
        (366, ["the certificate of 'a' expired on {until}: it is refused everywhere; confide certs renew makes another"]),
        (-9, ["the certificate of 'a' is valid from {since} UTC only: is the clock right?"]),
    ],
)
def test_what_is_warned_of(members, after, says):
    now = datetime.now(UTC)
    found = members.credentials("a", clock=lambda: now + after * DAY)
    until, since = f"{found.own.until:%Y-%m-%d}", f"{found.own.since:%Y-%m-%d %H:%M}"
    assert found.concerns(days=30) == [line.format(until=until, since=since) for line in says]


def test_the_authority_expires_as_well_and_who_is_revoked_is_told(members):
    last = members.authority.certificate.not_valid_after_utc
    told = members.credentials("a", clock=lambda: last - DAY).concerns(days=30)
    assert f"the authority expires on {last:%Y-%m-%d}, in 1 days" in told
    members.revoke("a", "a")
    told = members.credentials("a").concerns(days=30)
    assert any("this system is refused everywhere: the certificate of 'a' was revoked" in line for line in told)


# Keys.


@pytest.mark.parametrize("mode", [0o604, 0o622, 0o666, 0o602])
def test_a_key_that_others_can_read_or_replace_is_not_used(members, mode):
    (members.keys("a") / "a.key").chmod(mode)
    with pytest.raises(BadCredentials, match=f"has mode {mode:04o}: others on this machine .* chmod 600"):
        members.credentials("a")


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_a_key_that_its_group_may_read_is_used(members, mode):
    """As service managers and container platforms hand keys to a service."""
    (members.keys("a") / "a.key").chmod(mode)
    assert members.credentials("a").own.name == "a"


def test_a_link_counts_as_what_it_leads_to(members, tmp_path):
    key, place = members.keys("a") / "a.key", tmp_path / "mounted.key"
    key.rename(place)
    key.symlink_to(place)
    assert members.credentials("a").own.name == "a"
    place.chmod(0o644)
    with pytest.raises(BadCredentials, match="has mode 0644"):
        members.credentials("a")


async def test_a_key_that_becomes_readable_is_told_and_the_one_before_stays(members, hub, caplog):
    (members.keys("hub") / "hub.key").chmod(0o644)
    assert await greeted(hub, members.credentials("a")) == "hello"
    assert any("has mode 0644" in line for line in lines(caplog))


def test_keys_that_are_no_keys(members, tmp_path):
    from federated.authority import key_file

    key = members.keys("a") / "a.key"
    plain = key.read_bytes()
    key.write_bytes(key_file.pem(key_file.read(key, None), "some long passphrase"))
    with pytest.raises(BadCredentials, match=r"a\.key is encrypted: a node starts without anybody") as refused:
        members.credentials("a")
    assert "BEGIN" not in str(refused.value)
    key.unlink()
    with pytest.raises(BadCredentials, match=r"a\.key cannot be read: No such file"):
        members.credentials("a")
    key.mkdir()
    with pytest.raises(BadCredentials, match="is no file"):
        members.credentials("a")
    key.rmdir()
    key.write_bytes(plain)
    with pytest.raises(BadCredentials, match=r"none\.pem cannot be read"):
        Credentials(Paths(tmp_path / "none.pem", key, members.keys("a") / "ca.pem"))


# While a process runs.


async def test_files_are_watched_and_sighup_reads_them_in_any_case(members, hub, caplog):
    caplog.set_level(logging.INFO)
    told = asyncio.Queue()
    credentials = hub.credentials
    async with watched(credentials, told.put_nowait, every=0.001):
        members.renew("hub")
        assert "certificates: hub until" in await told.get()
    async with watched(credentials, told.put_nowait, every=3600.0):
        os.kill(os.getpid(), signal.SIGHUP)
        assert "0 revoked" in await told.get()
        members.revoke("a", "hub")
        os.kill(os.getpid(), signal.SIGHUP)
        assert "1 revoked" in await told.get()
    async with watched(None, told.put_nowait):  # without TLS there is nothing to watch
        pass


@pytest.mark.parametrize(("left", "level"), [(31, None), (29, "WARNING"), (8, "WARNING"), (6, "ERROR"), (-1, "ERROR")])
async def test_a_warning_when_it_starts_and_every_day_and_an_error_in_the_last_week(members, caplog, monkeypatch, left, level):
    monkeypatch.setattr(watching, "DAY", 0.0)
    own = members.credentials("a").own
    credentials = members.credentials("a", clock=lambda: own.until - left * DAY)
    async with asyncio.timeout(20), watched(credentials, print, every=0.001):
        while level is not None and len(caplog.records) < 3:
            await asyncio.sleep(0.001)
    found = [(record.levelname, record.getMessage()) for record in caplog.records if record.levelno >= logging.WARNING]
    assert {name for name, _ in found} == ({level} if level else set())
    assert all("the certificate of 'a' expire" in line for _, line in found)


@pytest.mark.parametrize(
    ("ignored", "terminals", "ends"), [(False, [True, False], True), (False, [True, True], False), (True, [True], False)]
)
async def test_a_terminal_that_is_gone_ends_what_was_started_from_it(members, monkeypatch, ignored, terminals, ends):
    """Unless SIGHUP was ignored from the start, as under nohup."""
    left, sent, told = list(terminals), [], asyncio.Queue()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    monkeypatch.setattr(watching, "_has_terminal", lambda: left.pop(0))
    try:
        with monkeypatch.context() as patched:
            patched.setattr(watching.os, "kill", lambda pid, number: sent.append(number) or told.put_nowait("ended"))
            async with watched(members.credentials("a"), told.put_nowait, every=3600.0):
                signal.raise_signal(signal.SIGHUP)
                assert (await told.get()).startswith("ended" if ends else "certificates: a until")
        assert sent == ([signal.SIGTERM] if ends else [])
        assert (signal.getsignal(signal.SIGHUP) is signal.SIG_IGN) == ignored
    finally:
        signal.signal(signal.SIGHUP, before)
