"""`confide certs` as a person uses it: one command and one file for one more hospital; and what is said of what goes wrong."""

import json
import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from typer.testing import CliRunner

from actors.credentials.files import Credentials, Paths
from federated.authority import key_file
from federated.command import app
from protocols.authority.certified import certified
from protocols.storage.replacement import replace

CLUSTER = """
[nodes.hub]
role = "aggregator"
address = "wss://hub.example:9000"
federation = "hospitals:federation"
rounds = 1

[nodes.ward-1]
role = "owner"
data = "hospitals:data"

[nodes.analyst]
role = "client"
may = ["ask"]
"""


@pytest.fixture
def confide(tmp_path, monkeypatch):
    """Runs `confide certs` in a folder with a passphrase; gives its exit code and what it prints."""
    replace(tmp_path / "passphrase", b"correct horse battery\n", mode=0o600)
    (tmp_path / "cluster.toml").write_text(CLUSTER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(key_file, "N", 1 << 8)  # what is written costs less to open; `test_authority.py` has the real figures
    monkeypatch.setenv("COLUMNS", "220")
    monkeypatch.setenv("CONFIDE_AUTHORITY_PASSPHRASE_FILE", str(tmp_path / "passphrase"))

    def run(*arguments):
        result = CliRunner().invoke(app, ["certs", *arguments], catch_exceptions=False)
        return result.exit_code, result.output

    return run


def done(result):
    code, out = result
    assert code == 0, out
    return out


def test_a_cluster_and_one_more_hospital(confide, tmp_path):
    made = done(confide("init"))
    done(confide("add", "--cluster", "cluster.toml"))
    roles = {}
    for name in ("hub", "ward-1", "analyst"):
        told = done(confide("accept", f"{name}.member.pem", "--keys", f"{name}/keys"))
        assert told.splitlines()[-1] == made.splitlines()[-1]  # the fingerprint of the authority, to compare
        credentials = Credentials(Paths.of(tmp_path / name / "keys", name))
        roles[name] = str(certified(credentials.own.certificate))
    assert roles == {"hub": "aggregator", "ward-1": "owner", "analyst": "client (ask)"}

    done(confide("request", "ward-9", "--keys", "ward-9/keys"))  # at the hospital
    out = done(confide("sign", "ward-9", "ward-9/keys/ward-9.csr", "--role", "owner"))  # at the authority
    assert "the request asks for: name 'ward-9'" in out
    assert "ward-9 as owner until" in out
    assert b"PRIVATE KEY" not in (tmp_path / "ward-9.member.pem").read_bytes()
    done(confide("accept", "ward-9.member.pem", "--keys", "ward-9/keys"))  # at the hospital
    assert Credentials(Paths.of(tmp_path / "ward-9" / "keys", "ward-9")).own.name == "ward-9"

    code, out = confide("list", "--warn-days", "30")
    assert code == 0
    assert all(name in out for name in ("hub.example", "ward-9", "client (ask)"))
    done(confide("renew", "ward-1", "--days", "10"))
    assert confide("list", "--warn-days", "30")[0] == 3
    out = done(confide("renew", "--expiring", "30"))
    assert out.count("bring it") == 1
    assert "ward-1 until" in out
    assert confide("list", "--warn-days", "30")[0] == 0
    done(confide("revoke", "ward-9"))
    done(confide("accept", "authority/ca.crl", "--keys", "hub/keys"))
    hub = Credentials(Paths.of(tmp_path / "hub" / "keys", "hub"))
    revoked = Credentials(Paths.of(tmp_path / "ward-9" / "keys", "ward-9"))
    assert "'ward-9' was revoked" in hub.revocation(revoked.own.certificate)
    rows = json.loads(done(confide("list", "--json")))
    assert [(row["name"], row["state"].split()[0]) for row in rows if row["latest"]] == [
        ("hub", "valid"),
        ("analyst", "valid"),
        ("ward-9", "revoked"),
        ("ward-1", "valid"),
    ]


def test_who_holds_the_authority_may_leave_out_nothing_and_is_told_in_one_line(confide, tmp_path, monkeypatch):
    done(confide("init"))
    replace(tmp_path / "wrong", b"another horse battery", mode=0o600)
    replace(tmp_path / "open", b"correct horse battery", mode=0o644)
    replace(tmp_path / "short", b"short", mode=0o600)
    for arguments, says in (
        (["init"], "authority is there already"),
        (["init", "--authority", "b", "--passphrase-file", "short"], "5 characters: at least 12"),
        (["init", "--authority", "b", "--certificate", "cluster.toml"], "both --certificate and --key"),
        (["add"], "give a name and --role, or --cluster"),
        (["add", "a"], "there is no role ''"),
        (["add", "a", "--role", "king"], "there is no role 'king'; there are server,"),
        (["add", "a", "--role", "client"], "has to be told which"),
        (["add", "a", "--role", "owner", "--passphrase-file", "wrong"], "the passphrase is wrong"),
        (["add", "a", "--role", "owner", "--passphrase-file", "open"], "open has mode 0644"),
        (["add", "a", "--role", "owner", "--authority", "nowhere"], "confide certs init makes one"),
        (["sign", "a", "cluster.toml", "--role", "owner"], "is no request in PEM"),
        (["renew"], "give names, or --expiring DAYS"),
        (["renew", "a"], "signed nothing for 'a'; it has for nobody"),
        (["revoke", "a"], "signed nothing for 'a'"),
        (["accept", "cluster.toml"], "has 0 certificates"),
        (["accept", "authority/ca.crl"], "has no ca.pem"),
        (["list", "--authority", "nowhere"], "confide certs init makes one"),
    ):
        code, out = confide(*arguments)
        assert code == 1, (arguments, out)
        assert says in out
        assert len(out.splitlines()) == 1, out
        assert "horse" not in out
    assert sorted(path.name for path in (tmp_path / "authority").iterdir()) == [".lock", "ca.crl", "ca.key", "ca.pem", "register.json"]
    monkeypatch.delenv("CONFIDE_AUTHORITY_PASSPHRASE_FILE")
    code, out = confide("add", "a", "--role", "owner")
    assert code == 1
    assert "nobody can be asked for the passphrase here" in out


def test_an_authority_that_is_brought_along(confide, tmp_path):
    done(confide("init", "--authority", "organisation", "--name", "The Organisation"))
    code, out = confide("init", "--certificate", "organisation/ca.pem", "--key", "organisation/ca.key")
    assert code == 1
    assert "is encrypted: a passphrase is needed" in out
    files = ["--certificate", "organisation/ca.pem", "--key", "organisation/ca.key", "--key-passphrase-file", "passphrase"]
    done(confide("init", *files, "--unencrypted"))
    authority = x509.load_pem_x509_certificate((tmp_path / "authority" / "ca.pem").read_bytes())
    assert authority.subject.rfc4514_string() == "CN=The Organisation"
    done(confide("add", "a", "--role", "owner"))
    assert stat.S_IMODE((tmp_path / "a.member.pem").stat().st_mode) == 0o600


def test_lists_that_expire_are_signed_again(confide, tmp_path):
    done(confide("init", "--list-days", "30"))
    done(confide("add", "a", "--role", "owner"))
    done(confide("accept", "a.member.pem"))
    done(confide("add", "b", "--role", "owner"))
    done(confide("revoke", "b"))
    out = done(confide("crl"))
    assert f"until {datetime.now(UTC) + timedelta(days=30):%Y-%m-%d}" in out
    assert f"until {datetime.now(UTC) + timedelta(days=30):%Y-%m-%d}" in done(confide("accept", "authority/ca.crl"))
    assert f"until {datetime.now(UTC) + timedelta(days=2):%Y-%m-%d}" in done(confide("crl", "--days", "2"))
    told = f"1 on the list of revoked certificates, which may be used until {datetime.now(UTC) + timedelta(days=2):%Y-%m-%d}"
    assert told in done(confide("list", "--warn-days", "30"))
    (tmp_path / "authority" / "ca.crl").write_text("nonsense")
    code, out = confide("list")
    assert (code, "is no list of revoked certificates in PEM; confide certs crl signs it anew" in out) == (1, True)
    done(confide("crl"))
    assert told in done(confide("list"))
    files = ["--certificate", "authority/ca.pem", "--key", "authority/ca.key", "--key-passphrase-file", "passphrase"]
    done(confide("init", "--authority", "moved", *files, "--revoked", "authority/ca.crl"))
    done(confide("accept", "moved/ca.crl"))
    assert Credentials(Paths.of(tmp_path / "keys", "a")).revoked == 1
    code, out = confide("init", "--authority", "third", "--revoked", "authority/ca.crl")
    assert (code, "--revoked is of an authority that exists" in out) == (1, True)


def test_certificates_for_trials_are_made_as_before(confide, tmp_path):
    for arguments in ((), ("cluster.toml", "--out", "other", "--days", "30"), ("--force",), ("trial", "--force")):
        assert "3 certificates in" in done(confide(*arguments))
    assert sorted(path.name for path in (tmp_path / "other").glob("*.key")) == ["analyst.key", "hub.key", "ward-1.key"]
