"""`confide certs`: an authority that is kept, its members, and what members do with what they are handed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from actors.credentials.periods import WARN_DAYS
from federated.authority.settings import DAYS, OWN_DAYS, PASSPHRASE_FILE
from federated.errors import FederatedError, KeysError
from protocols.command import console
from protocols.errors import ProtocolError

if TYPE_CHECKING:
    from cryptography import x509

    from federated.authority.authority import Authority
    from federated.authority.issuing import MemberRights
    from federated.authority.member_file import MemberFile
    from federated.authority.register import MemberEntry


class CertsGroup(TyperGroup):
    """Commands, of which the one for trials needs no name: `confide certs cluster.toml`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `click.Group.parse_args`."""
        named = args and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named else ["trial", *args])


certs = typer.Typer(
    cls=CertsGroup,
    help="Make, sign, renew and revoke the certificates by which the nodes of a cluster know each other."
    " `confide certs cluster.toml` makes all at once, for trials.",
)

Folder = Annotated[Path, typer.Option("--authority", envvar="CONFIDE_AUTHORITY", help="folder of the authority", file_okay=False)]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", envvar=PASSPHRASE_FILE, help="file with the passphrase of the authority; asked for, unless given"),
]
Days = Annotated[int, typer.Option(min=1, max=3650, help="until the certificate expires")]
ListDays = Annotated[
    int | None,
    typer.Option(
        min=1, max=3650, help="for which a list of revoked certificates may be used; as long as the authority is valid, unless given"
    ),
]
Out = Annotated[Path, typer.Option(help="folder for NAME.member.pem", file_okay=False, exists=True)]
Keys = Annotated[Path, typer.Option("--keys", help="folder with ca.pem, NAME.pem and NAME.key; is made if it is missing", file_okay=False)]
Name = Annotated[str, typer.Argument(help="of the node")]
Role = Annotated[str, typer.Option(help="server, crypto_provider, aggregator, owner, or client")]
May = Annotated[list[str] | None, typer.Option(help="of a client: ask, share; give both for both")]
Host = Annotated[list[str] | None, typer.Option(help="name or IP address that others reach it at; none: nobody connects to it")]


@certs.command()
def trial(
    cluster: Annotated[Path, typer.Argument(help="the cluster file")] = Path("cluster.toml"),
    out: Annotated[Path, typer.Option(help="folder to write to; is made if it is missing", file_okay=False)] = Path("keys"),
    days: Annotated[int, typer.Option(min=1, max=3650, help="until the certificates expire")] = DAYS,
    force: Annotated[bool, typer.Option("--force", help="replace all certificates that are there")] = False,
) -> None:
    """Make a certificate for each node of a cluster, signed by an authority whose key is then forgotten: for trials.

    Give each node ca.pem and its own two files, and no other .key file. The common name is the name of the node. Nobody can be added,
    renewed or revoked: for that make an authority that stays, confide certs init.
    """
    from federated.machines import certificates
    from federated.machines.cluster_file import ClusterFile

    try:
        hosts = ClusterFile.read(cluster).hosts
        certificates.issue(hosts, out, days=days, force=force)
    except (FederatedError, ProtocolError) as error:
        raise failed(error) from None
    table = Table("node", "files", "reached at")
    for name, host in hosts.items():
        table.add_row(name, f"ca.pem {name}.pem {name}.key", host or "(it connects to the aggregator)")
    console.print(table)
    console.print(f"{len(hosts)} certificates in {escape(str(out))}, valid for {days} days; keep each .key file on its own machine only")


@certs.command()
def init(
    authority: Folder = Path("authority"),
    passphrase_file: PassphraseFile = None,
    unencrypted: Annotated[bool, typer.Option("--unencrypted", help="keep the key without a passphrase: for trials")] = False,
    name: Annotated[str, typer.Option(help="of the authority, in its certificate")] = "confide authority",
    days: Annotated[int, typer.Option(min=1, max=36500, help="until the authority itself expires")] = OWN_DAYS,
    certificate: Annotated[Path | None, typer.Option(help="of an authority that exists, PEM", dir_okay=False)] = None,
    key: Annotated[Path | None, typer.Option(help="its key, PEM; a copy is kept, encrypted", dir_okay=False)] = None,
    key_passphrase_file: Annotated[Path | None, typer.Option(help="file with the passphrase of --key", dir_okay=False)] = None,
    revoked: Annotated[Path | None, typer.Option(help="its latest list of revoked certificates, PEM", dir_okay=False)] = None,
    list_days: ListDays = None,
) -> None:
    """Make an authority that stays: its key is kept in a folder, encrypted under a passphrase. Or take in one that your organisation has.

    Keep the folder on a machine that runs no node, and a copy of it elsewhere.
    """
    from federated.authority.authority import Authority, Brought
    from federated.authority.passphrase import new_passphrase, passphrase_in

    try:
        if (certificate is None) != (key is None):
            raise KeysError("an authority that exists is given with both --certificate and --key")
        if revoked is not None and certificate is None:
            raise KeysError("--revoked is of an authority that exists: give its --certificate and --key, too")
        brought = None
        if certificate is not None and key is not None:
            brought = Brought(certificate, key, None if key_passphrase_file is None else passphrase_in(key_passphrase_file), revoked)
        phrase = None if unencrypted else new_passphrase(passphrase_file)
        made = Authority.create(authority, phrase, name=name, days=days, brought=brought, list_days=list_days)
    except FederatedError as error:
        raise failed(error) from None
    console.print(f"the authority is in {escape(str(authority))}, until {made.certificate.not_valid_after_utc:%Y-%m-%d}")
    _print_fingerprint(made.certificate)


@certs.command()
def add(
    name: Annotated[str | None, typer.Argument(help="of the node")] = None,
    role: Annotated[str | None, typer.Option(help="server, crypto_provider, aggregator, owner, or client")] = None,
    may: May = None,
    host: Host = None,
    cluster: Annotated[Path | None, typer.Option(help="instead of a name: all nodes of this file", dir_okay=False)] = None,
    days: Days = DAYS,
    out: Out = Path(),
    authority: Folder = Path("authority"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a key and a certificate for a new member, in one file to bring to it: NAME.member.pem.

    Whoever sees that file can be that member. confide certs request and sign do without: there the key is made by the member.
    """
    from federated.authority.passphrase import opened_authority

    try:
        if (cluster is None) == (name is None and role is None):
            raise KeysError("give a name and --role, or --cluster with a cluster file")
        grants = _grants(cluster) if cluster is not None else [_grant(name or "", role or "", may, host)]
        opened = opened_authority(authority, passphrase_file)
        for grant in grants:
            _hand_out(opened.add(grant, days=days), grant, out)
    except (FederatedError, ProtocolError) as error:
        raise failed(error) from None


@certs.command()
def sign(
    name: Name,
    asked: Annotated[Path, typer.Argument(metavar="FILE.csr", help="of confide certs request, or PKCS #10 of others", dir_okay=False)],
    role: Role,
    may: May = None,
    host: Host = None,
    days: Days = DAYS,
    out: Out = Path(),
    authority: Folder = Path("authority"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Sign the key that a new member has made, in one file to bring to it: NAME.member.pem, which holds no secret.

    You say name, role and hosts. What the request asks for is shown, and counts for nothing.
    """
    from federated.authority import request
    from federated.authority.passphrase import opened_authority

    try:
        grant, read = _grant(name, role, may, host), request.read(asked)
        console.print(f"the request asks for: {escape(', '.join(request.wishes(read)) or 'nothing')}")
        _hand_out(opened_authority(authority, passphrase_file).sign(grant, read, days=days), grant, out)
    except FederatedError as error:
        raise failed(error) from None


@certs.command()
def renew(
    names: Annotated[list[str] | None, typer.Argument(help="of members")] = None,
    expiring: Annotated[int | None, typer.Option(min=1, help="instead of names: all that expire within so many days")] = None,
    asked: Annotated[Path | None, typer.Option("--request", help="a request with another key", dir_okay=False)] = None,
    days: Days = DAYS,
    out: Out = Path(),
    authority: Folder = Path("authority"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Sign the certificates of members again: the same name, role and hosts, and the same key unless a request has another one."""
    from federated.authority import request
    from federated.authority.passphrase import opened_authority

    try:
        if bool(names) == (expiring is not None) or (asked is not None and len(names or ()) != 1):
            raise KeysError("give names, or --expiring DAYS; and with --request one name")
        opened = opened_authority(authority, passphrase_file)
        read = None if asked is None else request.read(asked)
        for name in names or _expiring(opened, expiring or 0):
            _hand_out(opened.renew(name, read, days=days), None, out)
    except FederatedError as error:
        raise failed(error) from None


@certs.command()
def revoke(
    names: Annotated[list[str], typer.Argument(help="of members")],
    authority: Folder = Path("authority"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Have all certificates of members count no more: bring ca.crl to every node. Nodes read it at once, and close their connections."""
    from federated.authority.passphrase import opened_authority

    try:
        opened = opened_authority(authority, passphrase_file)
        for name in names:
            path = opened.revoke(name)
            console.print(f"{escape(name)} is revoked")
    except FederatedError as error:
        raise failed(error) from None
    console.print(f"bring {escape(str(path))} to the folder of keys of every node (confide certs accept, or copy it there)")


@certs.command()
def crl(
    days: Annotated[
        int | None, typer.Option(min=0, max=3650, help="for this list and later ones; 0: as long as the authority is valid")
    ] = None,
    authority: Folder = Path("authority"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Sign the list of revoked certificates again, before it expires: a node whose list has expired lets nobody in."""
    from federated.authority.passphrase import opened_authority

    try:
        opened = opened_authority(authority, passphrase_file)
        until = opened.list_again(days)
    except FederatedError as error:
        raise failed(error) from None
    console.print(f"bring {escape(str(opened.list_file))} to the folder of keys of every node, until {until:%Y-%m-%d %H:%M} UTC")


@certs.command(name="list")
def listing(
    authority: Folder = Path("authority"),
    json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    warn_days: Annotated[int | None, typer.Option(min=1, help="exit code 3 if one, or the list, expires within so many days")] = None,
) -> None:
    """Show what an authority has signed: who, as what, until when, and who was revoked. No passphrase is needed."""
    from federated.authority.authority import Authority

    now = datetime.now(UTC)
    try:
        opened = Authority(authority, lambda: None)
        entries, revoked = opened.entries(), opened.revoked()
    except FederatedError as error:
        raise failed(error) from None
    latest = {one.name: one for one in entries}
    if json:
        rows = [
            {
                "name": one.name,
                "role": one.role,
                "may": one.may,
                "hosts": one.hosts,
                "until": one.until,
                "state": one.state(now),
                "serial": f"{one.signed.serial_number:x}",
                "latest": latest[one.name] is one,
            }
            for one in entries
        ]
        print(msgspec.json.encode(rows).decode())
    else:
        table = Table("member", "role", "hosts", "until", "state", "serial")
        for one in entries:
            serial = f"{one.signed.serial_number:x}"[:16]
            table.add_row(one.name, str(one.grant.said), " ".join(one.hosts), f"{one.until:%Y-%m-%d}", _state(one, now), serial)
        console.print(table)
        until = "" if revoked.until is None else f", which may be used until {revoked.until:%Y-%m-%d %H:%M} UTC"
        console.print(f"{len(revoked)} on the list of revoked certificates{until}")
    if warn_days is None:
        return
    if revoked.concerns(now, days=warn_days) or any(one.revoked is None and (one.until - now).days < warn_days for one in latest.values()):
        raise typer.Exit(3)


def _state(entry: MemberEntry, now: datetime) -> str:
    left = (entry.until - now).days
    return f"valid, {left} days left" if entry.counts(now) and left < WARN_DAYS else entry.state(now)


@certs.command(name="request")
def ask(
    name: Name,
    host: Host = None,
    new_key: Annotated[bool, typer.Option("--new-key", help="make another key; it is used once its certificate has come")] = False,
    keys: Keys = Path("keys"),
) -> None:
    """At a member: make a key, which stays here, and a request to bring to the authority: NAME.csr, which holds no secret."""
    from federated.authority import request

    try:
        path = request.make(keys, name, hosts=host or (), new_key=new_key)
    except FederatedError as error:
        raise failed(error) from None
    console.print(
        f"bring {escape(str(path))} to the authority; it signs it with: confide certs sign {escape(name)} {path.name} --role ROLE"
    )


@certs.command()
def accept(
    files: Annotated[list[Path], typer.Argument(help="NAME.member.pem, or ca.crl", dir_okay=False)],
    keys: Keys = Path("keys"),
) -> None:
    """At a member: put what the authority has handed out into the folder of keys. Nodes that run take it from there, without a restart."""
    from federated.authority import member_file

    try:
        for path in files:
            if path.suffix == ".crl":
                _accept_list(path, keys)
                continue
            found = member_file.accept(path, keys)
            console.print(f"{escape(found.name)} has its certificate until {found.certificate.not_valid_after_utc:%Y-%m-%d}")
            _print_fingerprint(found.authority)
    except FederatedError as error:
        raise failed(error) from None


def _accept_list(path: Path, keys: Path) -> None:
    from cryptography import x509

    from actors.credentials.revocation import Revoked
    from federated.authority import member_file

    try:
        trusted = x509.load_pem_x509_certificates((keys / "ca.pem").read_bytes())
        member_file.accept_list(path, keys / "ca.crl", trusted, now=datetime.now(UTC))
    except (OSError, ValueError) as error:
        raise KeysError(f"{keys} has no ca.pem, or cannot be written: {type(error).__name__}") from None
    until = Revoked().updated(keys / "ca.crl", trusted).until
    when = "" if until is None else f", until {until:%Y-%m-%d %H:%M} UTC"
    console.print(f"the list of revoked certificates is in {escape(str(keys / 'ca.crl'))}{when}")


def _grants(path: Path) -> list[MemberRights]:
    from federated.authority.issuing import MemberRights
    from federated.machines.cluster_file import ClientNode, ClusterFile

    cluster = ClusterFile.read(path)
    hosts = {name: () if host is None else (host,) for name, host in cluster.hosts.items()}
    return [
        MemberRights(name, str(node.__struct_config__.tag), node.may if isinstance(node, ClientNode) else (), hosts[name])
        for name, node in cluster.nodes.items()
    ]


def _grant(name: str, role: str, may: list[str] | None, host: list[str] | None) -> MemberRights:
    from federated.authority.issuing import MemberRights

    return MemberRights(name, role, tuple(may or ()), tuple(host or ()))


def _hand_out(made: MemberFile, grant: MemberRights | None, out: Path) -> None:
    try:
        path = made.write(out)
    except OSError as error:
        raise KeysError(f"{out} cannot be written: {error.strerror}") from None
    granted = "" if grant is None else f" as {grant.said}{f' at {chr(32).join(grant.hosts)}' if grant.hosts else ''}"
    secret = "; it holds its key: show it to nobody else" if made.key is not None else ""
    until = f"{made.certificate.not_valid_after_utc:%Y-%m-%d}"
    console.print(f"{escape(made.name)}{escape(granted)} until {until}: bring it {escape(str(path))}{secret}")


def _expiring(authority: Authority, days: int) -> list[str]:
    now = datetime.now(UTC)
    latest = {one.name: one for one in authority.entries()}
    return [name for name, one in latest.items() if one.revoked is None and (one.until - now).days < days]


def _print_fingerprint(certificate: x509.Certificate) -> None:
    from federated.authority import member_file

    console.print(f"SHA-256 of the authority, to compare by telephone: {member_file.fingerprint(certificate)}")


def failed(error: Exception) -> typer.Exit:
    """Show an error in a line; returns what ends the command with exit code 1."""
    Console(stderr=True, soft_wrap=True).print(f"[red]{escape(str(error))}[/]")
    return typer.Exit(1)
