"""Lists of revoked certificates that have expired, are damaged or missing: who is let in then, over real TLS, and what both sides read."""

import logging
from datetime import UTC, datetime, timedelta
from ssl import DER_cert_to_PEM_cert

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from actors import Actor, ActorSystem, BadCredentials, ConnectFailed, message
from actors.credentials.files import Credentials, Paths
from actors.credentials.revocation import Revoked, read_lists
from authorities import HOST, Members
from federated.authority import key_file, member_file
from federated.authority.authority import Authority, Brought
from federated.authority.issuing import MemberRights
from federated.errors import KeysError

DAY = timedelta(days=1)


class Desk(Actor):
    @message
    async def greet(self) -> str:
        return "hello"


@pytest.fixture
def members(tmp_path):
    made = Members(tmp_path)
    made.add("hub", "aggregator", HOST)
    made.add("a")
    return made


class Clock:
    """A time that a test sets."""

    def __init__(self):
        self.now = datetime.now(UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def hub(members, clock):
    """A system that listens with the certificate of the hub, by a list for 10 days."""
    members.authority.list_again(10)
    members.bring_list("hub")
    credentials = members.credentials("hub", clock=clock)
    async with ActorSystem(f"wss://{HOST}:0", ssl=credentials.listen, connect_ssl=credentials.connect, timeout=20.0) as system:
        await system.spawn(Desk, name="desk")
        system.credentials = credentials
        yield system


def dialing(credentials):
    return ActorSystem(connect_ssl=credentials.connect, timeout=20.0)


async def greeted(hub, credentials):
    async with dialing(credentials) as system:
        return await (await system.connect(f"{hub.address}/desk", Desk)).greet()


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_list_that_has_expired_lets_nobody_in_until_there_is_a_newer_one(members, hub, clock, caplog):
    a = members.credentials("a")
    async with dialing(a) as system:
        desk = await system.connect(f"{hub.address}/desk", Desk)
        clock.now += 11 * DAY
        why = r"the list of revoked certificates of 'confide authority' expired on 20.*: 'a' is refused until there is one"
        with pytest.raises(ConnectFailed, match=f"refused the connection: 403 {why}"):
            await greeted(hub, a)
        (line,) = lines(caplog)
        assert line.startswith("a connection from 127.0.0.1 was refused: the list of revoked certificates of 'confide authority' expired")
        assert await desk.greet() == "hello"  # connections that are open go on
        members.authority.list_again(365)
        members.bring_list("hub")
        assert await greeted(hub, a) == "hello"


async def test_nobody_is_dialed_by_a_list_that_has_expired(members, hub, clock):
    members.authority.list_again(5)
    members.bring_list("a")
    a = members.credentials("a", clock=clock)
    assert await greeted(hub, a) == "hello"
    clock.now += 6 * DAY
    with pytest.raises(ConnectFailed, match=r"cannot be trusted: the list of revoked certificates of .* expired"):
        await greeted(hub, a)


async def test_a_damaged_list_lets_nobody_in_and_revokes_nobody_less(members, hub, tmp_path, caplog):
    file, a = members.keys("hub") / "ca.crl", members.credentials("a")
    good = file.read_bytes()
    (tmp_path / "other").mkdir()
    strange = Members(tmp_path / "other").authority.list_file.read_bytes()
    forged = bytearray(good)
    forged[len(forged) // 2] ^= 1
    async with dialing(a) as system:
        desk = await system.connect(f"{hub.address}/desk", Desk)
        for content in (strange, bytes(forged), good[:100], b"", b"nonsense"):
            file.write_bytes(content)
            with pytest.raises(ConnectFailed, match="403 the list of revoked certificates is damaged: 'a' is refused"):
                await greeted(hub, a)
            assert await desk.greet() == "hello"
            file.write_bytes(good)
            assert await greeted(hub, a) == "hello"
        file.write_bytes(b"nonsense")
        with pytest.raises(ConnectFailed, match="damaged"):
            await greeted(hub, a)
        assert any("until this list" in line and "ca.crl" in line for line in hub.credentials.concerns(days=1))
        file.unlink()  # whoever takes it away says so: the one before holds
        assert await greeted(hub, a) == "hello"
    told = [line for line in lines(caplog) if line.startswith("nobody is let in until this list of revoked certificates is a good one")]
    assert len(told) == 6  # each of them once, with the file
    assert all(str(file) in line for line in told)


async def test_a_list_is_read_whatever_is_wrong_with_the_other_files(members, hub):
    (members.keys("hub") / "hub.pem").write_bytes(b"nonsense")
    members.revoke("a", "hub")
    with pytest.raises(ConnectFailed, match="revoked on"):
        await greeted(hub, members.credentials("a"))


async def test_where_a_list_is_needed_nobody_is_let_in_without_one(members):
    file = members.keys("hub") / "ca.crl"
    file.unlink()
    credentials = members.credentials("hub", list_needed=True)
    async with ActorSystem(f"wss://{HOST}:0", ssl=credentials.listen) as system:
        await system.spawn(Desk, name="desk")
        with pytest.raises(ConnectFailed, match="there is no list of revoked certificates of 'confide authority'"):
            await greeted(system, members.credentials("a"))
        members.bring_list("hub")
        assert await greeted(system, members.credentials("a")) == "hello"


@pytest.mark.parametrize(
    ("days", "after", "says"),
    [
        (None, 0, []),
        (8, 5, []),
        (8, 7, ["expires on"]),
        (400, 380, ["expires on"]),
        (8, 9, ["expired on"]),
    ],
)
def test_what_is_warned_of_lists(members, clock, days, after, says):
    members.authority.list_again(days)
    members.bring_list("a")
    credentials = members.credentials("a", clock=clock)
    clock.now += after * DAY
    told = [line for line in credentials.concerns(days=30) if "list of revoked" in line]
    assert len(told) == len(says)
    assert all(part in line and "confide certs crl" in line for part, line in zip(says, told, strict=True))


def test_how_long_lists_may_be_used_is_kept(members):
    assert (members.authority.list_again(10) - members.now[0]).days in (9, 10)
    members.authority.revoke("a")
    (one,) = read_lists(members.authority.list_file)
    assert one.next_update_utc - one.last_update_utc == 10 * DAY
    assert members.authority.list_again(0) == members.authority.certificate.not_valid_after_utc


def test_a_list_that_has_expired_is_not_accepted(members, tmp_path):
    place, trusted = members.keys("a") / "ca.crl", [members.authority.certificate]
    before = place.read_bytes()
    members.authority.list_again(10)
    with pytest.raises(KeysError, match="expired on"):
        member_file.accept_list(members.authority.list_file, place, trusted, now=members.now[0] + 11 * DAY)
    assert place.read_bytes() == before


def test_a_good_list_takes_the_place_of_a_damaged_one(members, tmp_path):
    place, new = members.keys("a") / "ca.crl", members.authority.list_file
    place.write_bytes(b"nonsense")
    (tmp_path / "else").mkdir()
    both = [members.authority.certificate, Members(tmp_path / "else").authority.certificate]
    with pytest.raises(KeysError, match="remove it, and accept the lists of all authorities anew"):  # it may have held that of the other
        member_file.accept_list(new, place, both)
    assert place.read_bytes() == b"nonsense"
    member_file.accept_list(new, place, both[:1])
    assert members.credentials("a").revoked == 0


def test_an_authority_that_is_brought_along_goes_on_where_it_was(members, tmp_path):
    """What it has revoked stays so, and its lists are newer than those that nodes have."""
    members.revoke("a", "hub")
    old, revoked = members.authority.list_file, members.credentials("a").own.certificate
    files = (tmp_path / "authority" / "ca.pem", tmp_path / "authority" / "ca.key")
    (tmp_path / "else").mkdir()
    for wrong, says in ((Members(tmp_path / "else").authority.list_file, "none of the trusted"), (files[0], "is no list")):
        with pytest.raises(KeysError, match=says):
            Authority.create(tmp_path / "new", None, brought=Brought(*files, revoked=wrong))
    taken = Authority.create(tmp_path / "new", None, brought=Brought(*files, revoked=old))
    member_file.accept_list(taken.list_file, members.keys("hub") / "ca.crl", [taken.certificate])
    assert "was revoked" in members.credentials("hub").revocation(revoked)
    taken.add(MemberRights("c", "owner"))
    taken.revoke("c")
    lists = Revoked().updated(taken.list_file, [taken.certificate])
    assert len(lists) == 2
    assert "was revoked" in lists.reason(revoked)


def test_folders_without_a_list_still_let_in(members):
    (members.keys("hub") / "ca.crl").unlink()
    credentials = Credentials(Paths.of(members.keys("hub"), "hub"))
    assert credentials.refusal(members.credentials("a").own.certificate) == ""


async def test_a_reason_that_no_close_frame_has_room_for_is_told_all_the_same(members):
    name = "a-node-with-the-longest-name-that-the-authority-takes-0123456789"
    members.add(name, "aggregator", HOST)
    members.revoke(name, "a")
    own = members.credentials(name)
    async with ActorSystem(f"wss://{HOST}:0", ssl=own.listen) as system:
        with pytest.raises(ConnectFailed, match=f"cannot be trusted: the certificate of '{name}' was revoked on .*; its serial number is"):
            await greeted(system, members.credentials("a"))


# From one authority to another.


def trusting(members, name, *authorities):
    """Have a member trust these, as an administrator writes them into one file."""
    text = b"".join(one.certificate.public_bytes(Encoding.PEM) for one in authorities)
    (members.keys(name) / "ca.pem").write_bytes(text)


async def test_everybody_moves_to_another_authority_without_a_restart(members, hub, tmp_path, caplog):
    """Of the same name, as it happens: both are called as `confide certs init` calls them."""
    (tmp_path / "new").mkdir()
    moved = Members(tmp_path / "new")
    moved.add("a")
    moved.add("b")
    new = moved.credentials("a")
    trusting(moved, "a", members.authority, moved.authority)
    with pytest.raises(ConnectFailed, match="it was signed by an authority that is not trusted there"):
        await greeted(hub, new)
    old = members.credentials("a")
    async with dialing(old) as system:
        desk = await system.connect(f"{hub.address}/desk", Desk)
        trusting(members, "hub", members.authority, moved.authority)
        assert await greeted(hub, old) == await greeted(hub, new) == "hello"
        moved.revoke("b")
        place = members.keys("hub") / "ca.crl"
        both = [members.authority.certificate, moved.authority.certificate]
        member_file.accept_list(moved.authority.list_file, place, both)
        members.revoke("a", "hub")
        assert len(read_lists(place)) == 2  # each stays beside the other, whatever their numbers
        with pytest.raises(ConnectFailed, match="revoked on"):
            await greeted(hub, old)
        trusting(moved, "b", members.authority, moved.authority)
        with pytest.raises(ConnectFailed, match="revoked on"):
            await greeted(hub, moved.credentials("b"))
        assert await greeted(hub, new) == "hello"
    members.add("c")
    open_one = members.credentials("c")
    async with dialing(open_one) as system:
        desk = await system.connect(f"{hub.address}/desk", Desk)
        made = moved.authority.add(MemberRights("hub", "aggregator", hosts=(HOST,)))
        (members.keys("hub") / "hub.pem").write_bytes(made.certificate.public_bytes(Encoding.PEM))
        (members.keys("hub") / "hub.key").write_bytes(made.key)
        trusting(members, "hub", moved.authority)  # the list of the old one is still there
        assert await greeted(hub, new) == "hello"
        assert await desk.greet() == "hello"  # open connections go on
        trusting(members, "c", members.authority, moved.authority)
        with pytest.raises(ConnectFailed, match=r"it was signed by an authority that is not trusted there|its signature is wrong"):
            await greeted(hub, members.credentials("c"))
    assert not any("list of revoked certificates is a good one" in line for line in lines(caplog))


def test_two_authorities_of_one_name_do_not_revoke_for_each_other(members, tmp_path):
    (tmp_path / "new").mkdir()
    moved = Members(tmp_path / "new")
    moved.add("a")
    members.revoke("a")
    both = [members.authority.certificate, moved.authority.certificate]
    lists = Revoked().updated(members.authority.list_file, both)
    assert lists.reason(members.credentials("a").own.certificate)
    assert lists.reason(moved.credentials("a").own.certificate) == ""
    assert lists.doubt(moved.credentials("a").own.certificate, datetime.now(UTC), needed=True)


# What others sign.


def signed(members, *extensions, entry=(), number=7, before=0):
    key = key_file.read(members.root / "authority" / "ca.key", None)
    now = datetime.now(UTC) - before * DAY
    builder = x509.CertificateRevocationListBuilder(members.authority.certificate.subject, now, now + 9 * DAY)
    for value, critical in (*extensions, *([] if number is None else [(x509.CRLNumber(number), False)])):
        builder = builder.add_extension(value, critical=critical)
    one = x509.RevokedCertificateBuilder(5, now)
    for value, critical in entry:
        one = one.add_extension(value, critical=critical)
    return builder.add_revoked_certificate(one.build()).sign(key, None).public_bytes(Encoding.PEM)


def distributed(**options):
    defaults = {"only_contains_user_certs": False, "only_contains_ca_certs": False, "only_some_reasons": None, "indirect_crl": False}
    point = [x509.UniformResourceIdentifier("http://crl.example/1")]
    full = {"full_name": point, "relative_name": None, "only_contains_attribute_certs": False}
    return x509.IssuingDistributionPoint(**full, **{**defaults, **options})


@pytest.mark.parametrize(
    ("extensions", "entry", "whole"),
    [
        ([], [], True),
        ([(distributed(), True)], [], True),
        ([(distributed(only_contains_user_certs=True), True)], [], True),
        ([], [(x509.CRLReason(x509.ReasonFlags.key_compromise), False)], True),
        ([(x509.DeltaCRLIndicator(3), True)], [], False),
        ([(distributed(only_contains_ca_certs=True), True)], [], False),
        ([(distributed(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})), True)], [], False),
        ([(distributed(indirect_crl=True), True)], [], False),
        ([(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x"), True)], [], False),
        ([], [(x509.CertificateIssuer([x509.DirectoryName(x509.Name([]))]), True)], False),
    ],
)
def test_a_list_that_does_not_name_all_is_not_taken_for_one_that_does(members, extensions, entry, whole):
    (members.keys("hub") / "ca.crl").write_bytes(signed(members, *extensions, entry=entry))
    if whole:
        assert members.credentials("hub").revoked == 1
        return
    with pytest.raises(BadCredentials, match="a list of only some of the revoked certificates"):
        members.credentials("hub")


def test_of_lists_without_a_number_the_later_one_holds(members, caplog):
    file = members.keys("hub") / "ca.crl"
    file.write_bytes(signed(members, number=None))
    credentials = members.credentials("hub")
    file.write_bytes(signed(members, number=None, before=1))
    credentials.refresh()
    assert "it is an old one" in caplog.text


def test_a_list_whose_parts_cannot_be_read_is_found_when_it_is_read(members):
    """Found by benchmarks/fuzz: cryptography reads names and entries only when somebody asks, and raises then."""
    members.authority.list_again(10)
    members.bring_list("hub")
    path = members.keys("hub") / "ca.crl"
    der = x509.load_pem_x509_crl(path.read_bytes()).public_bytes(Encoding.DER)
    issuer = x509.load_der_x509_crl(der).issuer.public_bytes()
    text = issuer.rindex(b"\x0c")  # UTF8String
    altered = der.replace(issuer, issuer[: text + 2] + b"\xff" + issuer[text + 3 :])
    with pytest.raises(ValueError, match="error parsing asn1"):
        _ = x509.load_der_x509_crl(altered).issuer
    path.write_bytes(DER_cert_to_PEM_cert(altered).replace("CERTIFICATE", "X509 CRL").encode())
    with pytest.raises(BadCredentials, match="is no list of revoked certificates in PEM"):
        read_lists(path)
    with pytest.raises(BadCredentials, match="is no list of revoked certificates in PEM"):
        Revoked().updated(path, [])
