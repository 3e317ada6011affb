"""Who a client is, for a worker that counts what each client gets."""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.oid import NameOID

from actors import ActorSystem
from protocols.errors import NotServed
from protocols.presence import Presence


def client_name(system: ActorSystem, presence: Presence | None) -> str:
    """The common name in the certificate of the connection by which a client has sent its presence.

    A worker whose TLS demands certificates lets nobody in without one, so every client has a name that its authority has signed.
    Otherwise those who show none are told apart by nothing: their common name is empty, and they are one client.

    Args:
        system: of the worker.
        presence: of the client, of a system that does not listen, so that it is reached over this very connection.

    Raises:
        NotServed: no presence was sent.
        MessageRejected: it leads elsewhere.
    """
    if presence is None:
        raise NotServed("the answers of this model are counted for each client; send the presence of the one who asks")
    certificate = system.certificate(presence)
    return "" if certificate is None else common_name(certificate)


def common_name(certificate: bytes) -> str:
    """The common name in a certificate (DER); empty if there is not exactly one."""
    names = x509.load_der_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""
