"""Who is let in at all, of those whose certificates the authority has signed: `[admission]` in cluster.toml.

[admission]
members = "listed"       # the nodes of this file only; "authority", as without this line: whoever has a certificate
roles = "required"       # certificates that say no role are refused; "optional": they are what they were before there were roles
revocation = "required"  # as long as a node has no list of revoked certificates, it lets nobody in; "optional": nobody was revoked then

It is looked at for each new connection, by who dials as by who is dialed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from actors.guard.words import NAME_LIMIT, shown
from actors.identity.caller import common_name
from protocols.authority.certified import WORKERS, certified


class AdmissionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a cluster file demands of certificates; see above."""

    members: Literal["authority", "listed"] = "authority"
    roles: Literal["optional", "required"] = "optional"
    revocation: Literal["optional", "required"] = "optional"

    @property
    def list_needed(self) -> bool:
        """Whether nobody is let in without a list of revoked certificates."""
        return self.revocation == "required"

    @property
    def roles_needed(self) -> bool:
        """Whether a certificate gives nothing but what the role in it says."""
        return self.roles == "required"

    def refusal(self, certificate: bytes, listed: Mapping[str, str]) -> str:
        """Return why the holder of a certificate is refused; empty: it is not.

        Args:
            certificate: DER, that the authority has signed and not revoked.
            listed: name of each node of the file -> its role there.
        """
        name, said = common_name(certificate), certified(certificate)
        called = repr(shown(name, NAME_LIMIT))
        if said is None and self.roles_needed:
            return f"the certificate of {called} says no role, and this cluster demands one: its authority has to sign another"
        if said is not None and self.roles_needed and not said.role:
            return f"the certificate of {called} says a role that is not known here"
        if name not in listed:
            return f"no node of this cluster is called {called}, and it lets in no others" if self.members == "listed" else ""
        role = listed[name]
        if said is not None and said.role != role and (role == "aggregator" or role in WORKERS) and not {role, said.role} <= WORKERS:
            return f"the certificate of {called} is for the role {said}, and in this cluster it is the {role.replace('_', ' ')}"
        return ""
