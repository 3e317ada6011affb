"""An authority that is kept: who can use it, what it grants, what a crash and several at once leave, what it takes in."""

import base64
import os
import shutil
import stat
import subprocess
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from actors.credentials.files import Credentials, Paths
from federated.authority import issuing, key_file, member_file, private_files, request
from federated.authority.authority import Authority, Brought
from federated.authority.issuing import MemberRights
from federated.errors import KeysError
from protocols.authority.certified import Certified, certified
from protocols.authority.membership import rights_of_member
from protocols.storage import replacement

NOW = datetime(2026, 6, 1, tzinfo=UTC)
PHRASE = "correct horse battery staple"


def created(folder, phrase=None, **options):
    return Authority.create(folder / "authority", phrase, **options)


def der(certificate):
    return certificate.public_bytes(Encoding.DER)


def named(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


# Who can use it.


def test_the_key_is_encrypted_and_a_wrong_passphrase_opens_nothing(tmp_path):
    created(tmp_path, PHRASE).add(MemberRights("a", "owner"))
    file = tmp_path / "authority" / "ca.key"
    content = file.read_bytes()
    key = key_file.read(file, PHRASE)
    assert key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())[-32:] not in content
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in content
    for wrong in (PHRASE + "!", PHRASE[:-1], "x" * 40):
        with pytest.raises(KeysError, match="the passphrase is wrong") as refused:
            Authority(tmp_path / "authority", lambda wrong=wrong: wrong).add(MemberRights("b", "owner"))
        assert wrong not in str(refused.value)
    for nothing in (None, ""):
        with pytest.raises(KeysError, match="a passphrase is needed"):
            Authority(tmp_path / "authority", lambda nothing=nothing: nothing).revoke("a")
    assert [one.name for one in Authority(tmp_path / "authority", lambda: None).entries()] == ["a"]  # to look takes none


@pytest.mark.parametrize("make", [Ed25519PrivateKey.generate, lambda: ec.generate_private_key(ec.SECP384R1())])
def test_encrypted_keys_are_those_of_the_standard(tmp_path, make):
    """scrypt with N = 2^14, r = 8, p = 5: openssl opens what is written here."""
    key, file = make(), tmp_path / "ca.key"
    replacement.replace(file, key_file.pem(key, PHRASE), mode=0o600)
    plain = subprocess.run(["openssl", "pkey", "-in", file, "-passin", f"pass:{PHRASE}"], capture_output=True, check=True).stdout
    assert serialization.load_pem_private_key(plain, None).public_key() == key.public_key() == key_file.read(file, PHRASE).public_key()
    parsed = subprocess.run(["openssl", "asn1parse", "-in", file], capture_output=True, text=True, check=True).stdout
    assert "scrypt" in parsed
    assert [line.rpartition(":")[2] for line in parsed.splitlines() if "INTEGER" in line] == ["4000", "08", "05"]


def test_short_passphrases_are_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(KeysError, match="11 characters: at least 12"):
        created(tmp_path, "x" * 11)
    assert list(tmp_path.iterdir()) == []


def test_who_may_read_what(tmp_path):
    created(tmp_path).add(MemberRights("a", "owner")).write(tmp_path)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "authority").iterdir()}
    assert modes == {"ca.key": 0o600, "ca.pem": 0o644, "ca.crl": 0o644, "register.json": 0o600, ".lock": 0o600}
    assert stat.S_IMODE((tmp_path / "authority").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a.member.pem").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
def test_a_key_that_others_can_read_or_write_is_not_used(tmp_path, mode):
    authority = created(tmp_path)
    (tmp_path / "authority" / "ca.key").chmod(mode)
    with pytest.raises(KeysError, match=f"has mode {mode:04o} .* with mode 0600"):
        authority.add(MemberRights("a", "owner"))


def test_links_are_not_followed(tmp_path):
    authority = created(tmp_path)
    key = tmp_path / "authority" / "ca.key"
    key.rename(tmp_path / "elsewhere.key")
    key.symlink_to(tmp_path / "elsewhere.key")
    with pytest.raises(KeysError, match="is a link, and has to be a file"):
        authority.add(MemberRights("a", "owner"))
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(KeysError, match="is there already"):
        Authority.create(tmp_path / "link", None)
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "out.pem").symlink_to(precious)
    replacement.replace(tmp_path / "out.pem", b"new", mode=0o600)
    assert precious.read_text() == "precious"
    assert not (tmp_path / "out.pem").is_symlink()
    (tmp_path / "authority" / ".lock").unlink(missing_ok=True)
    (tmp_path / "authority" / ".lock").symlink_to(precious)
    with pytest.raises(KeysError, match="cannot be used"), private_files.locked(tmp_path / "authority"):
        pass


# What it grants.


def greedy(name="ward-9", key=None):
    """A request for everything."""
    wanted = [x509.DNSName("hub.example"), x509.UniformResourceIdentifier("urn:confide:role:server")]
    builder = x509.CertificateSigningRequestBuilder(named(name)).add_extension(x509.SubjectAlternativeName(wanted), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    usage = x509.KeyUsage(True, True, True, True, True, True, True, False, False)
    return builder.add_extension(usage, critical=True).sign(key or Ed25519PrivateKey.generate(), None)


def test_only_the_key_is_taken_from_a_request(tmp_path):
    asked = greedy()
    signed = created(tmp_path).sign(MemberRights("ward-9", "client", may=("ask",)), asked).certificate
    assert signed.public_key() == asked.public_key()
    assert certified(der(signed)) == Certified("client", frozenset({"ask"}))
    found = signed.extensions
    assert not found.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not found.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    names = found.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == names.get_values_for_type(x509.IPAddress) == []
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["urn:confide:role:client", "urn:confide:may:ask"]
    wishes = request.wishes(asked)
    assert "UniformResourceIdentifier 'urn:confide:role:server'" in wishes
    assert "extension 2.5.29.19" in wishes  # basic constraints


def test_requests_that_are_not_signed(tmp_path):
    authority = created(tmp_path)
    with pytest.raises(KeysError, match="in the name of 'ward-8', and you say 'ward-9'"):
        authority.sign(MemberRights("ward-9", "owner"), greedy("ward-8"))
    weak = x509.CertificateSigningRequestBuilder(named("w")).sign(rsa.generate_private_key(65537, 1024), hashes.SHA256())
    with pytest.raises(KeysError, match="RSA of 2048 bits"):
        authority.sign(MemberRights("w", "owner"), weak)
    good = bytearray(greedy().public_bytes(Encoding.DER))
    good[-1] ^= 1  # of the signature: whoever sends it does not have the key
    (tmp_path / "forged.csr").write_bytes(x509.load_der_x509_csr(bytes(good)).public_bytes(Encoding.PEM))
    with pytest.raises(KeysError, match="may not have that key"):
        request.read(tmp_path / "forged.csr")
    (tmp_path / "text.csr").write_text("hello")
    with pytest.raises(KeysError, match="no request in PEM"):
        request.read(tmp_path / "text.csr")

    asked = greedy().public_bytes(Encoding.DER)
    other = asked.replace(b"\x02\x01\x00", b"\x02\x01\x07", 1)  # of a version that there is not
    assert other != asked
    lines = base64.encodebytes(other)
    (tmp_path / "later.csr").write_bytes(b"-----BEGIN CERTIFICATE REQUEST-----\n" + lines + b"-----END CERTIFICATE REQUEST-----\n")
    with pytest.raises(KeysError, match="no request in PEM"):
        request.read(tmp_path / "later.csr")
    assert authority.entries() == ()


@pytest.mark.parametrize(
    ("grant", "says"),
    [
        ({"name": "a", "role": "admin"}, "no role 'admin'"),
        ({"name": "a", "role": ""}, "no role ''"),
        ({"name": "a", "role": "client"}, "has to be told which"),
        ({"name": "a", "role": "owner", "may": ("ask",)}, "other roles say all themselves"),
        ({"name": "a", "role": "client", "may": ("everything",)}, "a client may share or ask"),
        ({"name": "ca", "role": "owner"}, "is no name for a member"),
        ({"name": "../a", "role": "owner"}, "is no name for a member"),
        ({"name": "a" * 65, "role": "owner"}, "is no name for a member"),
        ({"name": "a", "role": "owner", "hosts": ("bücher.example",)}, "no host name"),
    ],
)
def test_what_cannot_be_granted(grant, says):
    with pytest.raises(KeysError, match=says):
        MemberRights(**grant)


def test_whoever_reads_metrics_has_a_certificate_that_says_so_and_nothing_more():
    """As docs/observability.md has it: `[nodes.eye]`, a client that may "watch"."""
    eye = MemberRights("eye", "client", ("watch",))
    assert str(eye.said) == "client (watch)"
    assert rights_of_member(eye.said) == frozenset()


def test_a_name_belongs_to_one_member(tmp_path):
    authority = created(tmp_path)
    authority.add(MemberRights("julia", "server", hosts=("127.0.0.1",)))
    for again in (MemberRights("julia", "owner"), MemberRights("julia", "server")):
        with pytest.raises(KeysError, match="julia has a certificate as server until"):
            authority.add(again)
        with pytest.raises(KeysError, match="julia has a certificate as server until"):
            authority.sign(again, greedy("julia"))
    authority.revoke("julia")
    assert certified(der(authority.add(MemberRights("julia", "owner")).certificate)).role == "owner"


def test_no_member_outlives_the_authority(tmp_path):
    authority = created(tmp_path, days=100, clock=lambda: NOW)
    assert authority.add(MemberRights("a", "owner"), days=365).certificate.not_valid_after_utc == NOW + timedelta(days=100)
    late = Authority(tmp_path / "authority", lambda: None, clock=lambda: NOW + timedelta(days=101))
    with pytest.raises(KeysError, match="the authority itself expired on 2026-09-09"):
        late.add(MemberRights("b", "owner"))
    with pytest.raises(KeysError, match="0 days"):
        authority.add(MemberRights("b", "owner"), days=0)


def test_renewing(tmp_path):
    time = [NOW]
    authority = created(tmp_path, clock=lambda: time[0])
    first = authority.add(MemberRights("a", "client", ("share",), ("a.example",)), days=10)
    time[0] += timedelta(days=20)  # it has expired
    second = authority.renew("a", days=30)
    assert second.certificate.public_key() == first.certificate.public_key()
    assert second.certificate.not_valid_after_utc == NOW + timedelta(days=50)
    assert second.certificate.serial_number != first.certificate.serial_number
    assert second.key is None
    asked = greedy("a")
    third = authority.renew("a", asked)
    assert third.certificate.public_key() == asked.public_key()
    alike = {der_names(one.certificate) for one in (first, second, third)}
    assert len(alike) == 1  # role and hosts are those of the first
    authority.revoke("a")
    with pytest.raises(KeysError, match="a was revoked on 2026-06-21: what was revoked is not renewed"):
        authority.renew("a")
    with pytest.raises(KeysError, match="signed nothing for 'b'; it has for a"):
        authority.renew("b")


def der_names(certificate):
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.public_bytes()


def test_revoking_covers_all_certificates_of_a_member_that_count(tmp_path):
    authority = created(tmp_path)
    serials = {made.certificate.serial_number for made in (authority.add(MemberRights("a", "owner")), authority.renew("a"))}
    other = authority.add(MemberRights("b", "owner")).certificate.serial_number
    found = x509.load_pem_x509_crl(authority.revoke("a").read_bytes())
    assert {one.serial_number for one in found} == serials
    assert found.is_signature_valid(authority.certificate.public_key())
    assert other not in serials
    with pytest.raises(KeysError, match="signed nothing for 'c'"):
        authority.revoke("c")


# Several at once, and crashes.


def test_several_at_once(tmp_path):
    folder = created(tmp_path)._folder

    def add(i):
        try:
            return Authority(folder, lambda: None).add(MemberRights("same" if i % 2 else f"w{i}", "owner")).certificate.serial_number
        except KeysError as error:
            assert "same has a certificate" in str(error)  # noqa: PT017
            return None

    with ThreadPoolExecutor(8) as pool:
        serials = [one for one in pool.map(add, range(32)) if one is not None]
        assert len(set(serials)) == len(serials) == 17
        assert sorted(one.signed.serial_number for one in Authority(folder, lambda: None).entries()) == sorted(serials)
        list(pool.map(lambda i: Authority(folder, lambda: None).revoke(f"w{i}"), range(0, 32, 2)))
    found = x509.load_pem_x509_crl((folder / "ca.crl").read_bytes())
    assert len(list(found)) == 16
    assert found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 17


def killed(work, at: int) -> bool:
    """Do something in a process that is killed when it would put its file number `at` into place; whether it came so far."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of other tests: the child uses none of theirs
        pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    count, replace, rename = [0], os.replace, os.rename

    def counting(move):
        def moved(*places):
            if count[0] == at:
                os._exit(9)
            count[0] += 1
            return move(*places)

        return moved

    os.replace, os.rename = counting(replace), counting(rename)
    os.rename = os.rename
    try:
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


def each_kill(work, check):
    """Kill it at each file in turn, until it is no more reached."""
    at = 0
    while killed(work, at):
        check(at)
        at += 1
        assert at < 20
    return at


def test_a_crash_while_it_is_made_leaves_nothing_or_all(tmp_path):
    def check(at):
        assert not (tmp_path / "authority").exists()

    assert each_kill(lambda: created(tmp_path), check) == 5
    Authority(tmp_path / "authority", lambda: None).add(MemberRights("a", "owner"))


def usable(keys, name="a"):
    credentials = Credentials(Paths.of(keys, name))
    return credentials.own.certificate


def test_a_crash_while_a_certificate_is_replaced_leaves_the_old_or_the_new_one(tmp_path):
    authority, keys = created(tmp_path), tmp_path / "keys"
    member_file.accept(authority.add(MemberRights("a", "owner")).write(tmp_path), keys)
    old = usable(keys)
    for new_key in (False, True):
        before = usable(keys)
        if new_key:
            request.make(keys, "a", new_key=True)
            assert usable(keys) == before  # the key that is to come is not used yet
        asked = request.read(request.make(keys, "a", new_key=True)) if new_key else None
        new = authority.renew("a", asked)
        file = new.write(tmp_path)
        kept = tmp_path / f"kept-{new_key}"

        def check(at, before=before, new=new, kept=kept):
            assert usable(keys) in (before, der(new.certificate))
            shutil.copytree(keys, kept, dirs_exist_ok=True)

        assert each_kill(lambda file=file: member_file.accept(file, keys), check) >= 2
        member_file.accept(file, keys)
        assert usable(keys) == der(new.certificate)
        assert not (keys / "a.next.key").exists()
    assert usable(keys) != old


def test_a_crash_while_an_authority_signs_or_revokes(tmp_path):
    authority, keys = created(tmp_path), tmp_path / "keys"
    member_file.accept(authority.add(MemberRights("a", "owner")).write(tmp_path), keys)
    folder = tmp_path / "authority"

    def check(at):
        assert Authority(folder, lambda: None).entries()[0].name == "a"

    each_kill(lambda: Authority(folder, lambda: None).renew("a").write(tmp_path), check)
    assert killed(lambda: Authority(folder, lambda: None).revoke("a"), 1)  # after the register, before the list
    assert Authority(folder, lambda: None).entries()[0].revoked is not None
    assert not list(x509.load_pem_x509_crl((folder / "ca.crl").read_bytes()))
    Authority(folder, lambda: None).add(MemberRights("b", "owner"))  # whatever is done next makes up for it
    assert list(x509.load_pem_x509_crl((folder / "ca.crl").read_bytes()))


def test_a_damaged_register(tmp_path):
    created(tmp_path)
    (tmp_path / "authority" / "register.json").write_text("{")
    with pytest.raises(KeysError, match=r"register\.json is damaged"):
        Authority(tmp_path / "authority", lambda: None)
    with pytest.raises(KeysError, match="is no folder of an authority"):
        Authority(tmp_path / "other", lambda: None)


# Authorities that exist.


def brought(folder, key, *, ca=True, signs_lists=True, until=NOW + timedelta(days=30), above=None, phrase=None):
    """An organisation's authority, perhaps below another one."""
    issuer, signing = (named("organisation"), key) if above is None else above
    hash_ = None if isinstance(signing, Ed25519PrivateKey) else hashes.SHA256()
    usage = x509.KeyUsage(False, False, False, False, False, True, signs_lists, False, False)
    made = (
        x509.CertificateBuilder(issuer, named("organisation"), key.public_key(), 7, NOW - timedelta(days=99), until)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(signing, hash_)
    )
    (folder / "org.pem").write_bytes(made.public_bytes(Encoding.PEM))
    encryption = NoEncryption() if phrase is None else serialization.BestAvailableEncryption(phrase.encode())
    replacement.replace(folder / "org.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), mode=0o600)
    return Brought(folder / "org.pem", folder / "org.key", phrase)


KEYS = {
    "ed25519": Ed25519PrivateKey.generate,
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("below", [False, True])
def test_an_authority_of_the_organisation(tmp_path, kind, below):
    above = (named("root of all"), Ed25519PrivateKey.generate()) if below else None
    existing = brought(tmp_path, KEYS[kind](), above=above, phrase="of their own")
    authority = created(tmp_path, PHRASE, brought=existing, clock=lambda: NOW)
    made = authority.add(MemberRights("a", "owner", hosts=("127.0.0.1",)))
    assert made.certificate.not_valid_after_utc == NOW + timedelta(days=30)
    member_file.accept(made.write(tmp_path), tmp_path / "keys")
    authority.revoke("a")
    member_file.accept_list(authority.list_file, tmp_path / "keys" / "ca.crl", [authority.certificate])
    credentials = Credentials(Paths.of(tmp_path / "keys", "a"))
    assert "the certificate of 'a' was revoked" in credentials.revocation(credentials.own.certificate)
    assert b"of their own" not in (tmp_path / "authority" / "ca.key").read_bytes()
    assert key_file.read(tmp_path / "authority" / "ca.key", PHRASE).public_key() == authority.certificate.public_key()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ca": False}, "may not sign both"),
        ({"signs_lists": False}, "may not sign both"),
        ({"until": NOW - timedelta(days=1)}, "expired on 2026-05-31"),
    ],
)
def test_what_is_no_authority_is_not_taken_in(tmp_path, options, says):
    existing = brought(tmp_path, Ed25519PrivateKey.generate(), **options)
    with pytest.raises(KeysError, match=says):
        created(tmp_path, brought=existing, clock=lambda: NOW)
    assert not (tmp_path / "authority").exists()


def test_a_key_of_somebody_else_is_not_taken_in(tmp_path):
    existing = brought(tmp_path, Ed25519PrivateKey.generate())
    replacement.replace(existing.key, key_file.pem(Ed25519PrivateKey.generate(), None), mode=0o600)
    with pytest.raises(KeysError, match="is not that of"):
        created(tmp_path, brought=existing, clock=lambda: NOW)
    (tmp_path / "authority").mkdir()
    with pytest.raises(KeysError, match="is there already"):
        created(tmp_path)


# At the member.


def test_a_key_never_leaves_the_member_that_asks(tmp_path):
    authority, keys = created(tmp_path), tmp_path / "keys"
    file = request.make(keys, "w", hosts=["w.example"])
    private = (keys / "w.key").read_bytes()
    made = authority.sign(MemberRights("w", "owner"), request.read(file))
    assert made.key is None
    handed = made.write(tmp_path)
    for brought_along in (file, handed):
        assert b"PRIVATE" not in brought_along.read_bytes()
    member_file.accept(handed, keys)
    assert (keys / "w.key").read_bytes() == private
    assert sorted(path.name for path in keys.iterdir()) == [".lock", "ca.crl", "ca.pem", "w.csr", "w.key", "w.pem"]
    with pytest.raises(KeysError, match="is for another key than"):
        member_file.accept(handed, tmp_path / "elsewhere")


def test_files_of_another_authority_or_damaged_ones_change_nothing(tmp_path):
    keys = tmp_path / "keys"
    member_file.accept(created(tmp_path).add(MemberRights("a", "owner")).write(tmp_path), keys)
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    (tmp_path / "other").mkdir()
    strange = created(tmp_path / "other").add(MemberRights("a", "owner"))
    with pytest.raises(KeysError, match=r"comes from the authority .* trusts another one"):
        member_file.accept(strange.write(tmp_path / "other"), keys)
    mixed = member_file.MemberFile(member_file.read(tmp_path / "a.member.pem").certificate, strange.authority, strange.revoked)
    with pytest.raises(KeysError, match="has not signed"):
        member_file.accept(mixed.write(tmp_path), keys)
    for content in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" * 2):
        (tmp_path / "bad.member.pem").write_bytes(content)
        with pytest.raises(KeysError, match=r"bad\.member\.pem"):
            member_file.accept(tmp_path / "bad.member.pem", keys)
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before


def test_an_older_list_does_not_come_back(tmp_path):
    authority, keys = created(tmp_path), tmp_path / "keys"
    old = authority.add(MemberRights("a", "owner")).write(tmp_path)
    authority.add(MemberRights("b", "owner"))
    member_file.accept(old, keys)
    first = authority.list_file.read_bytes()
    member_file.accept_list(authority.revoke("b"), keys / "ca.crl", [authority.certificate])
    newest = (keys / "ca.crl").read_bytes()
    (tmp_path / "first.crl").write_bytes(first)
    with pytest.raises(member_file.OldList, match=r"has list 1, and .* has list 2 already"):
        member_file.accept_list(tmp_path / "first.crl", keys / "ca.crl", [authority.certificate])
    member_file.accept(old, keys)  # the list in it is the first, too
    assert (keys / "ca.crl").read_bytes() == newest


def test_what_certificates_say(tmp_path):
    """One role, and what a client may; anything else gives no right."""
    key = Ed25519PrivateKey.generate()
    authority = issuing.own_certificate(key, "x", now=NOW, days=9)

    def said(*uris):
        names = [x509.UniformResourceIdentifier(one) for one in uris]
        builder = x509.CertificateBuilder(authority.subject, named("n"), key.public_key(), 5, NOW, NOW + timedelta(days=1))
        return certified(der((builder.add_extension(x509.SubjectAlternativeName(names), False) if names else builder).sign(key, None)))

    assert said() is None
    assert said("https://example.org") is None
    assert said("urn:confide:role:owner") == Certified("owner")
    assert said("urn:confide:role:client", "urn:confide:may:ask") == Certified("client", frozenset({"ask"}))
    for odd in (
        ["urn:confide:role:king"],
        ["urn:confide:role:owner", "urn:confide:role:server"],
        ["urn:confide:may:ask"],
        ["urn:confide:role:owner", "urn:confide:may:ask"],
        ["urn:confide:role:owner", "urn:confide:since:2030"],
        ["urn:confide:role:client", "urn:confide:may:rule"],
        ["urn:confide:"],
    ):
        assert said(*odd) == Certified("")
    assert certified(None) is None
