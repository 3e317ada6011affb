"""How workers on one machine learn which cluster they belong to: from a process of their own user, once.

Workers of several machines know it from `cluster.toml`, and take no message about it.
"""

from __future__ import annotations

from actors import Actor, message
from actors.address import Address
from actors.identity.published import reached
from protocols.authority.membership import ADMINISTRATOR, Member, Membership, Trio
from protocols.errors import ClusterError

ENROLMENT = "enrolment"
"""The name of the actor."""


class Enrolment(Actor):
    """Takes the addresses of the three workers.

    Args:
        cluster: of this worker.
    """

    def __init__(self, cluster: Membership) -> None:
        self._cluster = cluster

    @message(by=ADMINISTRATOR)
    async def join(self, addresses: tuple[str, str, str]) -> None:
        """Belong to the cluster of these workers, as long as this worker runs.

        Args:
            addresses: ws:// urls on loopback, in the order of the cluster; one is that of this worker.

        Raises:
            ClusterError: this worker belongs to another cluster, or these cannot be one of this machine.
            BadAddress: one is no address.
        """
        parsed = [Address.parse(address) for address in addresses]
        if not all(one.loopback and not one.secure for one in parsed):
            raise ClusterError(
                "a worker is told of others on its own machine only (ws:// on loopback): workers of several machines are started with"
                " the same cluster.toml, confide run NAME"
            )
        urls, own = [reached(one) for one in parsed], reached(Address.parse(self.system.address))
        if len(set(urls)) != 3 or own not in urls:
            raise ClusterError(f"three different workers are needed, and one of them is {own}, this one")
        first, second, third = (Member(url) for url in urls)
        self._cluster.enrol(Trio((first, second, third), urls.index(own)))
